"""Proofs as a real scheduler runs them: started by backups, by hand, and told where they fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import DumpOptions
from include.backup.verify import verify
from tests.dags.conftest import RUN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.backup.model import BackupId
    from tests.dags.conftest import Night

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def no_proof_under_way(night: Night) -> None:
    """What an earlier test's backups started has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    path = "/api/v2/dags/backup_prove/dagRuns?state=queued&state=running"
    while night.api._call("GET", path)["dag_runs"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture
def unknown_grantee(night: Night) -> Iterator[str]:
    """A role that a grant in alpha_2 names and the proving ground does not know."""
    role = "night_auditor"
    with night.databases["alpha_2"].connect() as owner, night.server.superuser().connect() as superuser:
        superuser.execute(f"CREATE ROLE {role} NOLOGIN")
        owner.execute(f"GRANT SELECT ON guests TO {role}")
        yield role
        owner.execute(f"REVOKE SELECT ON guests FROM {role}")
        superuser.execute(f"DROP ROLE {role}")
    with night.ground.superuser().connect() as superuser:
        superuser.execute(f"DROP ROLE IF EXISTS {role}")


def test_each_backup_starts_its_own_proof_and_one_that_fails_is_told_once_with_its_remedy(
    night: Night, unknown_grantee: str
) -> None:
    told = len(night.slack.messages)
    with night.databases["alpha_2"].connect(autocommit=False) as holder:
        # alpha's backup is proved while alpha_2's is still being dumped.
        holder.execute("LOCK TABLE guests IN ACCESS EXCLUSIVE MODE")
        run_id = night.api.trigger("backup_weekly", conf={"databases": ["alpha", "alpha_2"]})
        first = _started_by(night, run_id, number=1)
        assert night.api.wait_for_run("backup_prove", first, seconds=RUN_SECONDS) == "success"
        assert night.api.run_state("backup_weekly", run_id) == "running"
    proved = night.backups("alpha")[-1]
    assert proved.manifest.run_id == run_id
    assert proved.proved
    assert {name for name, _ in night.tasks("backup_prove", first)} == {"choose", "prove", "prune", "report"}
    assert all(task.state == "success" for task in night.tasks("backup_prove", first).values())
    assert len(night.slack.messages) == told

    assert night.api.wait_for_run("backup_weekly", run_id, seconds=RUN_SECONDS) == "success"
    second = _started_by(night, run_id, number=2)
    assert night.api.wait_for_run("backup_prove", second, seconds=RUN_SECONDS) == "failed"
    backup = night.backups("alpha_2")[-1]
    assert backup.verdict is None, "what the proving ground lacks says nothing about the backup"
    tasks = night.tasks("backup_prove", second)
    assert tasks["prove", backup.manifest.id].state == "failed"
    assert tasks["prove", backup.manifest.id].try_number == 1
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    for words in ("backup_prove: prove failed - alpha_2", unknown_grantee, f'CREATE ROLE "{unknown_grantee}"'):
        assert words in message

    # As the message says; then by hand, for that very backup.
    with night.ground.superuser().connect() as superuser:
        superuser.execute(f"CREATE ROLE {unknown_grantee} NOLOGIN")
    _, state = night.run("backup_prove", backup=backup.manifest.id)
    assert state == "success"
    assert night.backups("alpha_2")[-1].proved
    assert night.backups("alpha")[-1] == proved, "the other was not proved again"
    assert _copies(night) == []


def test_a_backup_that_was_damaged_in_the_store_fails_its_proof_and_the_other_database_is_proved(night: Night) -> None:
    told = len(night.slack.messages)
    damaged, sound = (_backed_up(night, database) for database in ("alpha", "alpha_2"))
    archive = night.folder / damaged.dump_key
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    run_id, state = night.run("backup_prove", databases=["alpha", "alpha_2"])
    assert state == "failed"
    tasks = night.tasks("backup_prove", run_id)
    assert tasks["prove", damaged.stem].state == "failed"
    assert tasks["prune", sound.stem].state == "success"
    assert night.backups("alpha")[-1].verdict == "failed"
    assert night.backups("alpha_2")[-1].proved
    (message,) = [str(each["text"]) for each in night.slack.messages[told:]]
    for words in ("alpha", damaged.stem, "run the backup again now"):
        assert words in message
    with night.databases["alpha"].connect() as session:
        assert session.execute("SELECT count(*) FROM guests").fetchone() == (5000,)


def _started_by(night: Night, run_id: str, *, number: int) -> str:
    """The first, second, … run of `backup_prove` that a backup's run started."""
    deadline = time.monotonic() + RUN_SECONDS
    while len(found := night.api.started_runs("backup_prove", by="backup_weekly", by_run=run_id)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    return found[number - 1]


def _backed_up(night: Night, database: str) -> BackupId:
    dsn, options = night.databases[database], DumpOptions()
    manifest = back_up(dsn, night.store, database=database, tier=Tier.DAILY, options=options, run_id="by the test")
    verify(night.store, manifest.backup_id)
    return manifest.backup_id


def _copies(night: Night) -> list[str]:
    with night.ground.superuser().connect() as session:
        return [name for (name,) in session.execute(r"SELECT datname FROM pg_database WHERE datname LIKE 'np\_%'")]
