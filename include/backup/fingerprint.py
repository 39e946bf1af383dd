"""Fingerprints of tables: what a restored copy must show again, row for row.

The hash of a table is the sum of a 64-bit hash of each row, so it does not depend on the order of rows, and a row that
is changed, missing or doubled changes it. Two ways to hash a row:

- `hash_record`: `hash_record_extended(row, 0)`, about three times as fast; its values are promised only within one
  major version, and every column's type must have a hash function.
- `text`: `hashtextextended(row::text, 0)` for the other tables.

Source: PostgreSQL's `src/backend/utils/adt/rowtypes.c` (hash_record_extended, 14 and later) and `hashfunc.c`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql

from include.backup.model import TableFingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from include.backup.source import Table

# The text of a row must not depend on the session that reads it.
SESSION_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET search_path = pg_catalog",
    "SET row_security = off",
)

_HASH_RECORD = "SELECT count(*), sum(hash_record_extended(whole_row.*, 0))::text FROM ONLY {} AS whole_row"
_HASH_TEXT = "SELECT count(*), sum(hashtextextended((whole_row.*)::text, 0))::text FROM ONLY {} AS whole_row"
_COUNT = "SELECT count(*), NULL FROM ONLY {}"


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


def _one(connection: psycopg.Connection[tuple[Any, ...]], table: Table, *, hashes: bool) -> TableFingerprint:
    method: Literal["hash_record", "text"] | None = None
    if hashes:
        try:
            # A type without a hash function is an error at the first row; the savepoint keeps the snapshot.
            with connection.transaction():
                rows, row_hash = _ask(connection, _HASH_RECORD, table)
                method = "hash_record"
        except psycopg.errors.UndefinedFunction:
            rows, row_hash = _ask(connection, _HASH_TEXT, table)
            method = "text"
    else:
        rows, row_hash = _ask(connection, _COUNT, table)
    return TableFingerprint(
        oid=table.oid,
        schema_name=table.schema_name,
        name=table.name,
        rows=rows,
        row_hash="0" if hashes and rows == 0 else row_hash,
        method=method,
    )


def _ask(connection: psycopg.Connection[tuple[Any, ...]], query: str, table: Table) -> tuple[int, str | None]:
    name = sql.Identifier(table.schema_name, table.name)
    row = connection.execute(sql.SQL(query).format(name)).fetchone()
    if row is None:
        raise AssertionError(query)
    return row[0], row[1]
