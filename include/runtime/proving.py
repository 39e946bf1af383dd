"""The bodies of the tasks that prove backups: which ones, restored on the proving ground, and what that showed."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException
from humanize import naturalsize, precisedelta

from include.backup import source
from include.backup.catalog import NoSuchBackupError, UnreadableManifestError, read_catalog, read_manifest
from include.backup.model import BackupId
from include.config import settings as configuration
from include.errors import MaintenanceError
from include.proving.ground import Production, open_ground
from include.proving.prove import prove as prove_backup
from include.proving.prove import require_proved
from include.runtime import alerts
from include.runtime.backup import PROGRESS_EVERY_SECONDS
from include.runtime.connections import find, open_store, postgres_dsn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from include.backup.model import CatalogEntry
    from include.backup.stores.base import Store
    from include.config.settings import DatabaseSettings, Settings
    from include.postgres.dsn import Dsn
    from include.proving.archive_run import Progress

STEPS = ("prove", "prune")
_REACHABLE_SECONDS = 3

log = logging.getLogger(__name__)


class Chosen(TypedDict):
    """A backup that is to be proved."""

    name: str
    backup: str


class ProofResult(TypedDict):
    """What the prove task hands on."""

    backup: str
    verdict: str
    counts_only: bool
    rto_seconds: float
    check_seconds: float


def choose(*, started_by_backups: bool, events: Mapping[Any, Sequence[Any]], params: Mapping[str, Any]) -> list[Chosen]:
    """Which backups a run proves.

    Args:
        started_by_backups: whether assets started the run, not a person.
        events: those of the assets, with what `include.runtime.backup.verify` put into them.
        params: what the person filled in.

    Raises:
        MaintenanceError: the store cannot be read, or a backup that the person named is not there.
    """
    if started_by_backups:
        return choose_landed([str(event.extra["backup"]) for of_one in events.values() for event in of_one])
    return choose_by_hand(params)


def choose_landed(backups: Iterable[str]) -> list[Chosen]:
    """Which backups a run proves that was started by backups: those whose tier is to be proved, each once.

    Airflow joins events of one asset that come while a run is under way and hands on the first of them only. So the
    newest backup of a database that had an event is taken too where it has no certificate yet.

    Raises:
        StoreError: the store cannot be read.
    """
    settings = configuration.load()
    store = open_store(settings.store)
    by_database: dict[str, set[str]] = {}
    for backup in backups:
        by_database.setdefault(BackupId.parse(backup).database, set()).add(backup)
    chosen = []
    for database, told in by_database.items():
        if database not in settings.databases:
            log.info("%s: not configured any more, nothing is proved", database)
            continue
        entries = {entry.manifest.id: entry for entry in read_catalog(store, database).entries}
        for gone in sorted(told - entries.keys()):
            log.info("%s: skipped, the catalog does not have it any more", gone)
        chosen += [
            Chosen(name=database, backup=entry.manifest.id)
            for entry in _to_prove(list(entries.values()), told, settings.databases[database])
        ]
    return chosen


def _to_prove(entries: Sequence[CatalogEntry], told: set[str], options: DatabaseSettings) -> list[CatalogEntry]:
    of_tiers = [entry for entry in entries if entry.manifest.tier in options.proof.tiers]
    wanted = [entry for entry in of_tiers if entry.manifest.id in told and not entry.proved]
    newest = of_tiers[-1] if of_tiers else None
    if newest is not None and newest not in wanted and newest.good and newest.verdict is None:
        wanted.append(newest)
    for entry in entries:
        if entry.manifest.id in told and entry not in wanted:
            why = "proved already" if entry.proved else f"backups of tier {entry.manifest.tier} are not proved"
            log.info("%s: skipped, %s", entry.manifest.id, why)
    return wanted


def choose_by_hand(params: Mapping[str, Any]) -> list[Chosen]:
    """Which backups a run proves that was started by hand: the one that was named, else the newest of each database.

    Raises:
        MaintenanceError: there is no such backup, or its database is not configured.
    """
    settings = configuration.load()
    store = open_store(settings.store)
    if named := str(params.get("backup") or "").strip():
        backup = parsed(named, settings)
        read_manifest(store, backup)
        return [Chosen(name=backup.database, backup=backup.stem)]
    chosen = []
    for database in params.get("databases") or []:
        if entries := read_catalog(store, database).entries:
            chosen.append(Chosen(name=database, backup=entries[-1].manifest.id))
        else:
            log.warning("%s: there is no backup yet that could be proved", database)
    return chosen


def parsed(text: str, settings: Settings) -> BackupId:
    """The backup that a person named in a form.

    Raises:
        MaintenanceError: it is no backup's id, or its database is not configured.
    """
    try:
        backup = BackupId.parse(text)
    except ValueError as error:
        raise _form_error(str(error)) from None
    if backup.database not in settings.databases:
        raise _form_error(f"{backup.database} is not configured; configured: {', '.join(settings.databases)}")
    return backup


def _form_error(what: str) -> MaintenanceError:
    return MaintenanceError(
        what,
        untouched="everything: nothing was begun",
        remedy="start the run again; `python -m include.cli backups` lists the ids",
    )


def prove(backup: str) -> ProofResult:
    """Restore one backup on the proving ground, compare it with what was dumped, and write its certificate.

    Raises:
        NotProvedError: the restored copy differs, or not everything could be compared.
        MaintenanceError: the proving ground or the store did not do its part; no certificate was written.
    """
    settings = configuration.load()
    identifier = BackupId.parse(backup)
    options = settings.databases[identifier.database]
    store = open_store(settings.store)
    place = settings.proving_ground
    proof = prove_backup(
        open_ground(postgres_dsn(place.connection), production(settings, store)),
        store,
        identifier,
        options=options.proof,
        jobs=place.jobs,
        staging=Path(place.staging) if place.staging else None,
        identity=identity(settings),
        now=lambda: datetime.now(UTC),
        progress=_logged_progress(),
    )
    for check in proof.checks:
        log.info("%s: %s: %s", check.name, check.outcome, check.detail)
        for finding in check.findings:
            log.warning("%s: %s", check.name, finding)
    log.info("%s: %s, restored in %s", backup, proof.verdict, precisedelta(proof.rto_seconds))
    require_proved(proof)
    return ProofResult(
        backup=proof.backup,
        verdict=proof.verdict,
        counts_only=proof.counts_only,
        rto_seconds=proof.rto_seconds,
        check_seconds=proof.check_seconds,
    )


def _logged_progress() -> Progress:
    last = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_EVERY_SECONDS:
            last = time.monotonic()
            figures = [naturalsize(each, binary=True) if what == "bytes" else f"{each:,}" for each in (done, total)]
            log.info("%s: %s of %s", what, *figures)

    return tell


def identity(settings: Settings) -> str | None:
    """The age private key of encrypted backups, where its connection exists."""
    connection = find(settings.proving_ground.identity_connection)
    return connection.password if connection is not None else None


def production(settings: Settings, store: Store) -> Production:
    """Every server that must never be a proving ground.

    Known by the manifests of each database in the store, configured or not; by asking those that are configured and
    answer at once; and by the addresses in their connections.

    Raises:
        StoreError: the store cannot be read.
    """
    servers = {}
    for name, options in settings.databases.items():
        try:
            servers[name] = postgres_dsn(options.connection, database=name)
        except MaintenanceError as error:
            # One database that is not set up right keeps no other from being proved; its manifests still tell.
            log.warning("%s: its server is known by its manifests alone: %s", name, error.what)
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(servers, pool.map(_ask_identifier, servers.values()), strict=True))
    return Production(
        identifiers=_identifiers(store) | {known: name for name, known in answers.items() if known is not None},
        addresses={(dsn.host, dsn.port): name for name, dsn in servers.items()},
    )


def _identifiers(store: Store) -> dict[str, str]:
    """Of each database the newest that its manifests say: a server that was replaced may serve as proving ground."""
    backups = [named[0] for item in store.list() if (named := BackupId.from_key(item.key)) and named[1] == ".json"]
    newest: dict[str, str] = {}
    for backup in sorted(backups, key=lambda each: each.created_at, reverse=True):
        if backup.database not in newest:
            with suppress(UnreadableManifestError, NoSuchBackupError):
                if known := read_manifest(store, backup).server.system_identifier:
                    newest[backup.database] = known
    return {known: database for database, known in newest.items()}


def _ask_identifier(dsn: Dsn) -> str | None:
    import psycopg

    patient = replace(dsn, options={**dsn.options, "connect_timeout": str(_REACHABLE_SECONDS)})
    # A production server that is down must not keep its backups from being proved.
    with suppress(psycopg.Error), patient.connect() as connection:
        connection.execute(f"SET statement_timeout = '{_REACHABLE_SECONDS}s'")
        return source.identity(connection).system_identifier
    return None


def report(instance: Any, chosen: Sequence[Chosen] | None) -> dict[str, str]:
    """Sum up a run of proofs, tell Slack of tasks that were killed without a word, fail the run where anything failed.

    Args:
        instance: the running task instance.
        chosen: the backups, as they were mapped; None where choosing them failed.

    Returns:
        For each backup what became of it.

    Raises:
        AirflowSkipException: there was nothing to prove.
        RunFailedError: a backup was not proved.
    """
    states = alerts.task_states(instance)
    untouched = "backups and certificates are as they were; the next proof drops the copy that was left behind"
    if alerts.broken_task(instance, states, ["choose"], map_index=-1, database=None, untouched=untouched):
        raise alerts.RunFailedError("failed: no backup could be chosen")
    if not chosen:
        raise AirflowSkipException("nothing to prove")
    summary, failed = {}, []
    for index, each in enumerate(chosen):
        broken = alerts.broken_task(
            instance,
            states,
            [f"backup.{step}" for step in STEPS],
            map_index=index,
            database=each["name"],
            untouched=untouched,
        )
        proof: ProofResult | None = instance.xcom_pull(task_ids="backup.prove", map_indexes=index)
        if proof is not None:
            rows = ", rows counted only" if proof["counts_only"] else ""
            summary[each["backup"]] = f"{proof['verdict']}{rows}; restored in {precisedelta(proof['rto_seconds'])}"
        else:
            summary[each["backup"]] = "not proved"
        log.info("%s: %s", each["backup"], summary[each["backup"]])
        if broken:
            failed.append(each["backup"])
    if failed:
        raise alerts.RunFailedError(f"failed: {', '.join(failed)}; the others were finished")
    return summary
