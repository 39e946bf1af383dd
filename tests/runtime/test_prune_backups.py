"""The prune task: the plan is made with what the proofs say and with the losses that nobody has explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.backup.anomaly import accept
from include.backup.stores.local import LocalStore
from include.config.settings import CONFIG_VARIABLE
from include.runtime.backup import prune_backups
from tests.backup.retention_world import catalog, entry, table, write

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    config = tmp_path / "maintenance.yaml"
    config.write_text(
        f"store: {{url: 'file://{tmp_path}/store'}}\nretention: {{daily: 2}}\n"
        "databases: {hotel: {connection: hotel_db, monitor: {table_rows_lost_percent: 60}}}\n"
    )
    monkeypatch.setenv(CONFIG_VARIABLE, str(config))
    return LocalStore(tmp_path / "store")


def nights(store: LocalStore, rows: int, **newest: Any) -> None:
    for day in range(1, 5):
        write(store, entry(NOW - timedelta(days=day), tables=(table(1000),)))
    write(store, entry(NOW - timedelta(minutes=10), tables=(table(rows),), **newest))


def test_a_database_whose_backups_are_as_they_should_be_is_pruned(store: LocalStore) -> None:
    nights(store, 401)  # the 60 % that this database's own setting allows
    result = prune_backups("hotel")
    assert (result["stopped"], len(result["removed"]), len(catalog(store))) == (None, 3, 2)


def test_an_unexplained_loss_stops_pruning_with_a_warning_until_it_is_accepted(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    nights(store, 400)
    result = prune_backups("hotel")
    assert result["removed"] == []
    assert "hotel.bookings had 1,000 rows" in (result["stopped"] or "")
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "nothing of hotel is pruned" in warning.getMessage()
    assert "monitor --accept" in warning.getMessage()
    accept(store, catalog(store)[-1].backup_id, "the archive was emptied", NOW)
    assert len(prune_backups("hotel")["removed"]) == 3


def test_a_failed_proof_stops_pruning(store: LocalStore) -> None:
    nights(store, 1000, proof="failed")
    result = prune_backups("hotel")
    assert result["removed"] == []
    assert "the newest proof of this database failed" in (result["stopped"] or "")
