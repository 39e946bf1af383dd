"""How --dsn names a server: never with a password, which comes from where libpq looks for it, or from a person."""

from __future__ import annotations

import os
import pty
import select
import termios
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.cli.cli_world import address, kept, rooms
from tests.cli.conftest import ROOMS, databases_of

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from tests.cli.cli_world import DarkShell


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres:s3cret-word@127.0.0.1:5432/postgres",
        "postgresql://postgres@127.0.0.1:5432/postgres?password=s3cret-word",
        "postgresql://postgres@127.0.0.1:5432/postgres?sslpassword=s3cret-word",
    ],
)
@pytest.mark.parametrize("command", ["prove", "restore"])
def test_a_password_in_the_arguments_is_refused_and_not_repeated(dark: DarkShell, command: str, url: str) -> None:
    answer = dark.run(command, "--store", dark.folder.as_uri(), "--dsn", url)
    assert answer.returncode == 2
    assert "PGPASSWORD" in answer.stderr
    assert "s3cret-word" not in answer.stdout + answer.stderr


@pytest.mark.parametrize(
    "url",
    [
        "host=127.0.0.1 password=s3cret-word",
        "postgresql://127.0.0.1:5432/postgres",
        "postgresql://postgres@/postgres",
        "postgresql://postgres@a,b:1,2/postgres",
        "postgresql://postgres@127.0.0.1/postgres?no_such_option=s3cret-word",
        "postgresql://postgres:s3cret-word%zz@127.0.0.1/postgres",
    ],
)
def test_an_address_that_is_not_understood_is_wrong_usage(dark: DarkShell, url: str) -> None:
    answer = dark.run("prove", "--store", dark.folder.as_uri(), "--dsn", url)
    assert answer.returncode == 2
    assert "postgresql://ROLE@HOST" in "".join(answer.stderr.split("│")).replace("\n", "")
    assert "s3cret-word" not in answer.stdout + answer.stderr


def test_a_server_behind_a_unix_socket_and_with_options_is_understood() -> None:
    from include.cli.servers import address as parsed

    dsn = parsed(f"postgresql://admin@{quote('/run/postgresql', safe='')}/?sslmode=verify-full&connect_timeout=3")
    assert (dsn.host, dsn.port, dsn.dbname, dsn.user) == ("/run/postgresql", 5432, "postgres", "admin")
    assert dsn.options == {"sslmode": "verify-full", "connect_timeout": "3"}


@pytest.mark.parametrize("where", ["PGPASSFILE", "~/.pgpass"])
def test_the_password_may_stand_in_a_password_file(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn, tmp_path: Path, where: str
) -> None:
    kept(store, source)
    file = tmp_path / (".pgpass" if where == "~/.pgpass" else "elsewhere")
    file.touch(mode=0o600)
    file.write_text(f"{ground.host}:{ground.port}:*:{ground.user}:{ground.password}\n", encoding="utf-8")
    variables = {"PGPASSFILE": str(file)} if where == "PGPASSFILE" else {}
    answer = dark.run("prove", "--store", store.url, "--dsn", address(ground), **variables)
    assert answer.returncode == 0, answer.stderr


def test_without_a_password_and_a_terminal_it_says_what_serves(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn
) -> None:
    kept(store, source)
    answer = dark.run("prove", "--store", store.url, "--dsn", address(ground))
    assert answer.returncode == 1
    assert "PGPASSWORD" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_at_a_terminal_the_password_and_the_word_for_the_plan_are_asked_for(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn
) -> None:
    manifest = kept(store, source)
    assert ground.password is not None
    arguments = ("restore", "--backup", manifest.id, "--to", "hotel_asked", "--store", store.url)
    status, shown = at_terminal(
        [*dark.command, *arguments, "--dsn", address(ground)],
        dark.environment(TERM="xterm", COLUMNS="200"),
        {"Password of": ground.password, "Do exactly this?": "n"},
    )
    assert status == 1, shown
    assert "nothing was done" in shown
    assert ground.password not in shown
    assert "hotel_asked" not in databases_of(ground)
    status, shown = at_terminal(
        [*dark.command, *arguments, "--dsn", address(ground)],
        dark.environment(TERM="xterm", COLUMNS="200"),
        {"Password of": ground.password, "Do exactly this?": "y"},
    )
    assert status == 0, shown
    assert rooms(ground, "hotel_asked") == ROOMS


def at_terminal(command: list[str], environment: dict[str, str], answers: dict[str, str]) -> tuple[int, str]:
    """Run a program at a terminal of its own and answer its questions, each once."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment)  # noqa: S606 - the test's own program
    shown, left = "", dict(answers)
    while True:
        ready = select.select([terminal], [], [], 0.05)[0]
        try:
            data = os.read(terminal, 65536) if ready else b""
        except OSError:  # how Linux says that the other side of a terminal is closed
            break
        shown += data.decode(errors="replace")
        for question in [each for each in left if each in shown]:
            # What is typed before the echo is off is thrown away, as it would be seen.
            if question.startswith("Password") and termios.tcgetattr(terminal)[3] & termios.ECHO:
                continue
            os.write(terminal, f"{left.pop(question)}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown
