"""`backup`, `backups` and `verify`: making backups, listing them, reading them back."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from include.backup.model import Tier
from include.cli.common import (
    AsJson,
    Databases,
    DatabasesInStore,
    StoreUrl,
    failure_shown,
    parsed,
    read_entries,
    scope,
)
from include.cli.output import err, moving, print_backups

if TYPE_CHECKING:
    from include.backup.model import BackupId
    from include.backup.stores.base import Store
    from include.cli.common import Scope


def backup(
    databases: Databases = None,
    tier: Annotated[Tier, typer.Option(help="Which tier the backup belongs to.")] = Tier.DAILY,
    keep_forever: Annotated[bool, typer.Option(help="Pruning never removes it; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(help="Why it is made; stands in its manifest.")] = "",
    as_json: AsJson = False,
) -> None:
    """Back up databases now, verify each, and go on with the others where one fails."""
    from include.backup.dump import back_up
    from include.backup.preflight import preflight
    from include.runtime.connections import postgres_dsn

    if keep_forever and not reason.strip():
        raise typer.BadParameter("--keep-forever needs --reason", param_hint="--reason")
    here = scope(databases, None)
    done: list[BackupId] = []
    failed = False
    for name in here.wanted:
        options = here.options(name)
        with failure_shown(here) as failure:
            store = here.open_store()
            dsn = postgres_dsn(options.connection, database=name)
            expected = preflight(dsn, store, database=name, options=options).expected_bytes
            with moving(f"{name}: dumping", expected) as progress:
                manifest = back_up(
                    dsn,
                    store,
                    database=name,
                    tier=tier,
                    options=options,
                    run_id=f"cli {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                    keep_forever=keep_forever,
                    reason=reason.strip(),
                    progress=progress,
                )
            _read_back(here, store, manifest.backup_id, manifest.bytes)
            done.append(manifest.backup_id)
        failed = failed or bool(failure)
    failed = _shown(here, done, as_json=as_json) or failed
    raise typer.Exit(int(failed))


def backups(databases: DatabasesInStore = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List the backups in the store, newest first: age, size, tier, verified, proved and how long a restore took."""
    here = scope(databases, store)
    with failure_shown(here) as failure:
        opened = here.open_store()
        print_backups(read_entries(opened, here.names(opened)), as_json=as_json)
    raise typer.Exit(int(bool(failure)))


def verify(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Backups by id; the newest of each database by default.")
    ] = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Read backups back from the store: size, sha256, a full decode, the table list."""
    from include.backup.catalog import read_manifest

    here = scope(None, store)
    wanted: list[BackupId] = [parsed(text) for text in ids or []]
    failed = False
    if not wanted:
        with failure_shown(here) as failure:
            opened = here.open_store()
            newest = {entry.manifest.database: entry.backup_id for entry in read_entries(opened, here.names(opened))}
            wanted = list(newest.values())
        failed = bool(failure)
        if not wanted and not failed:
            err.print("there is no backup to verify yet")
            failed = True
    for each in wanted:
        with failure_shown(here) as failure:
            opened = here.open_store()
            _read_back(here, opened, each, read_manifest(opened, each).bytes)
        failed = failed or bool(failure)
    failed = _shown(here, wanted, as_json=as_json) or failed
    raise typer.Exit(int(failed))


def _shown(here: Scope, backups: list[BackupId], *, as_json: bool) -> bool:
    """List these backups as the store has them now; whether that failed."""
    with failure_shown(here) as failure:
        names = sorted({each.database for each in backups})
        entries = read_entries(here.open_store(), names, only={each.stem for each in backups}) if names else []
        print_backups(entries, as_json=as_json)
    return bool(failure)


def _read_back(here: Scope, store: Store, backup_id: BackupId, size: int) -> None:
    from include.backup.verify import verify as read_back

    staging = here.options(backup_id.database).archive.staging
    with moving(f"{backup_id.database}: reading back", size) as progress:
        read_back(store, backup_id, staging=Path(staging) if staging else None, progress=progress)
