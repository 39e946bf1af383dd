"""Whatever goes wrong between the server and pg_dump: it is told, nothing is listed, nothing is left behind."""

from __future__ import annotations

import signal
import tempfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from include.backup.stores.local import LocalStore
from include.errors import MaintenanceError
from include.stack.postgres import PostgresServer
from tests.backup.dump_world import (
    WatchedStore,
    contents_of,
    dump,
    once,
    options,
    pg_dumps,
    run_sql,
    soon,
)
from tests.conftest import FAST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.options import DumpOptions
    from include.postgres.dsn import Dsn
    from tests.conftest import FreshDatabase

MIB = 1024 * 1024
# About 12 MiB of COPY text; a pipe holds one, so pg_dump is still writing when the first bytes arrive.
WIDE = (
    "CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 32) AS filler FROM generate_series(1, 12000) i",
    "CREATE TABLE aside (a int)",
)


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    made = fresh_database(pg17, "app")
    run_sql(made, *WIDE)
    return made


@pytest.fixture
def root(dsn: Dsn, tmp_path: Path) -> Path:
    """A store's folder with a good backup of another day in it."""
    folder = tmp_path / "store"
    dump(dsn, LocalStore(folder))
    return folder


def fails(dsn: Dsn, store: LocalStore, root: Path, how: DumpOptions | None = None) -> MaintenanceError:
    """A backup that fails as a failure must: told in full, without secrets, without a trace in the store."""
    before = contents_of(root)
    with pytest.raises(MaintenanceError) as raised:
        dump(dsn, store, how or options("none"))
    error = raised.value
    assert error.what
    assert error.untouched
    assert error.remedy
    assert error.database == "app" or error.database is None
    assert dsn.password is not None
    assert dsn.password not in str(error)
    assert contents_of(root) == before
    assert pg_dumps(dsn) == []
    return error


def sessions(server: PostgresServer, dsn: Dsn) -> int:
    with server.superuser().connect() as admin:
        row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (dsn.dbname,)).fetchone()
    return int(row[0]) if row else 0


def end_dump(dsn: Dsn, number: signal.Signals) -> None:
    for process in pg_dumps(dsn):
        process.send_signal(number)


# The table is 12 MiB; with one in the pipe and one in hand pg_dump must still have some to write.
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("step", "after"), [("upload", 0), ("write", 1), ("write", 6 * MIB), ("write", 8 * MIB)])
def test_a_pg_dump_that_is_killed_leaves_nothing_however_far_it_came(
    dsn: Dsn, root: Path, pg17: PostgresServer, step: str, after: int, number: signal.Signals
) -> None:
    store = WatchedStore(root, once(step, lambda: end_dump(dsn, number), after=after))
    error = fails(dsn, store, root)
    if number is signal.SIGKILL:
        assert "pg_dump was killed by signal 9 (SIGKILL)" in error.what
        assert "out-of-memory killer" in error.remedy
    else:
        assert "pg_dump" in error.what
    assert soon(lambda: sessions(pg17, dsn) == 0, seconds=5)


def test_a_pg_dump_killed_under_encryption_leaves_nothing_either(dsn: Dsn, root: Path) -> None:
    import pyrage

    how = options("none", encryption_recipients=(str(pyrage.x25519.Identity.generate().to_public()),))
    store = WatchedStore(root, once("write", lambda: end_dump(dsn, signal.SIGKILL), after=5 * MIB))
    assert "killed by signal 9" in fails(dsn, store, root, how).what


def test_a_parallel_pg_dump_that_is_killed_leaves_no_worker_and_no_staging(
    dsn: Dsn, root: Path, pg17: PostgresServer, tmp_path: Path
) -> None:
    run_sql(dsn, "CREATE TABLE again AS SELECT wide.* FROM wide, generate_series(1, 4)")
    staging = tmp_path / "staging"
    staging.mkdir()
    stopped = threading.Event()

    def kill_the_leader() -> None:
        # Each of the two workers is busy with a table when the leader, the oldest, goes.
        if soon(lambda: len(pg_dumps(dsn)) == 3 and any(staging.glob("*/archive/*.dat.gz")), seconds=20):
            min(pg_dumps(dsn), key=lambda process: process.pid).kill()
            stopped.set()

    killer = threading.Thread(target=kill_the_leader)
    killer.start()
    error = fails(dsn, LocalStore(root), root, options("gzip:9", staging=staging))
    killer.join()
    assert stopped.is_set()
    assert "killed by signal 9" in error.what
    assert list(staging.iterdir()) == []
    assert soon(lambda: sessions(pg17, dsn) == 0, seconds=5)


def test_the_session_that_holds_the_snapshot_being_ended_fails_the_backup(
    dsn: Dsn, root: Path, pg17: PostgresServer
) -> None:
    def end_the_holder() -> None:
        with pg17.superuser(dsn.dbname).connect() as admin:
            admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'")

    before = contents_of(root)
    store = WatchedStore(root, once("write", end_the_holder, after=5 * MIB))
    with pytest.raises(MaintenanceError, match="the session that holds the snapshot failed") as raised:
        dump(dsn, store, options("none"))
    assert raised.value.transient
    assert "server's log" in raised.value.remedy
    # The archive itself was whole by then: it is no backup, because no manifest speaks for it.
    assert {name for name in contents_of(root) if name.endswith(".json")} == {n for n in before if n.endswith(".json")}
    assert pg_dumps(dsn) == []


def test_fingerprints_that_fail_discard_the_archive(dsn: Dsn, root: Path, pg17: PostgresServer) -> None:
    run_sql(dsn, "CREATE UNLOGGED TABLE long AS SELECT generate_series(1, 700000) AS a")

    def cancel_the_fingerprint() -> None:
        with pg17.superuser(dsn.dbname).connect() as admin:
            assert soon(
                lambda: (
                    admin.execute(
                        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = %s AND query LIKE '%%hash_record_extended%%' AND state = 'active' "
                        "AND pid <> pg_backend_pid()",
                        (dsn.dbname,),
                    ).fetchone()
                    is not None
                ),
                seconds=5,
            )

    error = fails(dsn, WatchedStore(root, once("upload", cancel_the_fingerprint)), root)
    assert "canceling statement due to user request" in error.what
    assert not error.transient


def test_a_failure_does_not_wait_for_fingerprints_that_nobody_needs_any_more(
    dsn: Dsn, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = psycopg.Connection.cancel_safe
    asked = []

    def comes_too_late_once(connection: psycopg.Connection, *, timeout: float = 30.0) -> None:
        asked.append(timeout)
        if len(asked) > 1:
            cancel(connection, timeout=timeout)

    monkeypatch.setattr(psycopg.Connection, "cancel_safe", comes_too_late_once)
    with dsn.connect() as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE wide")  # the fingerprints wait for it, and would for ever
        error = fails(dsn, WatchedStore(root, once("upload", lambda: end_dump(dsn, signal.SIGKILL))), root)
    assert "killed by signal 9" in error.what
    assert len(asked) == 2


def test_a_locked_table_is_named_when_its_lock_does_not_come_in_time(dsn: Dsn, root: Path) -> None:
    with dsn.connect() as other:
        other.execute("BEGIN")
        other.execute("ALTER TABLE wide ADD COLUMN later int")
        error = fails(dsn, LocalStore(root), root, options("none", lock_timeout_seconds=1))
        holder = other.info.backend_pid
    assert f"exclusively locked: public.wide (by process {holder} of role {dsn.user})" in error.what
    assert "aside" not in error.what
    assert "holds the lock" in error.remedy
    assert error.transient


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
def test_a_dump_that_takes_too_long_is_stopped_and_says_which_option_to_raise(
    dsn: Dsn, root: Path, tmp_path: Path, archive_format: str
) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    slow = options("gzip:1", staging=staging if archive_format == "directory" else None)
    impatient = slow.model_copy(update={"dump_timeout_minutes": 0.5 / 60})
    with dsn.connect(autocommit=False) as other:
        other.execute("LOCK TABLE wide")  # pg_dump waits for it for longer than the dump may take
        error = fails(dsn, LocalStore(root), root, impatient)
    assert "dump_timeout_minutes" in error.what
    assert "dump_timeout_minutes" in error.remedy
    assert not error.transient


def test_a_table_that_cannot_be_read_is_named_with_the_grant_it_needs(
    dsn: Dsn, root: Path, pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    reader = replace(fresh_database(pg17, "reader"), dbname=dsn.dbname)
    error = fails(reader, LocalStore(root), root)
    assert "permission denied for table" in error.what
    assert "grant" in error.remedy
    assert not error.transient


@pytest.fixture
def own_server(pg17: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test may end."""
    with tempfile.TemporaryDirectory(prefix="night-porter-own-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        server = PostgresServer(Path(folder) / "server", bin_dir=pg17.bin_dir, settings=FAST)
        server.start(die_with_parent=True)
        try:
            yield server
        finally:
            server.kill()
            server.remove()


def test_a_server_that_goes_away_fails_the_backup_for_another_try_and_the_next_one_succeeds(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    dsn, root = own_server.superuser(), tmp_path / "store"
    # All of one table may be on its way already; there has to be another that pg_dump still asks for.
    run_sql(dsn, *WIDE, "CREATE TABLE z_last AS SELECT * FROM wide")
    dump(dsn, LocalStore(root))
    endings: dict[str, Callable[[], None]] = {"stopped": own_server.stop, "killed": own_server.kill}
    for how, end in endings.items():
        for archive_format in ("custom", "encrypted"):
            own_server.start(die_with_parent=True)
            dsn = own_server.superuser()
            error = fails(dsn, WatchedStore(root, once("write", end, after=4 * MIB)), root, _how(archive_format))
            assert error.transient, (how, error)
            assert "server" in error.remedy
    error = fails(dsn, LocalStore(root), root)
    assert error.transient
    assert "cannot connect" in error.what
    own_server.start(die_with_parent=True)
    dump(own_server.superuser(), LocalStore(root))


def _how(archive_format: str) -> DumpOptions:
    import pyrage

    key = str(pyrage.x25519.Identity.generate().to_public())
    return options("none", encryption_recipients=(key,) if archive_format == "encrypted" else ())


def test_a_server_that_goes_away_under_a_parallel_dump_leaves_no_staging(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    dsn, staging, root = own_server.superuser(), tmp_path / "staging", tmp_path / "store"
    staging.mkdir()
    root.mkdir()
    run_sql(dsn, *WIDE, "CREATE TABLE again AS SELECT wide.* FROM wide, generate_series(1, 4)")

    def end() -> None:
        if soon(lambda: any(staging.glob("*/archive/*.dat.gz")), seconds=20):
            own_server.kill()

    killer = threading.Thread(target=partial(end))
    killer.start()
    error = fails(dsn, LocalStore(root), root, options("gzip:9", staging=staging))
    killer.join()
    assert error.transient
    assert list(staging.iterdir()) == []
