"""The bodies of the monitor's tasks: settings and connections looked up, then the work handed to `include.monitor`."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from include.alerts import heartbeat
from include.alerts.messages import News
from include.backup.anomaly import accept
from include.backup.model import BackupId
from include.config import settings as configuration
from include.errors import MaintenanceError
from include.monitor.changes import State, after_telling, remember
from include.monitor.finding import written
from include.monitor.look import look
from include.monitor.reread import reread
from include.runtime import alerts
from include.runtime.connections import heartbeat_url, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from include.monitor.finding import Finding
    from include.monitor.look import Look

# A Slack message has fifty blocks at most.
_TOLD_AT_ONCE = 20

log = logging.getLogger(__name__)


class LookResult(TypedDict):
    """What a look hands on: keys of findings."""

    database: str
    critical: list[str]
    warnings: list[str]


class RereadResult(TypedDict):
    """What a re-read hands on: ids of backups."""

    intact: list[str]
    damaged: list[str]


def accept_anomaly(params: Mapping[str, Any]) -> None:
    """Write down that a backup's anomaly is as it should be, where the form names one.

    Raises:
        AirflowSkipException: it names none.
        MaintenanceError: it names no backup that there is, or no reason.
    """
    named = str(params.get("accept") or "").strip()
    if not named:
        raise AirflowSkipException("nothing is to be accepted")
    try:
        backup = BackupId.parse(named)
    except ValueError as error:
        raise MaintenanceError(
            str(error),
            untouched="nothing was written",
            remedy="copy the id from the monitor's message or from `python -m include.cli backups`",
        ) from error
    store = open_store(configuration.load().store)
    acceptance = accept(store, backup, str(params.get("reason") or ""), datetime.now(UTC))
    log.info("%s is accepted: %s", acceptance.backup, acceptance.reason)


def look_at(database: str, instance: Any) -> LookResult:
    """Look at one database's backups, and tell Slack what is new, worse or over.

    What was told is remembered only once it has been: a Slack that did not take the message is told again an hour
    later. That the store can be written is tried before, or the same news would be told every hour.

    Args:
        database: the configured name.
        instance: the running task instance.

    Raises:
        StoreError: the store cannot be read or written.
    """
    settings = configuration.load()
    options = settings.databases[database]
    store = open_store(settings.store)
    now = datetime.now(UTC)
    seen = look(store, database, monitor=options.monitor, proof=options.proof, now=now)
    for finding in seen.findings:
        log.warning("%s: %s. What to do: %s", finding.severity, finding.sentence, finding.remedy)
    log.info("%s: %d finding(s)", database, len(seen.findings))
    remember(store, database, State(looked_at=now, told=seen.previous.told if seen.previous else ()))
    before = instance.get_previous_ti(map_index=instance.map_index)
    sections = [*_sections(seen, now, blind=before is not None and before.state == "failed")]
    if not sections or alerts.send(_news(seen, sections, instance.log_url)):
        remember(store, database, after_telling(seen.previous, seen.changes, now=now))
    return LookResult(
        database=database,
        critical=[finding.key for finding in seen.findings if finding.severity == "critical"],
        warnings=[finding.key for finding in seen.findings if finding.severity == "warning"],
    )


def read_again(database: str) -> RereadResult:
    """Read again what is due of one database; a damaged backup is told by the next look.

    Raises:
        MaintenanceError: see `include.monitor.reread.reread`.
    """
    settings = configuration.load()
    staging = settings.databases[database].archive.staging
    outcome = reread(open_store(settings.store), database, staging=Path(staging) if staging else None)
    for backup in outcome.intact:
        log.info("%s is as it was written", backup)
    for backup, failure in outcome.damaged:
        log.error("%s: %s", backup, failure)
    for backup in outcome.gone:
        log.info("%s was removed meanwhile", backup)
    return RereadResult(
        intact=[str(backup) for backup in outcome.intact], damaged=[str(backup) for backup, _ in outcome.damaged]
    )


def beat(looks: Sequence[LookResult]) -> None:
    """Give the sign of life, where every database was looked at and nothing critical was found.

    Raises:
        AirflowSkipException: something critical was found, or no address is configured.
        MaintenanceError: the address is not usable.
    """
    if critical := [f"{each['database']} ({', '.join(each['critical'])})" for each in looks if each["critical"]]:
        raise AirflowSkipException(f"no heartbeat: not all is well with {', '.join(critical)}")
    url = heartbeat_url()
    if url is None:
        raise AirflowSkipException("no connection `heartbeat`: nothing outside notices when the monitor stops")
    if heartbeat.beat(url):
        log.info("the heartbeat was taken")


def _news(seen: Look, sections: Sequence[tuple[str, str]], log_url: str) -> News:
    counts = {"new": seen.changes.new, "worse": seen.changes.worse, "over": seen.changes.over}
    summary = ", ".join(f"{len(found)} {kind}" for kind, found in counts.items() if found)
    more = len(sections) - _TOLD_AT_ONCE
    shown = (*sections[:_TOLD_AT_ONCE], *([("And", f"{more} more; the log has them all")] if more > 0 else []))
    return News(
        title=f"backup_monitor: {summary or 'it sees again'}",
        database=seen.database,
        log_url=log_url,
        sections=shown,
    )


def _sections(seen: Look, now: datetime, *, blind: bool) -> Iterator[tuple[str, str]]:
    """Title and text of each change."""
    if seen.memory_lost:
        yield "Note", "what was told before cannot be understood any more (monitor.json), so everything counts as new"
    for finding in seen.changes.new:
        yield f"New, {finding.severity}", _told(finding)
    for finding in seen.changes.worse:
        yield f"Worse, {finding.severity}", _told(finding)
    for told in seen.changes.over:
        yield f"Over after {written(now - told.since)}", told.finding.sentence
    if blind:
        yield "Over", "the monitor's last look at this database failed; this one did not"


def _told(finding: Finding) -> str:
    return f"{finding.sentence}.\nWhat to do: {finding.remedy}."
