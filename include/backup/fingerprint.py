"""Fingerprints of tables: what a restored copy must show again, row for row.

The hash of a table is the sum of a 64-bit hash of each row, so it does not depend on the order of rows, and a row that
is changed, missing or doubled changes it. Two ways to hash a row:

- `hash_record`: a hash of `hash_record_extended(row, 0)`, about twice as fast; its values are promised only within one
  major version, and every column's type must have a hash function.
- `text`: `hashtextextended(row::text, 0)` for the other tables.

The columns stand in the order of their names, because pg_dump may write an inheritance child's in another order. Enums
and the reg* types are hashed by an oid, which a restored copy has another of: they, and with them every type that is
not PostgreSQL's own, are hashed as text. So is text whose collation takes different strings for equal: its hash is of
ICU's sort key, which is another one in another version of ICU.

Source: PostgreSQL's `src/backend/utils/adt/rowtypes.c` (hash_record_extended, 14 and later), `hashfunc.c` (hashenum).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql

from include.backup.model import TableFingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from include.backup.source import Table

Method = Literal["hash_record", "text"]

# The text of a row must not depend on the session that reads it.
SESSION_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET lc_monetary = 'C'",
    "SET search_path = pg_catalog",
    "SET row_security = off",
)

_COLUMNS = """
    SELECT a.attname, a.atttypid < 16384 AND t.typname !~ '^_?reg' AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_collation c WHERE c.oid = a.attcollation AND NOT c.collisdeterministic)
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = pg_catalog.format('%%I.%%I', %s::text, %s::text)::regclass
      AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY 1
"""  # 16384 is FirstNormalObjectId: types below it came with PostgreSQL
# hash_record_extended is a weighted sum of the columns' hashes: without another hash around it, values that change
# places between two rows would not change the table's sum.
_HASH_RECORD = (
    "SELECT count(*), sum(hashtextextended(hash_record_extended(ROW({columns}), 0)::text, 0))::text FROM ONLY {table}"
)
_HASH_TEXT = "SELECT count(*), sum(hashtextextended(ROW({columns})::text, 0))::text FROM ONLY {table}"
_COUNT = "SELECT count(*), NULL FROM ONLY {table}"


def fingerprint(
    connection: psycopg.Connection[tuple[Any, ...]],
    tables: Iterable[Table],
    *,
    hashes: bool,
    progress: Callable[[Table], None] | None = None,
) -> tuple[TableFingerprint, ...]:
    """Count, and where wanted hash, the rows of each table as the connection's open transaction sees them.

    Args:
        connection: in a transaction, with SESSION_SETTINGS made.
        tables: what to read.
        hashes: False counts only.
        progress: told each table when it is done.

    Raises:
        psycopg.Error: the server refused or went away.
    """
    results = []
    for table in tables:
        results.append(_one(connection, table, hashes=hashes))
        if progress is not None:
            progress(table)
    return tuple(results)


def fingerprint_by(
    connection: psycopg.Connection[tuple[Any, ...]], table: Table, method: Method | None
) -> TableFingerprint:
    """One table's fingerprint by a given method, so that it can be compared with one that was made earlier.

    Args:
        connection: in a transaction, with SESSION_SETTINGS made.
        table: what to read.
        method: as in the fingerprint to compare with; None counts only.

    Raises:
        psycopg.errors.UndefinedFunction: a column's type has no hash function, for `hash_record`.
        psycopg.Error: the server refused or went away.
    """
    query = {None: _COUNT, "hash_record": _HASH_RECORD, "text": _HASH_TEXT}[method]
    columns = sql.SQL("") if method is None else _columns(connection, table)
    rows, row_hash = _ask(connection, query, table, columns)
    return TableFingerprint(
        oid=table.oid,
        schema_name=table.schema_name,
        name=table.name,
        rows=rows,
        row_hash="0" if method is not None and rows == 0 else row_hash,
        method=method,
        hash_partition_of=table.hash_partition_of,
    )


def _one(connection: psycopg.Connection[tuple[Any, ...]], table: Table, *, hashes: bool) -> TableFingerprint:
    if not hashes:
        return fingerprint_by(connection, table, None)
    try:
        # A type without a hash function is an error at the first row; the savepoint keeps the snapshot.
        with connection.transaction():
            return fingerprint_by(connection, table, "hash_record")
    except psycopg.errors.UndefinedFunction:
        return fingerprint_by(connection, table, "text")


def _columns(connection: psycopg.Connection[tuple[Any, ...]], table: Table) -> sql.Composed:
    found = connection.execute(_COLUMNS, (table.schema_name, table.name)).fetchall()
    return sql.SQL(", ").join(
        # A plain ::text would run a cast that a user of the database made, with the rights of the backup's role.
        sql.Identifier(name) if same_after_restore else sql.SQL("ROW({})::text").format(sql.Identifier(name))
        for name, same_after_restore in found
    )


def _ask(
    connection: psycopg.Connection[tuple[Any, ...]], query: str, table: Table, columns: sql.Composable
) -> tuple[int, str | None]:
    name = sql.Identifier(table.schema_name, table.name)
    row = connection.execute(sql.SQL(query).format(table=name, columns=columns)).fetchone()
    if row is None:
        raise AssertionError(query)
    return row[0], row[1]
