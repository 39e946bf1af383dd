"""Which backups a run proves, and which servers must never be the proving ground."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowSkipException

from include.backup.catalog import NoSuchBackupError
from include.backup.model import ServerIdentity, Tier
from include.backup.stores.local import LocalStore
from include.config import settings as configuration
from include.errors import MaintenanceError
from include.runtime import proving
from include.runtime.alerts import RunFailedError
from tests.backup.retention_world import days_ago, entry, write

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.model import CatalogEntry
    from include.stack.postgres import PostgresServer


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store, and settings for `hotel` (daily and weekly backups are proved) and `ledger` (none is)."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    tiers = {"hotel": ["daily", "weekly"], "ledger": []}
    databases = {name: {"connection": f"{name}_db", "proof": {"tiers": names}} for name, names in tiers.items()}
    file = tmp_path / "maintenance.yaml"
    file.write_text(yaml.safe_dump({"store": {"url": (tmp_path / "store").as_uri()}, "databases": databases}))
    monkeypatch.setenv("NIGHT_PORTER_CONFIG", str(file))
    (tmp_path / "store").mkdir()
    return LocalStore(tmp_path / "store")


def _written(store: LocalStore, *entries: CatalogEntry) -> list[str]:
    for each in entries:
        write(store, each)
    return [each.manifest.id for each in entries]


def _landed(*backups: str) -> list[str]:
    """What a run proves that events of these backups started."""
    events = {backup: [SimpleNamespace(extra={"backup": backup, "tier": "daily"})] for backup in backups}
    return [each["backup"] for each in proving.choose(started_by_backups=True, events=events, params={})]


def test_every_event_of_a_run_is_handled(store: LocalStore) -> None:
    backups = _written(store, *(entry(days_ago(day)) for day in (2, 1, 0)), entry(days_ago(3), Tier.WEEKLY))
    assert set(_landed(*backups)) == set(backups)


def test_a_tier_that_is_not_to_be_proved_is_not(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (monthly,) = _written(store, entry(days_ago(0), Tier.MONTHLY))
    (other,) = _written(store, entry(days_ago(0), database="ledger"))
    assert _landed(monthly, other) == []
    assert "backups of tier monthly are not proved" in caplog.text


def test_a_backup_that_was_pruned_since_is_skipped_with_a_word(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gone = entry(days_ago(1)).manifest.id
    (there,) = _written(store, entry(days_ago(0)))
    assert _landed(gone, there) == [there]
    assert f"{gone}: skipped, the catalog does not have it any more" in caplog.text


def test_a_backup_whose_event_airflow_joined_with_an_earlier_one_is_proved_too(store: LocalStore) -> None:
    first, second = _written(store, entry(days_ago(1)), entry(days_ago(0)))
    assert _landed(first) == [first, second]


@pytest.mark.parametrize(
    "newest",
    [
        entry(days_ago(0), state="unverified"),
        entry(days_ago(0), proof="failed"),
        entry(days_ago(0), proof="incomplete"),
    ],
)
def test_nothing_is_proved_unasked_that_is_unverified_or_has_a_certificate(
    store: LocalStore, newest: CatalogEntry
) -> None:
    first, _ = _written(store, entry(days_ago(1)), newest)
    assert _landed(first) == [first]


def test_what_was_proved_meanwhile_is_not_proved_again(store: LocalStore) -> None:
    (proved,) = _written(store, entry(days_ago(0), proof="proved"))
    assert _landed(proved) == []


def test_a_database_that_is_not_configured_any_more_is_left_alone(store: LocalStore) -> None:
    (orphan,) = _written(store, entry(days_ago(0), database="bar"))
    assert _landed(orphan) == []
    with pytest.raises(MaintenanceError, match="bar is not configured; configured: hotel, ledger"):
        _by_hand(backup=orphan)


def _by_hand(**params: Any) -> list[str]:
    return [each["backup"] for each in proving.choose(started_by_backups=False, events={}, params=params)]


def test_by_hand_the_newest_backup_of_each_chosen_database_is_proved_whatever_its_tier(store: LocalStore) -> None:
    _written(store, entry(days_ago(3)), entry(days_ago(2), database="ledger"))
    newest = _written(store, entry(days_ago(1), Tier.MONTHLY), entry(days_ago(1), proof="proved", database="ledger"))
    assert _by_hand(databases=["hotel", "ledger"]) == newest
    assert _by_hand(databases=["ledger"]) == newest[1:]


def test_by_hand_a_named_backup_is_proved_in_place_of_the_newest_ones(store: LocalStore) -> None:
    older, _ = _written(store, entry(days_ago(3)), entry(days_ago(2)))
    assert _by_hand(databases=["hotel", "ledger"], backup=f" {older} ") == [older]
    with pytest.raises(NoSuchBackupError):
        _by_hand(backup=entry(days_ago(9)).manifest.id)
    with pytest.raises(MaintenanceError, match="is no backup's id"):
        _by_hand(backup="the one of yesterday")


def test_a_database_without_any_backup_is_named_and_no_failure(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert _by_hand(databases=["hotel"]) == []
    assert "hotel: there is no backup yet" in caplog.text


def _connect(monkeypatch: pytest.MonkeyPatch, name: str, *, port: int, password: str | None = None) -> None:
    fields = {"conn_type": "postgres", "host": "127.0.0.1", "port": port, "schema": "postgres", "login": "postgres"}
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_DB", json.dumps({**fields, "password": password}))


def test_production_is_known_by_manifests_by_its_answer_and_by_its_address(
    store: LocalStore, pg17: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def server(identifier: str | None) -> ServerIdentity:
        return ServerIdentity(system_identifier=identifier, database="x", version="17.10", major=17)

    _written(
        store,
        entry(days_ago(2), server=server("long ago")),
        entry(days_ago(1), Tier.WEEKLY, server=server("hotel's")),
        entry(days_ago(1), database="bar", server=server("bar's")),
        entry(days_ago(1), database="spa", server=server("bar's")),
        entry(days_ago(3), database="bar", server=server("bar's, before it moved")),
        entry(days_ago(0), database="ledger", server=server(None)),
    )
    superuser = pg17.superuser()
    _connect(monkeypatch, "ledger", port=pg17.port, password=superuser.password)
    _connect(monkeypatch, "hotel", port=1)  # nobody answers there
    with superuser.connect() as session:
        row = session.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert row is not None
    found = proving.production(configuration.load(), store)
    assert found.identifiers.keys() == {"hotel's", "bar's", row[0]}
    assert found.identifiers["hotel's"] == "hotel"
    assert found.identifiers[row[0]] == "ledger"
    assert found.addresses == {("127.0.0.1", pg17.port): "ledger", ("127.0.0.1", 1): "hotel"}


def test_a_database_that_is_not_set_up_right_keeps_no_other_from_being_proved(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = ServerIdentity(system_identifier="hotel's", database="x", version="17.10", major=17)
    _written(store, entry(days_ago(2), server=known))
    damaged = entry(days_ago(1)).backup_id
    store.put(damaged.manifest_key, b"{", replace=True)
    _connect(monkeypatch, "ledger", port=1)
    found = proving.production(configuration.load(), store)
    assert found.identifiers == {"hotel's": "hotel"}
    assert found.addresses == {("127.0.0.1", 1): "ledger"}
    assert "hotel: its server is known by its manifests alone" in caplog.text


def test_the_private_key_is_the_password_of_its_connection(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proving.identity(configuration.load()) is None
    monkeypatch.setenv("AIRFLOW_CONN_BACKUP_IDENTITY", json.dumps({"conn_type": "generic", "password": "AGE-SECRET"}))
    assert proving.identity(configuration.load()) == "AGE-SECRET"


class Run(SimpleNamespace):
    """What the last task sees of its run."""

    dag_id, run_id = "backup_prove", "manual__1"

    def get_task_breadcrumbs(self, *, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [{"task_id": task, "map_index": index, "state": state} for (task, index), state in self.states.items()]

    def xcom_pull(self, *, task_ids: str, key: str = "return_value", map_indexes: int = -1) -> Any:
        return self.pushed.get((task_ids, map_indexes, key))


CHOSEN: list[proving.Chosen] = [{"name": "hotel", "backup": "one"}, {"name": "ledger", "backup": "two"}]
PROOF = {"backup": "one", "verdict": "proved", "counts_only": True, "rto_seconds": 61.0, "check_seconds": 1.0}


def test_a_run_without_anything_to_prove_is_skipped() -> None:
    with pytest.raises(AirflowSkipException, match="nothing to prove"):
        proving.report(Run(states={("choose", -1): "success"}, pushed={}), [])


def test_a_proof_that_was_killed_without_a_word_is_told_and_the_others_are_summed_up(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    states = {("choose", -1): "success", ("backup.prove", 0): "success", ("backup.prove", 1): "failed"}
    pushed = {("backup.prove", 0, "return_value"): PROOF}
    with pytest.raises(RunFailedError, match="failed: two"):
        proving.report(Run(states=states, pushed=pushed), CHOSEN)
    assert "backup_prove: prove was killed - ledger" in caplog.text
    assert "one: proved, rows counted only; restored in 1 minute and 1 second" in caplog.text
    caplog.clear()
    with pytest.raises(RunFailedError):
        proving.report(Run(states=states, pushed={**pushed, ("backup.prove", 1, "told"): True}), CHOSEN)
    assert "was killed" not in caplog.text


def test_a_choice_that_was_killed_is_told(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RunFailedError):
        proving.report(Run(states={("choose", -1): "failed"}, pushed={}), None)
    assert "backup_prove: choose was killed" in caplog.text
