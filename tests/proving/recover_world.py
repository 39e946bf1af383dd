"""What the tests of recovery share: a database with a certified backup, a role that recovers, and what servers hold."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from include.backup.certificate import Check, Proof
from include.backup.stores.local import LocalStore
from include.backup.verify import verify
from tests.backup.dump_world import dump, run_sql

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.certificate import Verdict
    from include.backup.model import BackupId, Manifest
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer

SCHEMA = (
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE shop.orders (id serial PRIMARY KEY, customer bigint REFERENCES shop.customers, note text)",
    "CREATE INDEX ON shop.orders (customer)",
    "INSERT INTO shop.customers (name) SELECT 'customer ' || g FROM generate_series(1, 500) g",
    "INSERT INTO shop.orders (customer, note) SELECT 1 + g % 500, md5(g::text) FROM generate_series(1, 4000) g",
)


@dataclass(frozen=True)
class Shop:
    """A database, its backup, and where that is."""

    dsn: Dsn
    store: LocalStore
    manifest: Manifest

    @property
    def backup(self) -> BackupId:
        return self.manifest.backup_id

    @property
    def name(self) -> str:
        return self.dsn.dbname


def shop(dsn: Dsn, folder: Path, *, verdict: Verdict | None = "proved", **how: Any) -> Shop:
    """Fill a database, back it up, verify that, and give it a certificate."""
    run_sql(dsn, *SCHEMA)
    store = LocalStore(folder)
    manifest = dump(dsn, store, **how)
    verify(store, manifest.backup_id)
    if verdict is not None:
        certify(store, manifest, verdict)
    return Shop(dsn, store, manifest)


def certify(store: Store, manifest: Manifest, verdict: Verdict = "proved", *, check: str = "rows") -> None:
    outcome: Any = {"proved": "held", "failed": "differs", "incomplete": "not checked"}[verdict]
    checks = [Check(name=check, outcome=outcome, detail="4,500 rows", findings=() if verdict == "proved" else ("x",))]
    proof = Proof(
        backup=manifest.id,
        sha256=manifest.sha256,
        manifest_sha256=manifest.digest,
        proved_at=datetime.now(UTC),
        verdict=verdict,
        checks=tuple(checks),
        fetch_seconds=2,
        restore_seconds=10,
        check_seconds=3,
        server_version="17.10",
        pg_restore="17.10",
    )
    store.put(manifest.backup_id.proof_key, proof.model_dump_json().encode(), replace=True)


def porter(server: PostgresServer, *members_of: str, rights: str = "CREATEDB") -> Dsn:
    """A role that may make databases, and has the rights of others, which are made where they are missing."""
    name, password = f"porter_{secrets.token_hex(5)}", secrets.token_urlsafe(16)
    with server.superuser().connect() as session:
        session.execute(
            sql.SQL(f"CREATE ROLE {{}} LOGIN {rights} PASSWORD {{}}").format(sql.Identifier(name), password)
        )
        for role in members_of:
            if session.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone() is None:
                session.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            session.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(name)))
    return replace(server.superuser(), user=name, password=password)


def names(server: PostgresServer) -> set[str]:
    """Of all databases, those that a killed run may leave aside."""
    with server.superuser().connect() as session:
        found = session.execute("SELECT datname FROM pg_database WHERE datname NOT LIKE 'np\\_%'").fetchall()
    return {name for (name,) in found}


def working(server: PostgresServer) -> set[str]:
    """Those that a killed run has left."""
    with server.superuser().connect() as session:
        found = session.execute("SELECT datname FROM pg_database WHERE datname LIKE 'np\\_%'").fetchall()
    return {name for (name,) in found}


def rename(server: PostgresServer, old: str, new: str) -> None:
    with server.superuser().connect() as session:
        session.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new)))


def ask(dsn: Dsn, query: str) -> Any:
    with dsn.connect() as session:
        row = session.execute(query.encode()).fetchone()
    return row[0] if row else None
