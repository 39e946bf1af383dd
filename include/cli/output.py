"""What the commands print: tables and progress for people, JSON for scripts."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from humanize import naturaldelta, naturalsize, precisedelta
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import Progress, TaskID

    from include.backup.certificate import Proof
    from include.backup.model import CatalogEntry
    from include.backup.retention import RetentionPlan

# Without a terminal there is no width to keep to; 140 columns hold every table.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)

VERDICT_STYLES = {"proved": "green", "failed": "bold red", "incomplete": "yellow"}


def in_words(seconds: float) -> str:
    """A duration as a person says it: `4 minutes and 10 seconds`."""
    if seconds < 10:
        return f"{seconds:.1f} seconds"
    return precisedelta(timedelta(seconds=seconds), format="%0.0f")


def print_json(document: Any) -> None:
    """One document on stdout, and nothing else."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def table(*headings: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """An empty table in the house's style; the columns named in `right` hold figures."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left")
    return made


@contextmanager
def moving(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar in bytes on a terminal; silent elsewhere."""
    with _bars() as progress:
        task = progress.add_task(what, amount="")
        # The total is an estimate for a dump: it grows with what is sent, so that the bar never passes its end.
        yield lambda moved: _move(progress, task, "bytes", moved, max(total, moved))


@contextmanager
def stages(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each kind of thing that is counted, on a terminal; silent elsewhere.

    What is yielded takes the kind (`bytes` are shown as sizes), how many are done and how many there are.
    """
    with _bars() as progress:
        # Moves until the block ends: what follows the last thing that is counted takes its time too.
        progress.add_task(what, total=None, amount="")
        tasks: dict[str, TaskID] = {}

        def tell(kind: str, done: int, total: int) -> None:
            if kind not in tasks:
                tasks[kind] = progress.add_task(f"  {kind}", amount="")
            _move(progress, tasks[kind], kind, done, total)

        yield tell


@contextmanager
def steps(what: str) -> Iterator[Callable[[str, str], None]]:
    """A line with its time for each step, on a terminal; silent elsewhere.

    What is yielded takes the step, which ends the one before, and how far it is, in words.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(finished_text="·"), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(step: str, words: str) -> None:
            if step not in tasks:
                for earlier in tasks.values():
                    progress.update(earlier, completed=1)
                tasks[step] = progress.add_task("", total=1)
            progress.update(tasks[step], description=f"{what}: {step}: {words}")

        yield tell


def _bars() -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
    return Progress(*columns, TimeElapsedColumn(), console=err, disable=not err.is_terminal)


def _move(progress: Progress, task: TaskID, kind: str, done: int, total: int) -> None:
    shown = [naturalsize(each, binary=True) if kind == "bytes" else f"{each:,}" for each in (done, total)]
    progress.update(task, completed=done, total=total, amount=" of ".join(shown))


def _verified(entry: CatalogEntry) -> tuple[str, str]:
    verification = entry.verification
    if verification is None:
        return "not yet", "yellow"
    if verification.failure is not None or verification.sha256 != entry.manifest.sha256:
        return "FAILED", "bold red"
    return ("yes" if verification.level == "archive" else "encrypted bytes"), "green"


def _proved(entry: CatalogEntry) -> tuple[str, str]:
    proof = entry.proof
    if proof is None or entry.verdict is None:
        return "no", "dim"
    if proof.verdict != "proved":
        return proof.verdict.upper() if proof.verdict == "failed" else proof.verdict, VERDICT_STYLES[proof.verdict]
    counted = ", counts only" if proof.counts_only else ""
    return f"{proof.proved_at.astimezone(UTC):%Y-%m-%d}{counted}", "green"


def print_backups(entries: list[CatalogEntry], *, as_json: bool) -> None:
    """A list of backups, the newest first."""
    newest_first = sorted(entries, key=lambda entry: entry.manifest.created_at, reverse=True)
    if as_json:
        print_json([_as_json(entry) for entry in newest_first])
        return
    if not newest_first:
        out.print("no backups")
        return
    now = datetime.now(UTC)
    headings = ("Backup", "Tier", "Age", "Size", "Rows", "Verified", "Proved", "Kept")
    listed = table(*headings, right=("Age", "Size", "Rows"))
    for column in listed.columns:
        column.no_wrap = True
    for entry in newest_first:
        manifest = entry.manifest
        verified, style = _verified(entry)
        proved, proved_style = _proved(entry)
        listed.add_row(
            manifest.id.rsplit("/", 1)[-1],
            manifest.tier,
            naturaldelta(now - manifest.created_at),
            naturalsize(manifest.bytes, binary=True),
            f"{sum(table.rows or 0 for table in manifest.tables):,}",
            f"[{style}]{verified}[/]",
            f"[{proved_style}]{proved}[/]",
            "for ever" if manifest.keep_forever else "by policy",
        )
    out.print(listed)
    newest: dict[str, Proof] = {}
    for entry in newest_first:
        if entry.proof is not None and entry.proved:
            newest.setdefault(entry.manifest.database, entry.proof)
    for database, proof in newest.items():
        out.print(f"{database}: {measured(proof)}", markup=False, soft_wrap=True)


def measured(proof: Proof) -> str:
    """The measured recovery time in words."""
    took = f"from the store to a usable database in {in_words(proof.rto_seconds)}"
    return (
        f"{took} (fetched in {in_words(proof.fetch_seconds)}, restored in {in_words(proof.restore_seconds)}), "
        f"measured {proof.proved_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    )


def _as_json(entry: CatalogEntry) -> dict[str, Any]:
    manifest = entry.manifest
    proof = entry.proof if entry.verdict is not None else None
    return {
        "id": manifest.id,
        "database": manifest.database,
        "tier": manifest.tier,
        "created_at": manifest.created_at.isoformat(),
        "bytes": manifest.bytes,
        "verified": _verified(entry)[0],
        "proof": None
        if proof is None
        else {
            "verdict": proof.verdict,
            "proved_at": proof.proved_at.isoformat(),
            "counts_only": proof.counts_only,
            "rto_seconds": proof.rto_seconds,
        },
        "keep_forever": manifest.keep_forever,
        "reason": manifest.reason,
    }


def print_plan(name: str, plan: RetentionPlan) -> None:
    """What becomes of each backup of one database."""
    if plan.stopped:
        out.print(f"{name}: nothing is removed: {plan.stopped}", style="yellow", markup=False)
    listed = table("Backup", "", "Slot", "Why", title=f"Retention plan of {name}")
    for each in plan.decisions:
        style = "red" if each.action == "drop" else "green"
        listed.add_row(str(each.backup), f"[{style}]{each.action}[/]", each.slot or "", each.reason)
    out.print(listed)
