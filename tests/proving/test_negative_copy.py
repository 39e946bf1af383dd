"""Whatever is different in a restored copy, the proof is not given, and the check of that name says so."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from include.backup.stores.local import LocalStore
from include.proving.copies import restored_copy
from tests.backup.dump_world import dump, run_sql
from tests.proving.proof_world import compared, made_world, problems, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.proving.copies import Copy
    from include.stack.postgres import PostgresServer
    from tests.proving.proof_world import World


@dataclass(frozen=True)
class Original:
    """A restored copy that the tests only make copies of."""

    world: World
    copy: Copy


@pytest.fixture(scope="module")
def original(
    pg17: PostgresServer, ground17: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Original]:
    with made_world(pg17, ground17) as world:
        run_sql(world.source_admin, "CREATE EXTENSION citext", "CREATE EXTENSION hstore SCHEMA dbmaint")
        store = LocalStore(tmp_path_factory.mktemp("store"))
        manifest = dump(world.source, store)
        with restored_copy(world.ground, store, manifest) as copy:
            yield Original(replace(world, store=store), copy)


@pytest.fixture
def copy(original: Original) -> Iterator[Copy]:
    """A copy of one's own, to be tampered with by the superuser."""
    name = f"tampered_{secrets.token_hex(5)}"
    server = original.world.ground.dsn
    with server.connect() as session:
        session.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(original.copy.dsn.dbname)
        ))  # fmt: skip
    yield replace(original.copy, dsn=server.with_dbname(name))
    with server.connect() as session:
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


# What is done to the copy -> the check that has to notice it. {owner} and {reader} are the source's roles.
TAMPERING: dict[str, tuple[tuple[str, ...], str]] = {
    "one value of one row changed": (("UPDATE parent SET b = 'y'",), "row hashes"),
    "two rows that exchanged a value": (
        ("UPDATE stay SET guest = 301 - guest WHERE id IN (100, 201)", "UPDATE stay SET nights = 5 WHERE id < 0"),
        "row hashes",
    ),
    "a row deleted": (("DELETE FROM stay WHERE id = 7",), "rows"),
    "a row doubled": (("INSERT INTO log SELECT * FROM log LIMIT 1",), "rows"),
    "a row doubled and another one deleted": (
        (
            "INSERT INTO log SELECT * FROM log WHERE line = '7'",
            "DELETE FROM log WHERE line = '8'",
        ),
        "row hashes",
    ),
    "a row in another partition by hash's tree": (("INSERT INTO spread VALUES ('good', 5)",), "rows"),
    "a row's order kept and a null made empty": (("UPDATE child SET b = ''",), "row hashes"),
    "a table dropped": (("DROP TABLE dropped",), "rows"),
    "a table too many": (("CREATE TABLE surplus ()",), "rows"),
    "a sequence set back": (("SELECT setval('stay_id_seq', 1)",), "sequences"),
    "a sequence set forward": (("SELECT setval('stay_id_seq', 1000)",), "sequences"),
    "a sequence that counts down set back": (("SELECT setval('down', 50)",), "sequences"),
    "a sequence too many": (
        ("CREATE SEQUENCE surplus", "ALTER SEQUENCE surplus OWNER TO {owner}"),
        "sequences",
    ),
    "a NOT VALID constraint made valid": (("ALTER TABLE stay VALIDATE CONSTRAINT no_long_ones",), "constraints"),
    "a valid constraint made NOT VALID": (
        ("UPDATE pg_constraint SET convalidated = false WHERE conname = 'known_status'",),
        "constraints",
    ),
    "a constraint dropped": (("ALTER TABLE stay DROP CONSTRAINT stay_nights_check",), "constraints"),
    "a constraint that allows more": (
        (
            "ALTER TABLE guest DROP CONSTRAINT known_status",
            "ALTER TABLE guest ADD CONSTRAINT known_status CHECK (status IN ('new', 'old', 'gone', 'lost'))",
        ),
        "constraints",
    ),
    "a primary key dropped": (("ALTER TABLE dbmaint.schema_revision DROP CONSTRAINT schema_revision_pkey",), "indexes"),
    "a foreign key dropped": (("ALTER TABLE stay DROP CONSTRAINT stay_guest_fkey",), "foreign keys"),
    "a foreign key that is no longer kept": (("ALTER TABLE stay DISABLE TRIGGER ALL",), "foreign keys"),
    "an index dropped": (("DROP INDEX stay_note",), "indexes"),
    "an index made invalid": (
        ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'guest_status'::regclass",),
        "indexes",
    ),
    "an index on less": (
        ("DROP INDEX guest_status", "CREATE INDEX guest_status ON guest (lower(status)) WHERE status IN ('new')"),
        "indexes",
    ),
    "a trigger disabled": (("ALTER TABLE guest DISABLE TRIGGER touched",), "triggers"),
    "a disabled trigger enabled": (("ALTER TABLE stay ENABLE TRIGGER sleeping",), "triggers"),
    "a trigger dropped": (("DROP TRIGGER touched ON guest",), "triggers"),
    "a policy that lets everything through": (("ALTER POLICY living ON guest USING (true)",), "policies"),
    "a policy for other roles": (("ALTER POLICY living ON guest TO PUBLIC",), "policies"),
    "a policy dropped": (("DROP POLICY living ON guest",), "policies"),
    "row-level security switched off": (("ALTER TABLE guest DISABLE ROW LEVEL SECURITY",), "tables and columns"),
    "row-level security made to bind owners": (
        ("ALTER TABLE stay FORCE ROW LEVEL SECURITY",),
        "tables and columns",
    ),
    "a right granted": (("GRANT DELETE ON guest TO {reader}",), "grants"),
    "a right revoked": (("REVOKE SELECT ON guest FROM {reader}",), "grants"),
    "a column's right revoked": (("REVOKE UPDATE (name) ON guest FROM {reader}",), "grants"),
    "a function open to everybody": (("GRANT EXECUTE ON FUNCTION net TO PUBLIC",), "grants"),
    "a default right revoked": (
        ("ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE SELECT ON TABLES FROM {reader}",),
        "default grants",
    ),
    "another owner": (("ALTER TABLE stay OWNER TO {reader}",), "owners"),
    "a generated column turned into a plain one": (
        ("ALTER TABLE guest ALTER COLUMN initial DROP EXPRESSION",),
        "generated columns",
    ),
    "a default changed": (("ALTER TABLE guest ALTER COLUMN status SET DEFAULT 'old'",), "tables and columns"),
    "a default dropped": (("ALTER TABLE guest ALTER COLUMN mood DROP DEFAULT",), "tables and columns"),
    "NOT NULL dropped": (("ALTER TABLE stay ALTER COLUMN guest DROP NOT NULL",), "tables and columns"),
    "a column too many": (("ALTER TABLE parent ADD COLUMN surplus int",), "tables and columns"),
    "a wider type": (("ALTER TABLE dbmaint.schema_revision ALTER COLUMN version_num TYPE text",), "tables and columns"),
    "a table that is logged now": (("ALTER TABLE quick SET LOGGED",), "tables and columns"),
    "a partition detached": (("ALTER TABLE log DETACH PARTITION log_2025",), "tables and columns"),
    "a view over other rows": (
        (
            "CREATE OR REPLACE VIEW regulars AS SELECT g.id, g.name, count(*) AS stays FROM guest g "
            "JOIN stay s ON s.guest = g.id WHERE g.status IN ('new') GROUP BY g.id",
        ),
        "views",
    ),
    "a view without its barrier": (("ALTER VIEW here RESET (security_barrier)",), "views"),
    "a materialized view emptied": (("REFRESH MATERIALIZED VIEW nights WITH NO DATA",), "views"),
    "a rule dropped": (("DROP RULE never ON quick",), "views"),
    "a function that does something else": (
        ("CREATE OR REPLACE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",),
        "functions",
    ),
    "a function with the rights of its owner": (("ALTER FUNCTION net SECURITY DEFINER",), "functions"),
    "another default of an argument": (
        (
            "CREATE OR REPLACE FUNCTION net(gross numeric, rate numeric DEFAULT 0.07) RETURNS numeric LANGUAGE sql "
            "IMMUTABLE RETURN gross / (1 + rate)",
        ),
        "functions",
    ),
    "a value added to an enumeration": (("ALTER TYPE mood ADD VALUE 'great'",), "types"),
    "a domain that allows more": (("ALTER DOMAIN code DROP CONSTRAINT known",), "constraints"),
    "a comment changed": (("COMMENT ON TABLE guest IS 'who slept there'",), "everything else"),
    "a comment lost": (("COMMENT ON CONSTRAINT known_status ON guest IS NULL",), "everything else"),
    "extended statistics dropped": (("DROP STATISTICS stay_both",), "everything else"),
    "an extension dropped": (("DROP EXTENSION citext",), "extensions"),
    "an extension too many": (("CREATE EXTENSION pg_trgm",), "extensions"),
    "an extension in another schema": (("ALTER EXTENSION hstore SET SCHEMA public",), "extensions"),
    "a large object changed": (
        ("SELECT lo_put(oid, 0, 'b') FROM pg_largeobject_metadata",),
        "large objects",
    ),
    "a large object gone": (("SELECT lo_unlink(oid) FROM pg_largeobject_metadata",), "large objects"),
    "another revision": (("UPDATE dbmaint.schema_revision SET version_num = '0008'",), "revision"),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_a_copy_with_this_is_not_proved(what: str, original: Original, copy: Copy, ground17: PostgresServer) -> None:
    statements, check = TAMPERING[what]
    world = original.world
    run_sql(
        ground17.superuser(copy.dsn.dbname),
        *(text.format(owner=world.source.user, reader=world.reader) for text in statements),
    )
    checks = compared(world.ground, world.store, copy)
    assert verdict(checks) == "failed"
    assert checks[check].outcome == "differs", problems(checks)
    assert checks[check].findings


def test_the_lines_in_which_a_copys_schema_differs_from_its_archives_are_shown(
    original: Original, copy: Copy, ground17: PostgresServer
) -> None:
    run_sql(ground17.superuser(copy.dsn.dbname), "ALTER TABLE stay ALTER COLUMN nights SET DEFAULT 2")
    check = compared(original.world.ground, original.world.store, copy)["schema dump"]
    assert check.outcome == "differs"
    assert [finding.split(": ")[-1] for finding in check.findings] == [
        "-     nights integer,",
        "+     nights integer DEFAULT 2,",
    ]


def test_a_copy_with_nothing_done_to_it_is_proved(original: Original, copy: Copy) -> None:
    checks = compared(original.world.ground, original.world.store, copy)
    assert problems(checks) == {}
    assert verdict(checks) == "proved"
