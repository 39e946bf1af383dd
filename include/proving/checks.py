"""All comparisons of one restored copy with what its backup's snapshot held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import psycopg

from include.errors import MaintenanceError
from include.postgres import tools as client
from include.proving import schema_dump
from include.proving.compare import (
    compare_large_objects,
    compare_revision,
    compare_roles,
    compare_row_hashes,
    compare_rows,
    judged,
)
from include.proving.definitions import ArchivedSchema
from include.proving.objects import OBJECT_CHECKS, compare_objects
from include.proving.readings import ask_smoke_queries, read_copy, read_schema
from include.proving.restore import restore_into
from include.proving.sequences import compare_sequences
from include.proving.session import server_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from include.backup.certificate import Check
    from include.backup.inventory import Inventory
    from include.backup.model import Manifest
    from include.postgres.dsn import Dsn
    from include.postgres.tools import ClientTools
    from include.proving.archive_run import Progress
    from include.proving.options import ProofOptions
    from include.proving.readings import Readings


class Restored(Protocol):
    """A database that was restored from an archive which is still on disk; `include.proving.copies.Copy` is one."""

    @property
    def dsn(self) -> Dsn:
        """The restored database, and the role that restored it."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Of the backup it was restored from."""
        ...

    @property
    def archive(self) -> Path:
        """The archive on disk, decrypted."""
        ...

    @property
    def tools(self) -> ClientTools:
        """The tools that restored it."""
        ...


def checks_of(
    restored: Restored,
    inventory: Inventory | None,
    *,
    empty_database: Callable[[], AbstractContextManager[Dsn]],
    options: ProofOptions,
    jobs: int = 2,
    progress: Progress = lambda _what, _done, _total: None,
) -> tuple[Check, ...]:
    """Compare a restored database with its backup's manifest and inventory. Nothing in it is changed.

    Args:
        restored: the database, its manifest and archive.
        inventory: what the snapshot held besides rows; None for a backup made without one.
        empty_database: a new database on the same server, gone when its block ends; the archive's schema alone is
            restored there, to tell a changed definition from one that the server only writes differently.
        options: the smoke queries.
        jobs: tables read at the same time.
        progress: told `tables compared`, how many are done, and of how many.

    Raises:
        MaintenanceError: the server could not be asked; nothing can be said about the backup then.
    """
    manifest = restored.manifest
    hashes = inventory is not None and inventory.large_objects.hash is not None
    try:
        readings = read_copy(restored.dsn, manifest, jobs=jobs, hashes=hashes, progress=progress)
        same_major = readings.server.major == manifest.server.major
        with empty_database() as empty:
            schema_checks = _schema_checks(restored, inventory, readings, empty, jobs=jobs)
        smoke = ask_smoke_queries(restored.dsn, options)
    except psycopg.Error as error:
        raise server_error(
            f"the restored copy of {manifest.id} could not be compared", error, database=manifest.database
        ) from error
    return (
        compare_rows(manifest.tables, readings.tables),
        compare_row_hashes(manifest.tables, readings.tables, same_major=same_major, promised=hashes),
        *_inventory_checks(inventory, readings),
        *schema_checks,
        compare_roles(
            manifest,
            roles=readings.contents.roles,
            owners=readings.contents.owners,
            restored_by=restored.dsn.user,
        ),
        compare_revision(manifest, readings.contents.schema_revision),
        smoke,
    )


def _inventory_checks(inventory: Inventory | None, readings: Readings) -> tuple[Check, ...]:
    if inventory is None:
        return tuple(_without_inventory(name) for name in ("sequences", "large objects"))
    return (
        compare_sequences(inventory.sequences, readings.sequences),
        compare_large_objects(inventory.large_objects, readings.large_objects),
    )


def _schema_checks(
    restored: Restored, inventory: Inventory | None, readings: Readings, empty: Dsn, *, jobs: int
) -> tuple[Check, ...]:
    """Everything that the archive's schema, restored by itself into an empty database, is needed for."""
    restore_into(empty, restored.archive, restored.manifest, jobs=jobs, schema_only=True)
    objects = (
        tuple(_without_inventory(name) for name in OBJECT_CHECKS)
        if inventory is None
        else compare_objects(
            inventory,
            readings.objects,
            schema_only=read_schema(empty),
            archived=ArchivedSchema(schema_dump.schema_in(restored.archive, restored.tools)),
            same_major=readings.server.major == restored.manifest.server.major,
        )
    )
    return (*objects, _schema_dump(restored, empty, major=readings.server.major))


def _schema_dump(restored: Restored, empty: Dsn, *, major: int) -> Check:
    """The copy's schema dump against that of its archive's schema alone: no line may differ."""
    name = "schema dump"
    try:
        tools = client.choose(major, "none", database=restored.manifest.database)
        lines = schema_dump.differing_lines(
            schema_dump.schema_of(empty, tools), schema_dump.schema_of(restored.dsn, tools)
        )
    except schema_dump.SchemaDumpError as error:
        return judged(name, "the schemas could not be dumped", unchecked=[str(error)])
    except MaintenanceError as error:
        return judged(name, "the schemas could not be dumped", unchecked=[f"{error.what}: {error.remedy}"])
    return judged(name, f"{len(lines)} lines differ from the archive's own schema", differs=lines)


def _without_inventory(name: str) -> Check:
    return judged(name, "nothing to compare with", unchecked=["the backup was made without an inventory"])
