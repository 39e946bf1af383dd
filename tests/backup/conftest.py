"""A folder as the store, and a second database to restore into."""

from __future__ import annotations

import os
import secrets
import subprocess
from typing import TYPE_CHECKING

import pytest

from include.backup.stores.local import LocalStore
from tests.backup.dump_world import fetch, restore, run_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.backup.model import Manifest
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

    RestoreCopy = Callable[..., Dsn]


@pytest.fixture
def folder_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def restored_copy(fresh_database: FreshDatabase, tmp_path: Path) -> Iterator[RestoreCopy]:
    """Restores a backup by hand into a new database, as the superuser, and says where that is."""
    made: list[Dsn] = []

    def make(store: Store, manifest: Manifest, server: PostgresServer, *, private_key: str | None = None) -> Dsn:
        target = server.superuser(f"copy_{secrets.token_hex(5)}")
        run_sql(server.superuser(), f"CREATE DATABASE {target.dbname} TEMPLATE template0")
        made.append(target)
        restore(fetch(store, manifest, tmp_path / target.dbname, private_key=private_key), manifest, target)
        return target

    yield make
    for target in made:  # before the roles that own what is in them
        run_sql(target.with_dbname("postgres"), f"DROP DATABASE {target.dbname} WITH (FORCE)")


@pytest.fixture
def tools_of_18(pg18: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL 18's own tools, found on PATH as an operator would install them; they were built without zstd."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{pg18.bin_dir}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this account may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("NOT RUN: this account may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["/usr/bin/umount", str(folder)], check=True)
