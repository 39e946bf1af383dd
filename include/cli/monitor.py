"""`monitor`: is every database covered by a recent, proved backup?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from humanize import naturaldelta
from rich.markup import escape

from include.cli.common import AsJson, Databases, configured, failure_shown, parsed, read_entries
from include.cli.output import err, out, print_json, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from include.backup.model import CatalogEntry
    from include.config.settings import DatabaseSettings
    from include.monitor.finding import Finding

_STYLES = {"critical": "bold red", "warning": "yellow"}


def monitor(
    databases: Databases = None,
    accept: Annotated[
        str | None,
        typer.Option(metavar="BACKUP_ID", help="A backup that lost much, but is as it should be; needs --reason."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why it is as it should be; is written down beside the backup.")] = "",
    as_json: AsJson = False,
) -> None:
    """Look at each database's backups as the hourly DAG does, and tell nobody else; 1 where something is critical."""
    from include.backup.anomaly import accept as accept_backup
    from include.monitor.look import look
    from include.runtime.connections import open_store

    accepted = parsed(accept) if accept is not None else None
    if accepted is not None and not reason.strip():
        raise typer.BadParameter("--accept needs --reason", param_hint="--reason")
    settings, names = configured(databases)
    failed = False
    if accepted is not None:
        with failure_shown() as failure:
            accept_backup(open_store(settings.store), accepted, reason, datetime.now(UTC))
            err.print(f"{accepted} is accepted as it is", markup=False)
        failed = bool(failure)
    seen: list[_Seen] = []
    for name in names:
        options = settings.databases[name]
        with failure_shown() as failure:
            store, now = open_store(settings.store), datetime.now(UTC)
            found = look(store, name, monitor=options.monitor, proof=options.proof, now=now).findings
            ages = tuple(_ages(read_entries(store, [name]), options, now))
            seen.append(_Seen(database=name, ages=ages, findings=found))
        failed = failed or bool(failure)
    if as_json:
        print_json({each.database: _as_json(each) for each in seen})
    else:
        _print(seen)
    raise typer.Exit(int(failed or any(each.critical for each in seen)))


@dataclass(frozen=True)
class _Age:
    """How old the newest backup of a kind is (None: there is none), and how old it may be."""

    kind: Literal["verified", "proved"]
    age: timedelta | None
    allowed: timedelta

    @property
    def fits(self) -> bool:
        return self.age is not None and self.age <= self.allowed


@dataclass(frozen=True)
class _Seen:
    """What one database looks like."""

    database: str
    ages: tuple[_Age, ...]
    findings: tuple[Finding, ...]

    @property
    def critical(self) -> bool:
        return any(finding.severity == "critical" for finding in self.findings)


def _ages(entries: Sequence[CatalogEntry], options: DatabaseSettings, now: datetime) -> Iterator[_Age]:
    def newest(fitting: Iterable[CatalogEntry]) -> timedelta | None:
        return min((now - entry.manifest.created_at for entry in fitting), default=None)

    rpo = timedelta(hours=options.monitor.rpo_hours)
    yield _Age("verified", newest(entry for entry in entries if entry.good), rpo)
    if options.proof.tiers:
        rpo = timedelta(hours=options.monitor.proof_rpo_hours)
        yield _Age("proved", newest(entry for entry in entries if entry.proved), rpo)


def _print(seen: Sequence[_Seen]) -> None:
    listed = table("Database", "Newest", "Age", "Allowed", right=("Age", "Allowed"))
    for each in seen:
        for age in each.ages:
            style = "green" if age.fits else "bold red"
            words = "none" if age.age is None else naturaldelta(age.age)
            listed.add_row(each.database, age.kind, f"[{style}]{words}[/]", naturaldelta(age.allowed))
    out.print(listed)
    for each in seen:
        for finding in each.findings:
            style = _STYLES[finding.severity]
            words = f"{each.database}: {escape(finding.sentence)}"
            out.print(f"[{style}]{finding.severity}[/] {words}", highlight=False, soft_wrap=True)
            out.print(f"  what to do: {finding.remedy}", markup=False, highlight=False, soft_wrap=True)
        if not each.findings:
            out.print(f"[green]{each.database}: all as it should be[/]")


def _as_json(seen: _Seen) -> dict[str, Any]:
    ages = {
        f"newest_{each.kind}": {
            "age_seconds": None if each.age is None else round(each.age.total_seconds()),
            "allowed_seconds": round(each.allowed.total_seconds()),
        }
        for each in seen.ages
    }
    findings = [finding.model_dump(mode="json") for finding in seen.findings]
    return {"critical": seen.critical, **ages, "findings": findings}
