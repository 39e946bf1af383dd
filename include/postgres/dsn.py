"""Where a PostgreSQL database is and how to sign in, kept apart from how Airflow stores it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psycopg

APPLICATION_NAME = "night-porter"


@dataclass(frozen=True, kw_only=True)
class Dsn:
    """One database on one server.

    Args:
        host: host name, address, or the folder of a Unix socket.
        port: TCP port.
        dbname: database name.
        user: role to sign in as.
        password: never shown by repr(), never put into an argument list.
        options: further libpq parameters (`sslmode`, `sslrootcert`, `connect_timeout`, …).
    """

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    def parameters(self) -> dict[str, str]:
        """Libpq parameters without the password: fit for an argument list, an environment or a message."""
        # Keepalives, because the session that holds a snapshot is idle for hours, and firewalls drop idle sessions.
        defaults = {
            "connect_timeout": "10",
            "application_name": APPLICATION_NAME,
            "keepalives_idle": "60",
            "keepalives_interval": "30",
        }
        return {
            **defaults,
            **self.options,
            "host": self.host,
            "port": str(self.port),
            "dbname": self.dbname,
            "user": self.user,
        }

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a session.

        Raises:
            psycopg.OperationalError: the server is not there or refuses.
        """
        import psycopg

        parameters: dict[str, Any] = dict(self.parameters())
        return psycopg.connect(**parameters, password=self.password, autocommit=autocommit)

    def with_dbname(self, dbname: str) -> Dsn:
        """The same server and role, another database."""
        return replace(self, dbname=dbname)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}/{self.dbname}"
