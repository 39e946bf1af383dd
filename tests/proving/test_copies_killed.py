"""Whenever the process is killed: the next run knows what it left, and removes it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from include.proving.copies import restored_copy
from include.proving.ground import clean
from tests.backup.dump_world import dump, soon
from tests.proving.conftest import copies_on

if TYPE_CHECKING:
    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.proving.ground import Ground
    from tests.proving.conftest import ReadyFor

# A process of its own that makes a copy, says when it has come to a step, and stays there.
COPY = """
import json, signal, sys
from pathlib import Path
import psycopg
from include.backup.model import Manifest
from include.backup.stores.local import LocalStore
from include.postgres.dsn import Dsn
from include.proving.copies import restored_copy
from include.proving.ground import Production, open_ground
said = json.load(sys.stdin)
step = said["step"]
def stay():
    print("there", flush=True)
    signal.pause()
execute = psycopg.Connection.execute
def stopping(connection, query, *values, **more):
    text = query if isinstance(query, str) else query.decode() if isinstance(query, bytes) else query.as_string()
    answer = execute(connection, query, *values, **more)
    if text.startswith(step):
        stay()
    return answer
psycopg.Connection.execute = stopping
ground = open_ground(Dsn(**said["dsn"]), Production({}, {}))
with restored_copy(
    ground, LocalStore(Path(said["store"])), Manifest.model_validate_json(said["manifest"]),
    staging=Path(said["staging"]), progress=lambda what, *_: stay() if what == step else None,
):
    stay()
"""

# Where it is killed, and whether there is a database then.
STEPS = {
    "bytes": 0,
    "SELECT pg_advisory_lock": 0,
    "CREATE DATABASE": 1,
    "COMMENT ON DATABASE": 1,
    "REVOKE ALL ON DATABASE": 1,
    "ALTER DATABASE": 1,
    "tables": 1,
    "indexes": 1,
    "in the block": 1,
}


def start(dsn: Dsn, store: Path, staging: Path, manifest: str, step: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", COPY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    known = {"host": dsn.host, "port": dsn.port, "dbname": dsn.dbname, "user": dsn.user, "password": dsn.password}
    said = {"dsn": known, "store": str(store), "staging": str(staging), "manifest": manifest, "step": step}
    process.stdin.write(json.dumps(said))
    process.stdin.close()
    process.stdin = None
    return process


def pg_restores(dsn: Dsn) -> int:
    found = 0
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            found += process.name() == "pg_restore" and f"port={dsn.port}" in " ".join(process.cmdline()).replace(
                "'", ""
            )
    return found


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_leaves_nothing_that_the_next_run_does_not_remove(
    step: str, source: Dsn, ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, tmp_path: Path
) -> None:
    manifest = dump(source, folder_store)
    ready_for(manifest)
    staging = tmp_path / "room"
    staging.mkdir()
    now = datetime.now(UTC)
    process = start(ground.dsn, tmp_path / "store", staging, manifest.model_dump_json(), step)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        left = copies_on(ground)
        assert len(left) == STEPS[step]
        assert clean(ground, now=now) == (), "it is still at work"
    finally:
        process.kill()
        process.communicate()
    assert soon(lambda: pg_restores(ground.dsn) == 0, seconds=10)
    assert soon(lambda: list(clean(ground, now=now)) == left, seconds=10) or left == []
    assert copies_on(ground) == []
    (folder,) = staging.iterdir()
    with restored_copy(ground, folder_store, manifest, staging=staging) as copy:
        assert list(staging.iterdir()) == [copy.archive.parent]
        assert copy.archive.parent != folder
