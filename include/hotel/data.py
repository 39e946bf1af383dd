"""A hotel's data, as much as is wanted, and the same for the same seed.

The server makes the rows itself, table after table, by `INSERT … SELECT`; indexes and foreign keys are put aside
and built anew at the end of the same transaction. Measured on two busy cores with a million bookings, that table alone:
COPY of a file that is ready takes 3.5 s, and Python would still have to write the file; INSERT … SELECT takes 4.7 s
with the making of the rows. What decides is the ten indexes: kept up row by row they cost 58 s under COPY and 100 s
under INSERT, built at the end 8 s.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.errors import MaintenanceError
from include.hotel.data_sql import PREPARATIONS, TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import psycopg

    from include.postgres.dsn import Dsn

BOOKINGS_AT_SCALE_1 = 10_000
# The data's own present. Real time would make tomorrow's data differ from today's.
NOW = dt.datetime(2025, 11, 1, 12, tzinfo=dt.UTC)
TODAY = NOW.date()
FIRST_NIGHT = dt.date(2023, 11, 1)
OPENING = dt.datetime(2022, 11, 1, tzinfo=dt.UTC)

_SESSION = {
    "TimeZone": "UTC",  # a date turned into a timestamp is midnight in the session's zone
    "lock_timeout": "10s",
    "jit": "off",
    "work_mem": "256MB",
    "temp_buffers": "128MB",
    "maintenance_work_mem": "256MB",
}

# Indexes first: a foreign key is checked faster where the index is there again.
_SET_ASIDE = """
SELECT drop_it, create_it
FROM (
    SELECT 1 AS step, indexrelid AS oid, 'DROP INDEX ' || indexrelid::regclass AS drop_it,
        pg_get_indexdef(indexrelid) AS create_it
    FROM pg_index
    WHERE indrelid = ANY (%(tables)s::regclass[])
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    UNION ALL
    SELECT 2, oid, format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname),
        format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint
    WHERE contype = 'f' AND conrelid = ANY (%(tables)s::regclass[])
) AS aside
ORDER BY step, oid
"""


@dataclass(frozen=True, kw_only=True)
class GenerationReport:
    """What was loaded.

    Args:
        scale: 1 is 10,000 bookings.
        seed: what the data was made from.
        rows: rows per table, in the order of loading.
        seconds: from the first statement to the commit.
    """

    scale: float
    seed: int
    rows: Mapping[str, int]
    seconds: float


def generate(
    dsn: Dsn, *, scale: float, seed: int = 1, progress: Callable[[str, int], None] | None = None
) -> GenerationReport:
    """Fill an empty, migrated hotel database in one transaction: it holds everything afterwards, or nothing.

    Args:
        dsn: the database; its role must own the hotel's tables.
        scale: 1 is 10,000 bookings, with all that belongs to them. Beyond 10 the chain grows by further houses.
        seed: the same seed and scale give the same rows, in the same order, on every machine.
        progress: called after each step with its name (a table, `indexes`, `statistics`) and how many rows,
            indexes and constraints, or tables it dealt with.

    Raises:
        ValueError: the scale is not above zero.
        MaintenanceError: the hotel's tables are not there, hold rows already, or are in use by others.
        psycopg.OperationalError: the server is not there, refuses, or went away.
    """
    import psycopg

    parameters = _parameters(scale, seed)
    report = progress or (lambda _step, _count: None)
    started = time.monotonic()
    try:
        with dsn.connect(autocommit=False) as connection, psycopg.ClientCursor(connection) as cursor:
            rows = _load(cursor, parameters, report)
    except psycopg.errors.UndefinedTable as error:
        raise MaintenanceError(
            f"the database {dsn} has no hotel schema: {error.diag.message_primary}",
            untouched="nothing was written",
            remedy="bring the schema to its newest revision first, then load the data again",
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise MaintenanceError(
            f"the hotel's tables in {dsn} are in use: no exclusive lock within {_SESSION['lock_timeout']}",
            untouched="nothing was written",
            remedy="wait until the other session is done (pg_stat_activity names it), then load the data again",
            transient=True,
        ) from error
    return GenerationReport(scale=scale, seed=seed, rows=rows, seconds=time.monotonic() - started)


def _parameters(scale: float, seed: int) -> dict[str, Any]:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale is {scale!r}; it must be above zero: 1 stands for 10,000 bookings")
    bookings = max(1, round(BOOKINGS_AT_SCALE_1 * scale))
    houses = math.ceil(scale / 10)
    return {
        "seed": seed,
        "bookings": bookings,
        "users": max(10, bookings // 4),
        "houses": houses,
        # A unit yields about 175 bookings: enough units for a few more than are wanted.
        "units": math.ceil(bookings / houses / 165),
        # 912 nights at 3.2 a slot, with slots to spare for a unit of many short stays.
        "slots": 340,
        "first": FIRST_NIGHT,
        "today": TODAY,
        "now": NOW,
        "opening": OPENING,
        "open_seconds": int((NOW - OPENING).total_seconds()),
    }


def _load(
    cursor: psycopg.ClientCursor[tuple[Any, ...]],
    parameters: Mapping[str, Any],
    report: Callable[[str, int], None],
) -> dict[str, int]:
    from psycopg import sql

    for name, value in _SESSION.items():
        cursor.execute("SELECT set_config(%s, %s, true)", [name, value])
    tables = [sql.Identifier(table) for table in TABLES]
    # Exclusive from the start: two loads at once would both find the tables empty.
    cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(tables)))
    _refuse_rows(cursor)
    restore = _set_aside(cursor)
    for statement in PREPARATIONS:
        cursor.execute(statement, parameters)
    rows = {}
    for table, fill in TABLES.items():
        cursor.execute(fill, parameters)
        rows[table] = cursor.rowcount
        # Not setval(): RESTART is undone with the transaction.
        cursor.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN id RESTART WITH {}").format(
                sql.Identifier(table), sql.Literal(cursor.rowcount + 1)
            )
        )
        report(table, rows[table])
    # Before the foreign keys are checked: without statistics the server picks slow joins for that.
    cursor.execute(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(tables)))
    report("statistics", len(tables))
    for create in restore:
        cursor.execute(create)
    report("indexes", len(restore))
    return rows


def _refuse_rows(cursor: psycopg.ClientCursor[tuple[Any, ...]]) -> None:
    from psycopg import sql

    for table in TABLES:
        cursor.execute(sql.SQL("SELECT FROM {} LIMIT 1").format(sql.Identifier(table)))
        if cursor.rowcount:
            raise MaintenanceError(
                f"{cursor.connection.info.dbname}: the table {table} holds rows already",
                untouched="nothing was written, no row was removed",
                remedy="load into a new database; this software never empties a table that holds data",
            )


def _set_aside(cursor: psycopg.ClientCursor[tuple[Any, ...]]) -> list[bytes]:
    """Drop the hotel's foreign keys and every index that no constraint owns.

    Returns:
        the statements that build them again, word for word as the server describes them.
    """
    cursor.execute(_SET_ASIDE, {"tables": list(TABLES)})
    found = cursor.fetchall()
    for drop, _create in found:
        cursor.execute(drop.encode())
    return [create.encode() for _drop, create in found]
