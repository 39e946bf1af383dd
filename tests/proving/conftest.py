"""A proving ground as an operator has it: a server of its own, and a role there that is no superuser."""

from __future__ import annotations

import secrets
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest
from psycopg import sql

from include.backup.stores.local import LocalStore
from include.proving.ground import Ground, Production, open_ground
from tests.backup.dump_world import run_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from include.backup.model import Manifest
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

    MakeGround = Callable[[PostgresServer], Ground]


class ReadyFor(Protocol):
    """Creates the roles that a manifest names on a ground's server, and makes the ground's role a member of them."""

    def __call__(self, manifest: Manifest, on: Ground | None = None) -> None: ...


NOBODY = Production({}, {})


def copies_on(ground: Ground) -> list[str]:
    """The databases of the ground's role."""
    with ground.dsn.connect() as session:
        rows = session.execute(
            "SELECT datname FROM pg_database d JOIN pg_roles r ON r.oid = datdba WHERE rolname = %s ORDER BY 1",
            [ground.role],
        ).fetchall()
    return [name for (name,) in rows]


SCHEMA = (
    "CREATE TABLE guest (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)",
    "CREATE SCHEMA desk",
    "CREATE TABLE desk.stay (id int PRIMARY KEY, guest bigint REFERENCES guest, nights int CHECK (nights > 0))",
    "CREATE MATERIALIZED VIEW desk.nights AS SELECT guest, sum(nights) AS nights FROM desk.stay GROUP BY guest",
    "CREATE INDEX ON desk.stay (guest)",
    "GRANT SELECT ON guest TO pg_monitor",
    "INSERT INTO guest (name) SELECT md5(i::text) FROM generate_series(1, 2000) i",
    "INSERT INTO desk.stay SELECT i, 1 + i % 2000, 1 + i % 9 FROM generate_series(1, 5000) i",
    "REFRESH MATERIALIZED VIEW desk.nights",
    "SELECT lo_from_bytea(0, 'a large object')",
)


@pytest.fixture
def source(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    """A small database on a PostgreSQL 17 that is not the proving ground; its owner's objects lie in two schemas."""
    dsn = fresh_database(pg17, "app")
    run_sql(dsn, *SCHEMA)
    return dsn


@pytest.fixture
def folder_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def make_ground(_made_grounds: list[tuple[PostgresServer, Ground]]) -> MakeGround:
    """Makes a role with CREATEDB, no superuser, on any server, and opens that server as the proving ground."""

    def make(server: PostgresServer) -> Ground:
        role, password = f"ground_{secrets.token_hex(5)}", secrets.token_urlsafe(16)
        with server.superuser().connect() as session:
            session.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(sql.Identifier(role), password))
        made = open_ground(replace(server.superuser(), user=role, password=password), NOBODY)
        _made_grounds.append((server, made))
        return made

    return make


@pytest.fixture
def ground(make_ground: MakeGround, ground17: PostgresServer) -> Ground:
    return make_ground(ground17)


@pytest.fixture
def ready_for(ground: Ground, _made_grounds: list[tuple[PostgresServer, Ground]]) -> Iterator[ReadyFor]:
    created: list[tuple[PostgresServer, str]] = []

    def ready(manifest: Manifest, on: Ground | None = None) -> None:
        server, chosen = next(pair for pair in _made_grounds if pair[1] == (on or ground))
        with server.superuser().connect() as session:
            known = {name for (name,) in session.execute("SELECT rolname FROM pg_roles").fetchall()}
            for name in sorted({*manifest.roles, *manifest.owners}):
                if name not in known:
                    session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
                    created.append((server, name))
                if name not in ("postgres", "pg_database_owner"):
                    session.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(name), sql.Identifier(chosen.role)))

    yield ready
    _drop_databases(_made_grounds)
    for server, name in created:
        with server.superuser().connect() as session:
            session.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def _made_grounds() -> Iterator[list[tuple[PostgresServer, Ground]]]:
    made: list[tuple[PostgresServer, Ground]] = []
    yield made
    _drop_databases(made)
    for server, ground in made:
        role = sql.Identifier(ground.role)
        with server.superuser().connect() as session:
            session.execute(sql.SQL("DROP OWNED BY {}").format(role))
            session.execute(sql.SQL("DROP ROLE {}").format(role))


def _drop_databases(grounds: list[tuple[PostgresServer, Ground]]) -> None:
    for server, ground in grounds:
        server.start(die_with_parent=True)  # a test may have ended it
        names = copies_on(ground)
        with server.superuser().connect() as session:
            for name in names:
                session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this account may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, "1m"):
        yield folder


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[None]:
    answer = subprocess.run(
        ["/usr/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if answer.returncode != 0:
        pytest.skip("NOT RUN: this account may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["/usr/bin/umount", str(folder)], check=True)
