"""`prune`: removing what the retention policy no longer keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from humanize import naturalsize

from include.cli.common import AsJson, Databases, configured, failure_shown, read_entries
from include.cli.output import out, print_json, print_plan

if TYPE_CHECKING:
    from include.backup.prune import Removal
    from include.backup.retention import RetentionPlan
    from include.backup.stores.base import Store


def prune(
    databases: Databases = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what the retention policy no longer keeps, and what killed runs left behind long ago."""
    from include.backup import retention, sweep
    from include.backup.anomaly import anomalies
    from include.runtime.connections import open_store

    settings, names = configured(databases)
    policy = retention.Policy(**settings.retention.model_dump())
    failed = False
    report: dict[str, Any] = {}
    for name in names:
        with failure_shown() as failure:
            store, now = open_store(settings.store), datetime.now(UTC)
            entries = read_entries(store, [name])
            unexplained = anomalies(entries, settings.databases[name].monitor)
            plan = retention.plan(entries, policy, now=now, anomalies=unexplained)
            if not as_json:
                print_plan(name, plan)
            removals, stuck = ([], False) if dry_run else _apply(plan, store)
            failed = failed or stuck
            # What dead runs left is no part of the plan: it goes even where the plan could not be carried out.
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
                gone = [each.bytes for each in (plan.drops if dry_run else removals)]
                verb = "would remove" if dry_run else "removed"
                freed = naturalsize(sum(gone), binary=True)
                out.print(f"{name}: {verb} {len(gone)} backup(s), {freed}, and {len(leftovers)} leftover(s)")
        failed = failed or bool(failure)
    if as_json:
        print_json(report)
    raise typer.Exit(int(failed))


def _apply(plan: RetentionPlan, store: Store) -> tuple[list[Removal], bool]:
    """Carry out a plan: what was removed, and whether it failed before its end."""
    from include.backup.prune import apply

    removals: list[Removal] = []
    with failure_shown() as failure:
        apply(plan, store, progress=lambda _number, _all, removal: removals.append(removal))
    return removals, bool(failure)
