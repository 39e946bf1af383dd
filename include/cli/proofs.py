"""`prove`: a backup becomes a running database again, and is compared with what was dumped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from include.cli.common import AsJson, StoreUrl, failure_shown, parsed, read_entries, scope
from include.cli.output import VERDICT_STYLES, measured, out, print_json, stages, table
from include.cli.servers import IdentityFile, ServerUrl, address, private_keys, proving_ground
from include.errors import MaintenanceError
from include.proving.options import GroundOptions

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from include.backup.certificate import Check, Proof
    from include.backup.model import BackupId
    from include.backup.stores.base import Store
    from include.cli.common import Scope
    from include.proving.ground import Ground

_OUTCOME_STYLES = {"held": "green", "differs": "bold red", "not checked": "yellow", "left out": "dim"}


def prove(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Backups by id, and databases for the newest of each; all databases by default."),
    ] = None,
    *,
    store: StoreUrl = None,
    dsn: ServerUrl = None,
    identity: IdentityFile = None,
    as_json: AsJson = False,
) -> None:
    """Restore backups on the proving ground, compare them with what was dumped, write each one's certificate."""
    wanted = [parsed(text) for text in what or () if "/" in text]
    databases = [text for text in what or () if "/" not in text]
    here = scope(databases, store)
    server = address(dsn) if dsn is not None else None
    proofs: list[Proof] = []
    failed = False
    with failure_shown(here) as failure:
        opened = here.open_store()
        if databases or not wanted:
            wanted += _newest(opened, here.names(opened))
        ground = proving_ground(here, opened, server)
        keys = private_keys(identity, here, server)
        for each in wanted:
            with failure_shown(here) as one_failure:
                proof = _prove(here, ground, opened, each, keys=keys)
                proofs.append(proof)
                if not as_json:
                    _print_proof(proof)
            failed = failed or bool(one_failure)
    if as_json:
        print_json([proof.model_dump(mode="json") for proof in proofs])
    unproved = any(proof.verdict != "proved" for proof in proofs)
    raise typer.Exit(int(failed or bool(failure) or unproved))


def _newest(store: Store, databases: Collection[str]) -> list[BackupId]:
    newest = {entry.manifest.database: entry.backup_id for entry in read_entries(store, databases)}
    if not newest:
        raise MaintenanceError(
            f"there is no backup of {', '.join(databases) or 'any database'} in {store.url}",
            untouched="nothing was restored",
            remedy="make one, or look whether this is the store that was meant",
        )
    return list(newest.values())


def _prove(here: Scope, ground: Ground, store: Store, backup: BackupId, *, keys: str | None) -> Proof:
    from include.proving.prove import prove as restore_and_compare

    options = here.options(backup.database)
    place = here.settings.proving_ground if here.settings is not None else GroundOptions()
    with stages(f"{backup.database}: proving") as progress:
        return restore_and_compare(
            ground,
            store,
            backup,
            options=options.proof,
            jobs=place.jobs,
            staging=Path(place.staging) if place.staging else None,
            identity=keys,
            progress=progress,
        )


def _print_proof(proof: Proof) -> None:
    style = VERDICT_STYLES[proof.verdict]
    counted = ", rows counted only" if proof.counts_only else ""
    out.print(f"{proof.backup}: [{style}]{proof.verdict.upper()}[/]{counted}", highlight=False)
    print_checks(proof.checks)
    if proof.restore_seconds:
        out.print(measured(proof), markup=False, soft_wrap=True)


def print_checks(checks: Sequence[Check]) -> None:
    """What was compared in a table, what was found below it in full."""
    listed = table("Check", "Outcome", "What was compared")
    for check in checks:
        listed.add_row(check.name, f"[{_OUTCOME_STYLES[check.outcome]}]{check.outcome}[/]", escape(check.detail))
    out.print(listed)
    for check in checks:
        for finding in check.findings:
            out.print(f"{check.name}: {finding}", style=_OUTCOME_STYLES[check.outcome], markup=False, soft_wrap=True)
