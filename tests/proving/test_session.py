"""Dropping a copy succeeds whatever the server itself is doing in it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from include.proving.session import drop_database
from tests.backup.dump_world import run_sql, soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase


@contextmanager
def eager_autovacuum(server: PostgresServer) -> Iterator[None]:
    run_sql(server.superuser(), "ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        run_sql(server.superuser(), "ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")


def autovacuum_is_in(dsn: Dsn, server: PostgresServer) -> bool:
    with server.superuser().connect() as session:
        row = session.execute(
            "SELECT FROM pg_stat_activity WHERE datname = %s AND backend_type = 'autovacuum worker'", [dsn.dbname]
        ).fetchone()
    return row is not None


def test_a_database_in_which_autovacuum_is_at_work_is_dropped_by_a_role_that_is_no_superuser(
    ground17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    dsn = fresh_database(ground17, "busy")
    run_sql(ground17.superuser(), f"ALTER ROLE {dsn.user} CREATEDB")
    with eager_autovacuum(ground17):
        run_sql(
            dsn,
            # As slow as autovacuum can be told to be: it is there until somebody sends it away.
            "CREATE TABLE t (a int) WITH (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
            "INSERT INTO t SELECT generate_series(1, 100000)",
            "DELETE FROM t",
        )
        assert soon(lambda: autovacuum_is_in(dsn, ground17), seconds=60)
        with replace(dsn, dbname="postgres").connect() as session:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(f"DROP DATABASE {dsn.dbname} WITH (FORCE)".encode())
            drop_database(session, dsn.dbname)
            drop_database(session, dsn.dbname)  # nothing is there any more
            row = session.execute("SELECT FROM pg_database WHERE datname = %s", [dsn.dbname]).fetchone()
    assert row is None
