"""What can be known before a dump starts, so that it fails in a second and names everything at once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from humanize import naturalsize

from include.backup import source
from include.backup.catalog import read_catalog
from include.backup.dump import EXPECTED_SHARE
from include.errors import MaintenanceError
from include.postgres import tools as client

if TYPE_CHECKING:
    from include.backup.options import DumpOptions
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn

# Room asked for beyond the expected size: a database grows between two backups.
_GROWTH = 1.2
_SHOWN_OBJECTS = 50


@dataclass(frozen=True)
class Preflight:
    """What was found.

    Args:
        server: version of the server.
        pg_dump: version of the tools that will dump.
        expected_bytes: of the archive, by the newest backup's size or else by the database's.
        warnings: what an operator should know although the dump can go on.
    """

    server: str
    pg_dump: str
    expected_bytes: int
    warnings: tuple[str, ...]


def preflight(dsn: Dsn, store: Store, *, database: str, options: DumpOptions) -> Preflight:
    """Check that the database can be dumped whole and that the store will take it.

    Raises:
        MaintenanceError: unreachable, no fitting tools, objects the role may not read (each is named), a store that
            refuses or has too little room. Nothing was written.
    """
    with source.connect(dsn, database=database) as connection:
        server = source.identity(connection)
        tools = client.choose(server.major, options.archive.compression, database=database)
        if objects := source.unreadable(connection):
            raise _unreadable(database, dsn.user, objects)
        by_size = int(source.database_bytes(connection) * EXPECTED_SHARE)
        pooled = source.behind_pooler(connection)
    store.check_writable()
    catalog = read_catalog(store, database)
    expected = catalog.entries[-1].manifest.bytes if catalog.entries else by_size
    _require_room(database, store.url, store.free_bytes(), expected)
    if options.archive.staging is not None:
        _require_staging(database, Path(options.archive.staging), expected)
    warnings = [f"{key} cannot be understood: {reason}" for key, reason in catalog.unreadable]
    if pooled:
        warnings.append(
            "a connection pooler answers in the server's place; it must work in session mode, or the dump's snapshot "
            "and settings are lost: better connect to the server itself"
        )
    return Preflight(server.version, tools.version, expected, tuple(warnings))


def _unreadable(database: str, role: str, objects: tuple[source.Unreadable, ...]) -> MaintenanceError:
    named = "; ".join(str(item) for item in objects[:_SHOWN_OBJECTS])
    more = f"; and {len(objects) - _SHOWN_OBJECTS} more" if len(objects) > _SHOWN_OBJECTS else ""
    return MaintenanceError(
        f"the role {role} cannot read {len(objects)} object(s): {named}{more}",
        database=database,
        untouched="nothing was written, earlier backups are as they were",
        remedy=f'GRANT pg_read_all_data TO "{role}" covers tables and sequences; row-level security needs '
        f'ALTER ROLE "{role}" BYPASSRLS; large objects need GRANT SELECT ON LARGE OBJECT',
    )


def _require_room(database: str, where: str, free: int | None, expected: int) -> None:
    needed = int(expected * _GROWTH)
    if free is not None and free < needed:
        raise MaintenanceError(
            f"{where} has {naturalsize(free, binary=True)} free, "
            f"a backup is expected to take {naturalsize(needed, binary=True)}",
            database=database,
            untouched="nothing was written, earlier backups are as they were",
            remedy="make room there, or lower the numbers under `retention` and run `python -m include.cli prune`",
        )


def _require_staging(database: str, staging: Path, expected: int) -> None:
    if not staging.is_dir():
        raise MaintenanceError(
            f"the staging folder {staging} does not exist",
            database=database,
            untouched="nothing was written",
            remedy="create it on every machine that runs tasks, or set archive.format to custom",
        )
    _require_room(database, str(staging), shutil.disk_usage(staging).free, expected)
