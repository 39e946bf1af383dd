from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.hotel import data, migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase


@pytest.fixture
def hotel(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    """An empty hotel database at the newest revision."""
    dsn = fresh_database(pg17, "hotel")
    migrate.upgrade(dsn)
    return dsn


@pytest.fixture(scope="session")
def loaded_hotel(pg17: PostgresServer) -> Iterator[Dsn]:
    """A hotel with 3,000 bookings, made once: what a test writes there, it rolls back."""
    with pg17.superuser().connect() as session:
        session.execute("CREATE DATABASE loaded_hotel")
    dsn = pg17.superuser("loaded_hotel")
    migrate.upgrade(dsn)
    data.generate(dsn, scale=0.3)
    yield dsn
    with pg17.superuser().connect() as session:
        session.execute("DROP DATABASE loaded_hotel WITH (FORCE)")
