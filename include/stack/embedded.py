"""The embedded stack as a whole: the hotel's server, the proving ground and Airflow, below one folder."""

from __future__ import annotations

import fcntl
import json
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from include.errors import MaintenanceError
from include.postgres.dsn import Dsn
from include.stack.airflow import AirflowServer
from include.stack.airflow_config import postgres_connection
from include.stack.files import write_private
from include.stack.postgres import PostgresServer, installations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from include.stack.steps import Steps

MAJOR = 17
SERVERS = {"hotel": "hotel", "proving-ground": "proving_ground"}  # server -> its role, also its connection's stem
# Copies can be made again: nothing on the proving ground has to survive a power cut, be replicated or be archived.
GROUND_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_wal_size": "4GB",
    }
)
_HOTEL_SEED = 1
_NONE: Mapping[str, Mapping[str, object]] = MappingProxyType({})


class EmbeddedStack:
    """Everything `make up` starts.

    Args:
        home: folder for all its state.
        root: the checkout.
    """

    def __init__(self, home: Path, *, root: Path) -> None:
        self.home = home.absolute()
        self.root = root.absolute()
        self.config_file = self.home / "maintenance.yaml"
        found = installations()
        if MAJOR not in found:
            raise MaintenanceError(
                f"PostgreSQL {MAJOR} is not installed in this virtual environment",
                untouched="everything",
                remedy="Run `make venv`.",
            )
        settings = {"hotel": {}, "proving-ground": GROUND_SETTINGS}
        self.servers = {
            name: PostgresServer(self.home / name, bin_dir=found[MAJOR], settings=settings[name]) for name in SERVERS
        }
        self.airflow = AirflowServer(self.home, root=self.root, config_file=self.config_file)

    def dsn(self, server: str) -> Dsn:
        """How a server's own role reaches its database.

        Args:
            server: a key of `SERVERS`.
        """
        role = SERVERS[server]
        dbname = "hotel" if server == "hotel" else "postgres"
        passwords = self._passwords()
        port = self.servers[server].port
        return Dsn(host="127.0.0.1", port=port, dbname=dbname, user=role, password=passwords[role])

    def up(
        self,
        steps: Steps,
        *,
        scale: float,
        connections: Mapping[str, Mapping[str, object]] = _NONE,
        die_with_parent: bool = False,
    ) -> None:
        """Start what does not run yet; the first time, make the servers and fill the hotel's database.

        Args:
            steps: shows the progress.
            scale: size of the hotel's data, 1 is 10,000 bookings; only the first time.
            connections: further Airflow connections: id -> fields.
            die_with_parent: for tests: all of it ends with the thread that calls this, even by SIGKILL.

        Raises:
            MaintenanceError: a part did not start.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self._alone():
            for name, server in self.servers.items():
                with steps.step(f"PostgreSQL {MAJOR} for the {name.replace('-', ' ')}"):
                    server.start(die_with_parent=die_with_parent)
                    self._prepare(name)
            self._write_config()
            # Airflow needs half a minute of its own, which is enough to load the hotel's data.
            with ThreadPoolExecutor(max_workers=1) as pool:
                filled = pool.submit(self._fill_hotel, steps, scale=scale)
                self._start_airflow(steps, connections, die_with_parent=die_with_parent)
                filled.result()

    def down(self, steps: Steps) -> None:
        """Stop everything; the data stays.

        Raises:
            MaintenanceError: a process did not end.
        """
        if not self.home.exists():
            return
        with self._alone():
            self._stop(steps)

    def remove(self, steps: Steps) -> None:
        """Stop everything and delete all that was ever made, wherever it lies.

        Raises:
            MaintenanceError: a process did not end; then nothing is deleted.
        """
        if not self.home.exists():
            return
        with self._alone():
            self._stop(steps)
            for server in self.servers.values():
                server.remove()
        shutil.rmtree(self.home)

    def _stop(self, steps: Steps) -> None:
        if (self.home / "airflow").exists():
            with steps.step("Airflow stopped"):
                self.airflow.stop()
        for name, server in self.servers.items():
            if server.is_running():
                with steps.step(f"PostgreSQL for the {name.replace('-', ' ')} stopped"):
                    server.stop()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.home / "lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise MaintenanceError(
                    f"another command is starting or stopping the stack in {self.home}",
                    untouched="everything",
                    remedy="Wait until it is done, then try again.",
                    transient=True,
                ) from error
            yield

    def _passwords(self) -> dict[str, str]:
        path = self.home / "roles.json"
        if not path.exists():
            write_private(path, json.dumps({role: secrets.token_urlsafe(24) for role in SERVERS.values()}))
        passwords: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return passwords

    def _prepare(self, name: str) -> None:
        """Make the server's roles and database where they are missing."""
        from psycopg import sql

        dsn = self.dsn(name)
        role = sql.Identifier(dsn.user)
        with self.servers[name].superuser().connect() as session:
            roles = {known for (known,) in session.execute("SELECT rolname FROM pg_roles")}
            if dsn.user not in roles:
                session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(dsn.password)))
            # On the hotel's server for `backup_restore`, which makes a new database there.
            session.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(role))
            session.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(role))
            if name == "proving-ground":
                # Roles are in no backup: those that own what is restored have to be there, and be given to our own.
                for owner in set(SERVERS.values()) - {dsn.user}:
                    if owner not in roles:
                        session.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(owner)))
                    session.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(owner), role))
            if not session.execute("SELECT FROM pg_database WHERE datname = %s", [dsn.dbname]).rowcount:
                session.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(dsn.dbname), role))

    def _write_config(self) -> None:
        import yaml

        source = self.root / "include" / "config" / "maintenance.yaml"
        config = yaml.safe_load(source.read_text(encoding="utf-8"))
        config["store"]["url"] = f"file://{self.home / 'store'}"
        text = f"# Made from {source.relative_to(self.root)} at each start of the embedded stack.\n"
        write_private(self.config_file, text + yaml.safe_dump(config, sort_keys=False))

    def _fill_hotel(self, steps: Steps, *, scale: float) -> None:
        from include.hotel.data import generate
        from include.hotel.migrate import current, upgrade

        dsn = self.dsn("hotel")
        # Only ever a new database: later its schema is in the hands of `database_migrate`.
        if current(dsn) is None:
            with steps.step("the hotel's schema"):
                upgrade(dsn)
        with dsn.connect() as session:
            if session.execute("SELECT FROM bookings LIMIT 1").rowcount:
                return
        with steps.step("the hotel's data") as step:
            generate(dsn, scale=scale, seed=_HOTEL_SEED, progress=lambda table, _count: step.detail(table))

    def _start_airflow(self, steps: Steps, extra: Mapping[str, Mapping[str, object]], *, die_with_parent: bool) -> None:
        connections = {
            "hotel_db": postgres_connection(self.dsn("hotel")),
            "proving_ground": postgres_connection(self.dsn("proving-ground")),
            **extra,
        }
        if not self.airflow.is_running():
            with steps.step("Airflow") as step:
                self.airflow.start(step.detail, connections=connections, die_with_parent=die_with_parent)
