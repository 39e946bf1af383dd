"""Night Porter from a shell: the same functions that the DAGs call, for the day Airflow itself is down.

Exit status: 0 success, 1 something failed (the text says what, what was left untouched and what to do), 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from humanize import naturaldelta, naturalsize
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from include.backup.model import BackupId, CatalogEntry, Tier
from include.config import settings as configuration
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.retention import RetentionPlan
    from include.backup.stores.base import Store
    from include.config.settings import Settings

# Connections that were made in Airflow's UI stand in its database; outside a task the SDK looks there only for what
# calls itself a server process. Where that database is down, environment and secrets backends still answer.
os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
# Without a terminal there is no width to keep to; 140 columns hold every table.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)

Databases = Annotated[list[str] | None, typer.Argument(help="Configured names; all of them by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts; sizes in bytes, times in UTC.")]


@app.command()
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
    settings, names = _chosen(databases)
    done, failed = [], False
    for name in names:
        options = settings.databases[name]
        with _failure_shown() as failure:
            store = _store(settings)
            dsn = postgres_dsn(options.connection, database=name)
            expected = preflight(dsn, store, database=name, options=options).expected_bytes
            with _moving(f"{name}: dumping", expected) as progress:
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
            _verify(settings, store, manifest.backup_id, manifest.bytes)
            done.append(manifest.id)
        failed = failed or bool(failure)
    with _failure_shown() as failure:
        _print_backups(_entries(settings, names, only=set(done)) if done else [], as_json=as_json)
    raise typer.Exit(int(failed or bool(failure)))


@app.command()
def backups(databases: Databases = None, as_json: AsJson = False) -> None:
    """List the backups in the store, newest first: age, size, tier, verified."""
    settings, names = _chosen(databases)
    with _failure_shown() as failure:
        _print_backups(_entries(settings, names), as_json=as_json)
    raise typer.Exit(int(bool(failure)))


@app.command()
def verify(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Backups by id; the newest of each database by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read backups back from the store: size, sha256, a full decode, the table list."""
    settings, names = _chosen(None)
    failed = False
    wanted: list[BackupId] = []
    with _failure_shown() as failure:
        if ids:
            wanted = [_parsed(text) for text in ids]
        else:
            newest = {entry.manifest.database: entry.backup_id for entry in _entries(settings, names)}
            wanted = list(newest.values())
    failed = bool(failure)
    if not wanted and not failed:
        err.print("there is no backup to verify yet")
        failed = True
    for each in wanted:
        with _failure_shown() as failure:
            from include.backup.catalog import read_manifest

            store = _store(settings)
            _verify(settings, store, each, read_manifest(store, each).bytes)
        failed = failed or bool(failure)
    chosen = {each.stem for each in wanted}
    with _failure_shown() as failure:
        found = _entries(settings, sorted({each.database for each in wanted}), only=chosen)
        _print_backups(found, as_json=as_json)
    raise typer.Exit(int(failed or bool(failure)))


@app.command()
def prune(
    databases: Databases = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what the retention policy no longer keeps, and what killed runs left behind long ago."""
    from include.backup import catalog, retention, sweep
    from include.backup import prune as pruning

    settings, names = _chosen(databases)
    policy = retention.Policy(**settings.retention.model_dump())
    failed = False
    report: dict[str, Any] = {}
    for name in names:
        with _failure_shown() as failure:
            store, now = _store(settings), datetime.now(UTC)
            plan = retention.plan(catalog.read_catalog(store, name).entries, policy, now=now)
            if not as_json:
                _print_plan(name, plan)
            removals = [] if dry_run else pruning.apply(plan, store)
            swept = sweep.sweep(store, name, now=now, dry_run=dry_run)
            leftovers = [item.key for item in swept.objects] + [upload.key for upload in swept.uploads]
            report[name] = {
                "stopped": plan.stopped,
                "decisions": [
                    {"backup": str(each.backup), "action": each.action, "slot": each.slot, "reason": each.reason}
                    for each in plan.decisions
                ],
                "removed": [str(removal.backup) for removal in removals],
                "leftovers": leftovers,
                "dry_run": dry_run,
            }
            if not as_json:
                freed = naturalsize(sum(each.bytes for each in plan.drops), binary=True)
                verb = "would remove" if dry_run else "removed"
                out.print(f"{name}: {verb} {len(plan.drops)} backup(s), {freed}, and {len(leftovers)} leftover(s)")
        failed = failed or bool(failure)
    if as_json:
        _print_json(report)
    raise typer.Exit(int(failed))


def _chosen(databases: list[str] | None) -> tuple[Settings, list[str]]:
    try:
        settings = configuration.load()
    except configuration.ConfigError as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    unknown = [name for name in databases or [] if name not in settings.databases]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not configured; allowed: {', '.join(settings.databases)}")
    return settings, databases or list(settings.databases)


def _parsed(text: str) -> BackupId:
    try:
        return BackupId.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _store(settings: Settings) -> Store:
    from include.runtime.connections import open_store

    return open_store(settings.store)


def _entries(settings: Settings, names: list[str], *, only: set[str] | None = None) -> list[CatalogEntry]:
    from include.backup.catalog import read_catalog

    found: list[CatalogEntry] = []
    store = _store(settings) if names else None
    for name in names:
        if store is None:
            continue
        catalog = read_catalog(store, name)
        for key, reason in catalog.unreadable:
            err.print(f"{key} is left out: {reason}", style="yellow", markup=False)
        found += [entry for entry in catalog.entries if only is None or entry.manifest.id in only]
    return found


def _verify(settings: Settings, store: Store, backup_id: BackupId, size: int) -> None:
    from pathlib import Path

    from include.backup.verify import verify as read_back

    options = settings.databases.get(backup_id.database)
    staging = options.archive.staging if options else None
    with _moving(f"{backup_id.database}: reading back", size) as progress:
        read_back(store, backup_id, staging=Path(staging) if staging else None, progress=progress)


@contextmanager
def _failure_shown() -> Iterator[list[MaintenanceError]]:
    """Print a failure instead of ending, so that other databases still get their turn; the list holds it then."""
    failures: list[MaintenanceError] = []
    try:
        yield failures
    except MaintenanceError as error:
        failures.append(error)
        err.print(str(error), style="red", markup=False)


@contextmanager
def _moving(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes on a terminal; silent elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(
        *columns, TransferSpeedColumn(), TimeElapsedColumn(), console=err, disable=not err.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        # The total is an estimate for a dump: it grows with what is sent, so that the bar never passes its end.
        yield lambda moved: bar.update(task, completed=moved, total=max(total, moved))


def _verdict(entry: CatalogEntry) -> tuple[str, str]:
    if entry.verification is None:
        return "not yet", "yellow"
    if not entry.good:
        return "FAILED", "bold red"
    return ("yes" if entry.verification.level == "archive" else "encrypted bytes"), "green"


def _print_backups(entries: list[CatalogEntry], *, as_json: bool) -> None:
    newest_first = sorted(entries, key=lambda entry: entry.manifest.created_at, reverse=True)
    if as_json:
        _print_json(
            [
                {
                    "id": entry.manifest.id,
                    "database": entry.manifest.database,
                    "tier": entry.manifest.tier,
                    "created_at": entry.manifest.created_at.isoformat(),
                    "bytes": entry.manifest.bytes,
                    "verified": _verdict(entry)[0],
                    "keep_forever": entry.manifest.keep_forever,
                    "reason": entry.manifest.reason,
                }
                for entry in newest_first
            ]
        )
        return
    if not newest_first:
        out.print("no backups")
        return
    now = datetime.now(UTC)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("Backup", "Tier", "Age", "Size", "Rows", "Verified", "Kept"):
        table.add_column(heading, justify="right" if heading in {"Age", "Size", "Rows"} else "left", no_wrap=True)
    for entry in newest_first:
        manifest = entry.manifest
        verdict, style = _verdict(entry)
        table.add_row(
            manifest.id.rsplit("/", 1)[-1],
            manifest.tier,
            naturaldelta(now - manifest.created_at),
            naturalsize(manifest.bytes, binary=True),
            f"{sum(table.rows or 0 for table in manifest.tables):,}",
            f"[{style}]{verdict}[/]",
            "for ever" if manifest.keep_forever else "by policy",
        )
    out.print(table)


def _print_plan(name: str, plan: RetentionPlan) -> None:
    if plan.stopped:
        out.print(f"{name}: nothing is removed: {plan.stopped}", style="yellow", markup=False)
    table = Table(title=f"Retention plan of {name}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("Backup", "", "Slot", "Why"):
        table.add_column(heading)
    for each in plan.decisions:
        style = "red" if each.action == "drop" else "green"
        table.add_row(str(each.backup), f"[{style}]{each.action}[/]", each.slot or "", each.reason)
    out.print(table)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    app()
