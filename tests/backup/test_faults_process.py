"""The machine takes the whole process away, or many backups run at once: what is left is clean and is found again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from psycopg import sql

from include.backup.catalog import read_catalog
from include.backup.stores.local import LocalStore
from include.backup.sweep import sweep
from include.backup.verify import verify
from tests.backup.dump_world import WatchedStore, contents_of, dump, once, options, pg_dumps, run_sql, soon

if TYPE_CHECKING:
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

# A process of its own that backs up; with `slow`, each megabyte takes a while to be stored.
BACK_UP = """
import json, signal, sys, time
from datetime import datetime
from pathlib import Path
from include.postgres.dsn import Dsn
from tests.backup.dump_world import WatchedStore, dump, options
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background begins with it ignored
said = json.load(sys.stdin)
store = WatchedStore(Path(said["root"]), lambda step, sent: time.sleep(said["pause"]) if step == "write" else None)
now = datetime.fromisoformat(said["now"])
print(dump(Dsn(**said["dsn"]), store, options(**said["options"]), now=lambda: now).id)
"""


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    made = fresh_database(pg17, "app")
    run_sql(made, "CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 32) AS f FROM generate_series(1, 12000) i")
    return made


def start(dsn: Dsn, root: Path, *, pause: float = 0, now: datetime | None = None, **how: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BACK_UP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    known = {"host": dsn.host, "port": dsn.port, "dbname": dsn.dbname, "user": dsn.user, "password": dsn.password}
    moment = (now or datetime.now(UTC)).isoformat()
    json.dump({"dsn": known, "root": str(root), "pause": pause, "now": moment, "options": how}, process.stdin)
    process.stdin.close()
    process.stdin = None
    return process


def sessions(server: PostgresServer, dsn: Dsn) -> int:
    with server.superuser().connect() as admin:
        row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (dsn.dbname,)).fetchone()
    return int(row[0]) if row else 0


def test_a_backup_whose_process_is_killed_leaves_no_pg_dump_no_session_and_no_backup(
    dsn: Dsn, pg17: PostgresServer, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    earlier = dump(dsn, LocalStore(root))
    before = contents_of(root)
    process = start(dsn, root, pause=0.3, compression="none")
    try:
        # The archive is being written, and pg_dump is in the middle of it.
        assert soon(
            lambda: any(path.stat().st_size > 2**20 for path in root.rglob(".night-porter-upload-*")), seconds=30
        )
        assert len(pg_dumps(dsn)) == 1
    finally:
        process.kill()
        process.communicate()
    assert soon(lambda: pg_dumps(dsn) == [], seconds=2)
    assert soon(lambda: sessions(pg17, dsn) == 0, seconds=2)
    store = LocalStore(root)
    assert [entry.manifest.id for entry in read_catalog(store, "app").entries] == [earlier.id]
    assert {name: data for name, data in contents_of(root).items() if name in before} == before
    (left,) = store.unfinished()
    assert left.key.startswith("app/daily/app_")
    now = datetime.now(UTC)
    assert sweep(store, "app", now=now + timedelta(days=1), dry_run=False).uploads == ()
    assert sweep(store, "app", now=now + timedelta(days=8), dry_run=False).uploads == (left,)
    assert contents_of(root) == before
    # The name of the killed run was given back with its session.
    assert verify(store, dump(dsn, store).backup_id).failure is None


def test_a_parallel_backup_whose_process_is_killed_leaves_no_pg_dump(
    dsn: Dsn, pg17: PostgresServer, tmp_path: Path
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    # About four seconds of gzip:9 for the worker that reads it.
    run_sql(
        dsn, "CREATE TABLE hard AS SELECT i, md5(i::text) || md5((i * 7)::text) AS f FROM generate_series(1, 500000) i"
    )
    process = start(dsn, tmp_path / "store", compression="gzip:9", staging=str(staging))
    try:
        assert soon(lambda: any(path.stat().st_size for path in staging.glob("*/archive/*.dat.gz")), seconds=30)
        assert len(pg_dumps(dsn)) > 1
    finally:
        process.kill()
        process.communicate()
    assert soon(lambda: pg_dumps(dsn) == [], seconds=2)
    assert soon(lambda: sessions(pg17, dsn) == 0, seconds=2)
    assert contents_of(tmp_path / "store") == {}


def test_a_terminated_backup_cleans_up_after_itself(dsn: Dsn, pg17: PostgresServer, tmp_path: Path) -> None:
    process = start(dsn, tmp_path / "store", pause=0.3, compression="none")
    try:
        assert soon(lambda: any((tmp_path / "store").rglob(".night-porter-upload-*")), seconds=30)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    assert pg_dumps(dsn) == []
    assert contents_of(tmp_path / "store") == {}


def test_processes_that_start_in_the_same_second_make_a_whole_backup_each(dsn: Dsn, tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    processes = [start(dsn, tmp_path / "store", now=now) for _ in range(3)]
    ids = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    store = LocalStore(tmp_path / "store")
    entries = read_catalog(store, "app").entries
    assert {entry.manifest.id for entry in entries} == ids
    assert [entry.manifest.created_at - now for entry in entries] == [timedelta(seconds=n) for n in range(3)]
    for entry in entries:
        assert verify(store, entry.backup_id).failure is None


NASTY = {
    "letters of all the world": "pläin ünïcode 密码 🔑",
    "backslashes and colons": r"back\slash:colon\\:x",
    "spaces and quotes": "sp ace 'quote' \"double\" %41 %s {x}",
    "signs of the shell": "#=;$HOME`id`",
    "one backslash": "\\",
}


@pytest.mark.parametrize("password", NASTY.values(), ids=NASTY.keys())
def test_a_nasty_password_works_and_is_seen_by_nobody(
    dsn: Dsn, pg17: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    with pg17.superuser().connect() as admin:
        admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(dsn.user), password))
    nasty = replace(dsn, password=password)
    seen: list[str] = []

    def look() -> None:
        (pg_dump,) = pg_dumps(dsn)
        seen.extend(pg_dump.environ().values())
        seen.append(str(pg_dump.open_files()))
        for process in psutil.process_iter():
            try:
                seen.extend(process.cmdline())
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        seen.extend(path.name for path in Path("/tmp").iterdir())  # noqa: S108 - looked at, not written to

    root = tmp_path / "store"
    manifest = dump(nasty, WatchedStore(root, once("write", look)), options("none"))
    assert len(seen) > 20
    assert all(password not in text for text in seen if len(password) > 1)
    assert all(password.encode() not in data for name, data in contents_of(root).items() if ".json" in name)
    assert password not in repr(nasty)
    if len(password) > 1:
        assert password not in caplog.text
        assert password not in manifest.model_dump_json()


def test_the_callers_own_environment_changes_nothing(dsn: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "trap"
    trap.write_text("*:*:*:*:wrong\n")
    trap.chmod(0o600)
    for name, value in {
        "PGHOST": "192.0.2.1",
        "PGPASSWORD": "wrong",
        "PGPASSFILE": str(trap),
        "PGAPPNAME": "x",
        "LC_ALL": "de_DE.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)
    store = LocalStore(tmp_path / "store")
    assert verify(store, dump(dsn, store).backup_id).failure is None
