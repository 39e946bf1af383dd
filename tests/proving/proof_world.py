"""What the tests of proofs share: a database with an object of every kind, and the proof of a backup in one line."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.backup.catalog import read_catalog
from include.backup.certificate import conclude
from include.backup.inventory import read_inventory
from include.backup.model import Manifest
from include.backup.stores.local import LocalStore
from include.proving.checks import checks_of
from include.proving.copies import empty_database, restored_copy
from include.proving.ground import Production, open_ground
from include.proving.options import ProofOptions
from include.proving.prove import prove
from tests.backup.dump_world import run_sql

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from include.backup.certificate import Check, Proof, Verdict
    from include.backup.model import BackupId, CatalogEntry
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn
    from include.proving.copies import Copy
    from include.proving.ground import Ground
    from include.stack.postgres import PostgresServer

_OPTIONS = ("smoke_queries", "smoke_timeout_seconds", "rto_minutes")

# {reader} is another role. Written so that what the server deparses is not what it deparses after a restore:
# IN lists over varchar, casts in defaults, a view over both.
RICH = (
    "CREATE SCHEMA dbmaint",
    "CREATE TABLE dbmaint.schema_revision (version_num varchar(32) PRIMARY KEY)",
    "INSERT INTO dbmaint.schema_revision VALUES ('0007')",
    "CREATE TYPE mood AS ENUM ('good', 'bad', 'so so')",
    "CREATE DOMAIN code AS varchar(4) DEFAULT 'x'::varchar CONSTRAINT known CHECK (value IN ('x', 'yy', 'zzz'))",
    "CREATE FUNCTION net(gross numeric, rate numeric DEFAULT 0.19) RETURNS numeric LANGUAGE sql IMMUTABLE "
    "RETURN gross / (1 + rate)",
    "CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN NEW.touched := NEW.touched + 1; RETURN NEW; END'",
    'CREATE TABLE guest (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(40) COLLATE "C" NOT NULL, '
    "status varchar(10) NOT NULL DEFAULT 'new' CONSTRAINT known_status CHECK (status IN ('new', 'old', 'gone')), "
    "mood mood DEFAULT 'good', code code, touched int DEFAULT 0, "
    "initial text GENERATED ALWAYS AS (upper(substr(name, 1, 1))) STORED, "
    "kind varchar GENERATED ALWAYS AS (CASE WHEN status IN ('new', 'old') THEN 'here'::varchar ELSE 'away' END) "
    "STORED)",
    "CREATE TABLE stay (id serial PRIMARY KEY, guest bigint NOT NULL REFERENCES guest, nights int CHECK (nights > 0), "
    "room int4range, kind varchar, EXCLUDE USING gist (room WITH &&) WHERE (kind IN ('a', 'b')), note text)",
    "ALTER TABLE stay ADD CONSTRAINT no_long_ones CHECK (nights < 100) NOT VALID",
    "CREATE TABLE log (at date NOT NULL, line text) PARTITION BY RANGE (at)",
    "CREATE TABLE log_2025 PARTITION OF log FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE TABLE log_rest PARTITION OF log DEFAULT",
    "CREATE INDEX ON log (at)",
    "CREATE TABLE spread (mood mood, n int) PARTITION BY HASH (mood)",
    "CREATE TABLE spread_0 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE spread_1 PARTITION OF spread FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TABLE parent (a int, b text)",
    "CREATE TABLE child (b text, c int, a int)",
    "ALTER TABLE child INHERIT parent",
    "CREATE TABLE dropped (a int, gone int, c int)",
    "ALTER TABLE dropped DROP COLUMN gone",
    "CREATE UNLOGGED TABLE quick (a int)",
    "CREATE TABLE strange (a json, b xid, c point)",
    'CREATE TABLE "Odd %s ""name""" ("a b" int CHECK ("a b" > 0), "select" text DEFAULT \'x -- y\')',
    "CREATE INDEX guest_status ON guest (lower(status)) WHERE status IN ('new', 'old')",
    "CREATE UNIQUE INDEX stay_note ON stay (note) INCLUDE (nights)",
    "CREATE STATISTICS stay_both (dependencies) ON guest, nights FROM stay",
    "CREATE VIEW regulars AS SELECT g.id, g.name, count(*) AS stays FROM guest g JOIN stay s ON s.guest = g.id "
    "WHERE g.status IN ('new', 'old') GROUP BY g.id",
    "CREATE VIEW here WITH (security_barrier) AS SELECT * FROM guest WHERE status = ANY (ARRAY['new', 'old']) "
    "WITH LOCAL CHECK OPTION",
    "CREATE MATERIALIZED VIEW nights AS SELECT guest, sum(nights) AS nights FROM stay GROUP BY guest",
    "CREATE MATERIALIZED VIEW later AS SELECT 1 AS one WITH NO DATA",
    "CREATE INDEX ON nights (guest)",
    "CREATE TRIGGER touched BEFORE UPDATE ON guest FOR EACH ROW WHEN (old.status IN ('new', 'old')) "
    "EXECUTE FUNCTION touched()",
    "CREATE TRIGGER sleeping BEFORE UPDATE ON stay FOR EACH ROW EXECUTE FUNCTION touched()",
    "ALTER TABLE stay DISABLE TRIGGER sleeping",
    "CREATE RULE never AS ON DELETE TO quick WHERE old.a IN (1, 2) DO INSTEAD NOTHING",
    "ALTER TABLE guest ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY living ON guest FOR SELECT TO {reader} USING (status IN ('new', 'old'))",
    "GRANT SELECT ON guest TO {reader}",
    "GRANT UPDATE (name) ON guest TO {reader} WITH GRANT OPTION",
    "REVOKE EXECUTE ON FUNCTION net FROM PUBLIC",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {reader}",
    "CREATE SEQUENCE down INCREMENT -1 MINVALUE -100 MAXVALUE 100 START 100",
    "CREATE SEQUENCE round MAXVALUE 3 CYCLE",
    "SELECT nextval('down'), nextval('round')",
    "COMMENT ON TABLE guest IS 'who slept here'",
    "COMMENT ON COLUMN guest.name IS 'as on the passport'",
    "COMMENT ON CONSTRAINT known_status ON guest IS 'three of them'",
    "INSERT INTO guest (name, code) SELECT md5(i::text), 'yy' FROM generate_series(1, 300) i",
    "INSERT INTO stay (guest, nights, note) SELECT i, 1 + i % 9, i FROM generate_series(1, 300) i",
    "INSERT INTO log SELECT date '2024-12-01' + i, i FROM generate_series(1, 300) i",
    "INSERT INTO spread SELECT (ARRAY['good', 'bad', 'so so']::mood[])[1 + i % 3], i FROM generate_series(1, 30) i",
    "INSERT INTO parent VALUES (1, 'x')",
    "INSERT INTO child VALUES ('x', 2, 3)",
    "INSERT INTO dropped VALUES (1, 2)",
    "INSERT INTO quick VALUES (1)",
    "INSERT INTO strange VALUES ('[1]', '7', '(1,2)')",
    "REFRESH MATERIALIZED VIEW nights",
    "SELECT lo_from_bytea(0, 'a large object')",
)


def make_rich(dsn: Dsn, *, reader: str) -> None:
    """Fill a database with an object of every kind that its owner may make."""
    run_sql(dsn, *(statement.replace("{reader}", reader) for statement in RICH))


def proof_of(ground: Ground, store: Store, manifest: Manifest | BackupId, **others: Any) -> Proof:
    """Prove a backup; what ProofOptions knows goes into the options."""
    options = ProofOptions(**{name: others.pop(name) for name in _OPTIONS if name in others})
    backup = manifest.backup_id if isinstance(manifest, Manifest) else manifest
    return prove(ground, store, backup, options=options, **others)


@contextmanager
def a_copy(ground: Ground, store: Store, manifest: Manifest) -> Iterator[Copy]:
    """A restored copy to be tampered with before it is compared."""
    with restored_copy(ground, store, manifest) as copy:
        yield copy


def compared(ground: Ground, store: Store, copy: Copy) -> dict[str, Check]:
    """All checks of a copy, by name."""
    inventory = read_inventory(store, copy.manifest, identity=None)
    checks = checks_of(
        copy,
        inventory,
        empty_database=lambda: empty_database(ground.dsn, copy.manifest),
        options=ProofOptions(),
    )
    return {check.name: check for check in checks}


def verdict(checks: Mapping[str, Check]) -> Verdict:
    return conclude(checks.values())


def problems(checks: Mapping[str, Check] | Proof) -> dict[str, tuple[str, ...]]:
    """What did not hold: the findings by the check's name."""
    found = checks.values() if not hasattr(checks, "checks") else checks.checks
    return {check.name: check.findings for check in found if check.outcome in {"differs", "not checked"}}


def entry_of(store: Store, manifest: Manifest) -> CatalogEntry:
    """As the catalog shows the backup."""
    (entry,) = (one for one in read_catalog(store, manifest.database).entries if one.manifest.id == manifest.id)
    return entry


def edit(store: Store, manifest: Manifest, **changes: Any) -> Manifest:
    """Edit the stored manifest, as somebody might."""
    edited = manifest.model_copy(update=changes)
    store.put(manifest.backup_id.manifest_key, edited.model_dump_json().encode(), replace=True)
    return edited


@dataclass(frozen=True)
class World:
    """A rich database, and a proving ground on another server that is ready for it.

    Args:
        source: the database and its owner.
        source_admin: the superuser in it.
        reader: a role that has rights in it.
        ground: with a role that is no superuser.
        store: an empty one, until a test puts another here.
    """

    source: Dsn
    source_admin: Dsn
    reader: str
    ground: Ground
    store: Store


@contextmanager
def made_world(source_server: PostgresServer, ground_server: PostgresServer) -> Iterator[World]:
    """A world for many tests; nothing of it is left behind."""
    owner, reader, porter = (f"{kind}_{secrets.token_hex(5)}" for kind in ("rich", "reader", "ground"))
    password = secrets.token_urlsafe(16)
    run_sql(
        source_server.superuser(),
        f"CREATE ROLE {owner} LOGIN PASSWORD '{password}'",
        f"CREATE ROLE {reader} LOGIN PASSWORD '{password}'",
        f"CREATE DATABASE {owner} OWNER {owner}",
    )
    run_sql(
        ground_server.superuser(),
        f"CREATE ROLE {porter} LOGIN CREATEDB PASSWORD '{password}'",
        f"CREATE ROLE {owner} ROLE {porter}",
        f"CREATE ROLE {reader} ROLE {porter}",
    )
    source = replace(source_server.superuser(owner), user=owner, password=password)
    ground = open_ground(replace(ground_server.superuser(), user=porter, password=password), Production({}, {}))
    try:
        make_rich(source, reader=reader)
        yield World(source, source_server.superuser(owner), reader, ground, LocalStore(Path("/nonexistent")))
    finally:
        with ground_server.superuser().connect() as session:
            left = session.execute(
                "SELECT datname FROM pg_database d JOIN pg_roles r ON r.oid = datdba WHERE rolname = %s", [porter]
            ).fetchall()
        run_sql(ground_server.superuser(), *(f"DROP DATABASE {name} WITH (FORCE)" for (name,) in left))
        run_sql(ground_server.superuser(), f"DROP ROLE {porter}", f"DROP ROLE {owner}", f"DROP ROLE {reader}")
        run_sql(
            source_server.superuser(),
            f"DROP DATABASE {owner} WITH (FORCE)",
            f"DROP ROLE {owner}",
            f"DROP ROLE {reader}",
        )
