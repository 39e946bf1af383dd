"""`restore`: a database comes back from a backup, under a new name or in the place of the one that is lost."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from include.cli.common import AsJson, StoreUrl, failure_shown, parsed, scope
from include.cli.output import VERDICT_STYLES, err, in_words, out, print_json, steps
from include.cli.proofs import print_checks
from include.cli.servers import IdentityFile, ServerUrl, address, private_keys, recovery_target
from include.proving.options import GroundOptions

if TYPE_CHECKING:
    from collections.abc import Collection

    from include.backup.stores.base import Store
    from include.cli.common import Scope
    from include.proving.recover import Recovery, RecoveryPlan


def restore(
    database: Annotated[
        str | None, typer.Argument(help="Its configured name; not needed with --backup, or where there is only one.")
    ] = None,
    *,
    backup: Annotated[
        str | None, typer.Option("--backup", metavar="ID", help="The newest proved backup by default.")
    ] = None,
    new_name: Annotated[
        str | None,
        typer.Option("--to", metavar="NEW_NAME", help="Name of the restored database; never an existing one."),
    ] = None,
    swap: Annotated[
        str | None,
        typer.Option(
            metavar="TYPED_NAME",
            help="PostgreSQL name of the live database, typed to the letter: the restored one takes its place, the "
            "live one is kept under another name.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    store: StoreUrl = None,
    dsn: ServerUrl = None,
    identity: IdentityFile = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a new database, compare it with what was dumped, and swap it in only where that is asked.

    Nothing is done before the plan was shown and agreed to.
    """
    chosen = parsed(backup) if backup is not None else None
    if chosen is not None and database not in {None, chosen.database}:
        raise typer.BadParameter(f"{chosen} is a backup of {chosen.database}, not of {database}", param_hint="--backup")
    here = scope(None, store)
    server = address(dsn) if dsn is not None else None
    with failure_shown(here) as failure:
        from include.proving import recover

        opened = here.open_store()
        keys = private_keys(identity, here, server)
        name = database or (chosen.database if chosen is not None else _only_one(here.names(opened)))
        made = recover.plan(
            opened,
            database=name,
            target=recovery_target(here, name, server),
            backup=chosen,
            new_name=new_name,
            swap=swap,
            now=datetime.now(UTC),
        )
        _agree(made, yes=yes, as_json=as_json)
        done = _execute(here, made, opened, keys=keys)
        if as_json:
            print_json(_as_json(done))
        else:
            _print_recovery(done)
    raise typer.Exit(int(bool(failure)))


def _only_one(names: Collection[str]) -> str:
    if len(names) != 1:
        raise typer.BadParameter(f"say which database; there are: {', '.join(names) or 'none'}", param_hint="DATABASE")
    return next(iter(names))


def _agree(plan: RecoveryPlan, *, yes: bool, as_json: bool) -> None:
    """Show the plan and get a person's word; ends the program without it."""
    # With --json stdout is for the result alone.
    told = err if as_json else out
    told.print(f"{plan.database}: what will be done", style="bold", markup=False)
    for number, point in enumerate(plan.points, start=1):
        style = "yellow" if point.startswith("CAUTION: ") else None
        told.print(f"{number:3}. {point}", style=style, markup=False, highlight=False, soft_wrap=True)
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to ask at: give --yes once the plan is right", param_hint="--yes")
    if not typer.confirm("Do exactly this?", err=True):
        err.print("nothing was done")
        raise typer.Exit(1)


def _execute(here: Scope, plan: RecoveryPlan, store: Store, *, keys: str | None) -> Recovery:
    from include.proving.recover import execute

    place = here.settings.proving_ground if here.settings is not None else GroundOptions()
    with steps(plan.database) as progress:
        return execute(
            plan,
            store,
            jobs=place.jobs,
            staging=Path(place.staging) if place.staging else None,
            identity=keys,
            options=here.options(plan.database).proof,
            progress=progress,
        )


def _print_recovery(done: Recovery) -> None:
    print_checks(done.checks)
    style = VERDICT_STYLES[done.verdict]
    out.print(
        f"{done.backup} is back as the database {done.name!r}, after {in_words(done.total_seconds)}",
        style=style,
        markup=False,
    )
    if done.verdict != "proved":
        out.print("not everything could be compared with what was dumped: see above", style="yellow")
    if done.old_name is not None:
        out.print(f"what was there before is kept as the database {done.old_name!r}", markup=False)
    for title, statements in (("to be run by hand, the role may not:", done.by_hand), ("to go back:", done.go_back)):
        if statements:
            out.print(title)
            for statement in statements:
                out.print(f"  {statement}", markup=False, highlight=False, soft_wrap=True)


def _as_json(done: Recovery) -> dict[str, Any]:
    return {
        "backup": done.backup,
        "name": done.name,
        "old_name": done.old_name,
        "verdict": done.verdict,
        "checks": [check.model_dump(mode="json") for check in done.checks],
        "seconds": done.seconds,
        "total_seconds": done.total_seconds,
        "go_back": done.go_back,
        "by_hand": done.by_hand,
    }
