"""What a restored copy is asked, all in one snapshot: rows and hashes, schema, sequences, revision, smoke queries."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from include.backup import inventory, source
from include.backup.fingerprint import SESSION_SETTINGS, fingerprint_by
from include.proving.compare import judged
from include.proving.sequences import SequenceReading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from include.backup.certificate import Check
    from include.backup.fingerprint import Method
    from include.backup.inventory import LargeObjects, SchemaObject
    from include.backup.model import Manifest, ServerIdentity, TableFingerprint
    from include.postgres.dsn import Dsn
    from include.proving.archive_run import Progress
    from include.proving.options import ProofOptions, SmokeQuery

    Connection = psycopg.Connection[tuple[Any, ...]]

_OWNED_COLUMNS = """
    SELECT sn.nspname, s.relname, tn.nspname, t.relname, a.attname
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
    JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
    JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
      AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
"""


@dataclass(frozen=True)
class Readings:
    """A restored copy's own words.

    Args:
        server: which server it is on.
        tables: fingerprints by name, each by the manifest's method; a text says why one could not be read.
        objects: of the schema.
        sequences: by schema and name, or why they could not be read.
        large_objects: all together, or why they could not be read.
        contents: tables, extensions, roles, revision.
    """

    server: ServerIdentity
    tables: Mapping[str, TableFingerprint | str]
    objects: tuple[SchemaObject, ...]
    sequences: Mapping[tuple[str, str], SequenceReading] | str
    large_objects: LargeObjects | str
    contents: source.Contents


def read_copy(dsn: Dsn, manifest: Manifest, *, jobs: int, hashes: bool, progress: Progress) -> Readings:
    """Ask a restored database everything that its backup's records can answer.

    Args:
        dsn: the copy.
        manifest: says by which method each table is hashed, and where the applied revision stands.
        jobs: sessions that read tables at the same time, all in one snapshot.
        hashes: whether large objects are hashed.
        progress: told `tables compared`, how many are done, and of how many; from several threads, one at a time.

    Raises:
        psycopg.Error: the server refused or went away.
    """
    with _session(dsn) as connection:
        server = source.identity(connection)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        snapshot = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
        contents = source.contents(connection, revision_table=manifest.revision_table)
        work = _plan(contents.tables, manifest, same_major=server.major == manifest.server.major)
        count = _Count(work.qsize(), progress)
        with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="compare") as pool:
            workers = [pool.submit(_hash_tables, dsn, str(snapshot and snapshot[0]), work, count) for _ in range(jobs)]
            try:
                objects = inventory.take_objects(connection)
                sequences = _sequences(connection, dsn)
                large_objects = _large_objects(connection, dsn, hashes=hashes)
                tables = {name: reading for worker in workers for name, reading in worker.result().items()}
            except BaseException:
                with suppress(queue.Empty):
                    while True:  # each session ends with the table that it is reading
                        work.get_nowait()
                raise
        connection.rollback()
    return Readings(
        server=server,
        tables=tables,
        objects=objects,
        sequences=sequences,
        large_objects=large_objects,
        contents=contents,
    )


def read_schema(dsn: Dsn) -> tuple[SchemaObject, ...]:
    """The objects of a database's schema.

    Raises:
        psycopg.Error: the server refused or went away.
    """
    with _session(dsn) as connection, connection.transaction():
        return inventory.take_objects(connection)


@contextmanager
def _session(dsn: Dsn) -> Iterator[Connection]:
    """A session that reads as the fingerprints of the source were read, without any limit of time."""
    with dsn.connect() as connection:
        for setting in SESSION_SETTINGS:
            connection.execute(setting.encode())
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(f"SET {limit} = 0".encode())
        if connection.info.server_version >= 170000:
            connection.execute("SET transaction_timeout = 0")
        yield connection


def _plan(
    tables: Iterable[source.Table], manifest: Manifest, *, same_major: bool
) -> queue.SimpleQueue[tuple[source.Table, Method | None]]:
    """Which table is to be hashed how, the largest first, so that no session ends long after the others."""
    wanted = {(table.schema_name, table.name): table for table in manifest.tables}
    by_text = {table.hash_partition_of for table in manifest.tables if table.method == "text"} - {None}
    work = []
    for table in tables:
        expected = wanted.get((table.schema_name, table.name))
        method = expected.method if expected else None
        if expected and expected.hash_partition_of in by_text:
            method = "text"  # an empty partition's hash was made without asking whether its rows could be hashed
        if method == "hash_record" and not same_major:
            method = None
        work.append((expected.rows or 0 if expected else 0, table, method))
    tasks: queue.SimpleQueue[tuple[source.Table, Method | None]] = queue.SimpleQueue()
    for _, table, method in sorted(work, key=lambda one: -one[0]):
        tasks.put((table, method))
    return tasks


class _Count:
    """How many tables are done, told by several threads."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._counting = threading.Lock()
        self._done = 0

    def one_more(self) -> None:
        with self._counting:
            self._done += 1
            self._progress("tables compared", self._done, self._total)


def _hash_tables(
    dsn: Dsn, snapshot: str, work: queue.SimpleQueue[tuple[source.Table, Method | None]], count: _Count
) -> dict[str, TableFingerprint | str]:
    results: dict[str, TableFingerprint | str] = {}
    with _session(dsn) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
        while True:
            try:
                table, method = work.get_nowait()
            except queue.Empty:
                connection.rollback()
                return results
            results[f"{table.schema_name}.{table.name}"] = _hash_table(connection, dsn, table, method)
            count.one_more()


def _hash_table(connection: Connection, dsn: Dsn, table: source.Table, method: Method | None) -> TableFingerprint | str:
    try:
        with connection.transaction():
            return fingerprint_by(connection, table, method)
    except psycopg.errors.InsufficientPrivilege as error:
        return _no_right(dsn, error)
    except psycopg.errors.UndefinedFunction:
        return fingerprint_by(connection, table, None)


def _large_objects(connection: Connection, dsn: Dsn, *, hashes: bool) -> LargeObjects | str:
    try:
        with connection.transaction():
            return inventory.take_large_objects(connection, hashes=hashes)
    except psycopg.errors.InsufficientPrivilege as error:
        return _no_right(dsn, error)


def _sequences(connection: Connection, dsn: Dsn) -> dict[tuple[str, str], SequenceReading] | str:
    try:
        with connection.transaction():
            windows = inventory.take_sequences(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        return _no_right(dsn, error)
    owners = {(row[0], row[1]): row[2:] for row in connection.execute(_OWNED_COLUMNS.encode()).fetchall()}
    readings = {}
    for window in windows:
        key = (window.schema_name, window.name)
        furthest = _furthest(connection, *owners[key], largest=window.increment > 0) if key in owners else None
        readings[key] = SequenceReading(next_value=window.before, furthest=furthest)
    return readings


def _no_right(dsn: Dsn, error: psycopg.Error) -> str:
    return (
        f"role {dsn.user} may not read all of it ({error.diag.message_primary}); on the server of the copy, "
        f'ALTER ROLE "{dsn.user}" BYPASSRLS helps against row-level security, membership in the owner otherwise'
    )


def _furthest(connection: Connection, schema: str, table: str, column: str, *, largest: bool) -> int | None:
    query = sql.SQL("SELECT {}({}) FROM {}").format(
        sql.SQL("max" if largest else "min"), sql.Identifier(column), sql.Identifier(schema, table)
    )
    try:
        with connection.transaction():
            row = connection.execute(query).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None  # the table's own line says that it may not be read
    return row[0] if row else None


def ask_smoke_queries(dsn: Dsn, options: ProofOptions) -> Check:
    """Ask the operator's own questions, each in a read-only transaction; only names and outcomes are kept.

    A question that ends with an error or takes too long has not been answered: nothing is held against the backup.

    Raises:
        psycopg.OperationalError: the server went away.
    """
    differs, unchecked = [], []
    for question in options.smoke_queries:
        try:
            answer = _ask(dsn, question, seconds=options.smoke_timeout_seconds)
        except psycopg.errors.QueryCanceled:
            unchecked.append(f"{question.name}: no answer within {options.smoke_timeout_seconds} s")
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate.startswith("57"):
                raise
            # Not its message, which may hold what stands in a row.
            unchecked.append(f"{question.name}: ended with {type(error).__name__} (SQLSTATE {error.sqlstate})")
        else:
            if answer is not True:
                differs.append(f"{question.name}: the answer is not true")
    held = f"{len(options.smoke_queries)} asked" if options.smoke_queries else "none are configured"
    return judged("smoke queries", held, differs=differs, unchecked=unchecked)


def _ask(dsn: Dsn, question: SmokeQuery, *, seconds: int) -> object:
    with dsn.connect() as connection:
        connection.execute(f"SET statement_timeout = '{seconds}s'".encode())
        connection.execute("BEGIN READ ONLY")
        # In binary because only that protocol refuses a second statement after the first.
        row = connection.execute(question.sql.encode(), binary=True).fetchone()
        connection.rollback()
    return row[0] if row else None
