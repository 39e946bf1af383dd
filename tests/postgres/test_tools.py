"""Client tools are chosen by what they can do, run without showing a secret, and never outlive who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from include.errors import MaintenanceError
from include.postgres import tools
from include.postgres.tools import ClientTools
from tests.backup.dump_world import soon

if TYPE_CHECKING:
    from include.stack.postgres import PostgresServer

ROOT = Path(__file__).parents[2]


def fake(folder: Path, version: str, *, complaint: str = "could not connect") -> Path:
    """A pg_dump of any version, which complains of whatever it is asked."""
    folder.mkdir()
    for name in ("pg_dump", "pg_restore"):
        (folder / name).write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{name} (PostgreSQL) {version}" && exit\n'
            f'echo "pg_dump: error: {complaint}" >&2\nexit 1\n'
        )
        (folder / name).chmod(0o755)
    return folder


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    found = sorted((found for folder in folders if (found := tools._inspect(folder))), key=lambda each: each.major)
    monkeypatch.setattr(tools, "installed", lambda: tuple(found))


def test_tools_on_path_are_found_once_a_major_and_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fake(tmp_path / "a", "96.2 (Debian 96.2-1)"), fake(tmp_path / "b", "96.3")
    beta = fake(tmp_path / "c", "97beta1")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, (tmp_path / "empty", first, second, beta, "/nonexistent"))))
    found = tools.installed()
    assert [each.major for each in found] == sorted(each.major for each in found)
    assert ClientTools(first, "96.2", 96) in found
    assert ClientTools(beta, "97beta1", 97) in found
    assert len([each for each in found if each.major == 96]) == 1


def test_the_oldest_that_is_new_enough_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, *(fake(tmp_path / str(major), f"{major}.1") for major in (15, 17, 19)))
    assert tools.choose(16, "gzip:1").major == 17
    assert tools.choose(17, "gzip:1").major == 17
    assert tools.choose(18, "gzip:1").major == 19


def test_one_that_cannot_compress_so_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = fake(tmp_path / "17", "17.1", complaint="this build does not support compression with Zstandard")
    only(monkeypatch, without, fake(tmp_path / "18", "18.1"))
    assert tools.choose(17, "zstd:1").major == 18


def test_where_none_will_do_each_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = fake(tmp_path / "17", "17.1", complaint="this build does not support compression with Zstandard")
    only(monkeypatch, fake(tmp_path / "15", "15.1"), without)
    with pytest.raises(MaintenanceError) as raised:
        tools.choose(17, "zstd:1", database="app")
    assert f"{tmp_path / '15'}: 15.1 is older than the server" in raised.value.what
    assert "this build does not support compression with Zstandard" in raised.value.what
    assert (raised.value.database, raised.value.transient) == ("app", False)
    monkeypatch.setattr(tools, "installed", lambda: ())
    with pytest.raises(MaintenanceError, match="none installed"):
        tools.choose(17, "gzip:1")


def test_compression_is_named_as_each_version_knows_it(tmp_path: Path) -> None:
    old, new = (ClientTools(tmp_path, f"{major}.1", major) for major in (15, 16))
    assert tools.compress_option(old, "gzip:5") == "--compress=5"
    assert tools.compress_option(old, "none") == "--compress=0"
    assert tools.compress_option(new, "gzip:5") == "--compress=gzip:5"
    assert tools.compress_option(new, "none") == "--compress=none"


def running(script: str, stderr: object) -> tools.Running:
    return tools.running(["/bin/sh", "-c", script], None, stderr=stderr)  # type: ignore[arg-type] # any open file


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 0", None),
        ("exit 3", "sh ended with status 3"),
        ("echo one >&2; echo two >&2; exit 1", "sh ended with status 1: one / two"),
        ("printf 'a\\nb\\nc\\nd\\n' >&2; exit 1", "sh ended with status 1: b / c / d"),
        ("kill -TERM $$", "sh was killed by signal 15 (SIGTERM)"),
        ("printf '\\377' >&2; exit 1", "sh ended with status 1: \ufffd"),
    ],
)
def test_how_a_program_ended_is_told_in_words(script: str, told: str | None) -> None:
    with tempfile.TemporaryFile() as stderr, running(script, stderr) as process:
        assert tools.outcome(process, stderr) == told


def test_a_program_and_all_that_it_started_end_with_the_block() -> None:
    with tempfile.TemporaryFile() as stderr:
        with running("sleep 301 & sleep 302 & wait", stderr) as process:
            assert soon(lambda: len(psutil.Process(process.pid).children()) == 2, seconds=5)
            started = psutil.Process(process.pid).children()
        assert process.returncode == -signal.SIGKILL
        assert soon(lambda: not any(_alive(each) for each in started), seconds=2)


def test_a_program_whose_starter_fails_ends_too() -> None:
    with tempfile.TemporaryFile() as stderr:
        with pytest.raises(ZeroDivisionError), running("sleep 301", stderr) as process:
            raise ZeroDivisionError
        assert process.returncode == -signal.SIGKILL


def test_a_program_ends_with_a_process_that_is_killed() -> None:
    script = (
        "import sys, tempfile; from include.postgres import tools\n"
        "with tools.running(['/bin/sh', '-c', 'sleep 301 & echo $!; echo $$; wait'], None, "
        "stderr=tempfile.TemporaryFile()) as process: process.wait()"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert starter.stdout is not None
    started = [psutil.Process(int(starter.stdout.readline())) for _ in range(2)]
    assert all(_alive(each) for each in started)
    starter.kill()
    starter.communicate()
    assert soon(lambda: not any(_alive(each) for each in started), seconds=2)


def test_a_program_goes_on_when_the_thread_that_started_it_ends() -> None:
    with tempfile.TemporaryFile() as stderr:
        held = running("sleep 0.3; exit 7", stderr)
        entered: list[subprocess.Popen[bytes]] = []
        starter = threading.Thread(target=lambda: entered.append(held.__enter__()))
        starter.start()
        starter.join()
        try:
            assert tools.outcome(entered[0], stderr) == "sh ended with status 7"
        finally:
            held.__exit__(None, None, None)


def test_a_program_that_connects_shows_no_password_and_no_other_pg_variable(
    pg17: PostgresServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSWORD", "of-the-caller")
    monkeypatch.setenv("PGHOST", "192.0.2.1")
    dsn = pg17.superuser()
    assert dsn.password is not None
    script = 'echo "$@"; env | grep ^PG; ls -l "$PGPASSFILE"; cat "$PGPASSFILE"'
    with tempfile.TemporaryFile() as stderr, (tmp_path / "out").open("wb") as out:
        arguments = ["/bin/sh", "-c", script, "sh"]
        with tools.running(arguments, dsn, stderr=stderr, stdout=out) as process:
            assert tools.outcome(process, stderr) is None
    said, variable, *rest = (tmp_path / "out").read_text().splitlines()
    assert said.startswith("--no-password --dbname=")
    assert dsn.password not in said
    assert variable.startswith("PGPASSFILE=/dev/fd/")
    assert rest[-1].startswith("*:*:*:*:")
    assert "(deleted)" in rest[0] or "/dev/fd/" in rest[0]


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
