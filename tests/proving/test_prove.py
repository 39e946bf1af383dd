"""A backup that restores to what was dumped is proved; the certificate says what was shown, and no more."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pyrage
import pytest

from include.backup.certificate import Proof
from include.backup.verify import verify
from include.errors import MaintenanceError
from include.hotel import data, migrate
from include.proving.options import SmokeQuery
from include.proving.prove import NotProvedError, require_proved
from tests.backup.dump_world import dump, options, run_sql
from tests.conftest import _running
from tests.proving.conftest import copies_on
from tests.proving.proof_world import edit, entry_of, make_rich, problems, proof_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.backup.model import Manifest
    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.proving.ground import Ground
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase
    from tests.proving.conftest import MakeGround, ReadyFor


@pytest.fixture(scope="session")
def ground15() -> Iterator[PostgresServer]:
    with _running(15) as server:
        yield server


@pytest.fixture(scope="session")
def ground18() -> Iterator[PostgresServer]:
    with _running(18) as server:
        yield server


@pytest.fixture
def backup(source: Dsn, folder_store: LocalStore, ready_for: ReadyFor) -> Manifest:
    manifest = dump(source, folder_store)
    verify(folder_store, manifest.backup_id)
    ready_for(manifest)
    return manifest


@pytest.mark.parametrize(
    ("of_source", "of_ground"),
    [("pg15", "ground15"), ("pg17", "ground17"), ("pg18", "ground18"), ("pg15", "ground17"), ("pg17", "pg18")],
)
def test_a_database_with_an_object_of_every_kind_is_proved_and_never_failed_on_a_later_major_version(
    of_source: str,
    of_ground: str,
    request: pytest.FixtureRequest,
    fresh_database: FreshDatabase,
    make_ground: MakeGround,
    ready_for: ReadyFor,
    folder_store: LocalStore,
    pg18: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if of_ground.endswith("18"):
        monkeypatch.setenv("PATH", f"{pg18.bin_dir}:/usr/bin:/bin")
    server: PostgresServer = request.getfixturevalue(of_source)
    source, reader = fresh_database(server, "rich"), fresh_database(server, "reader")
    make_rich(source, reader=reader.user)
    manifest = dump(source, folder_store, options("gzip:1"))
    ground = make_ground(request.getfixturevalue(of_ground))
    ready_for(manifest, ground)
    proof = proof_of(ground, folder_store, manifest)
    if of_source[2:] == of_ground.removeprefix("ground"):
        assert problems(proof) == {}
        assert proof.verdict == "proved"
    else:
        assert problems(proof).keys() == {"row hashes"}, problems(proof)
        assert all("hash_record" in finding for finding in problems(proof)["row hashes"])
        assert proof.verdict == "incomplete"


def test_the_hotel_is_proved(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore, ground: Ground, ready_for: ReadyFor
) -> None:
    hotel = fresh_database(pg17, "hotel")
    run_sql(pg17.superuser(hotel.dbname), "CREATE EXTENSION IF NOT EXISTS btree_gist")
    migrate.upgrade(hotel)
    data.generate(hotel, scale=0.1)
    manifest = dump(hotel, folder_store, database="hotel")
    ready_for(manifest)
    proof = proof_of(ground, folder_store, manifest)
    assert problems(proof) == {}
    require_proved(proof)
    assert proof.rto_seconds > 0
    assert Proof.model_validate_json(folder_store.get(manifest.backup_id.proof_key)) == proof


@pytest.mark.parametrize("archive_format", ["custom", "directory"])
def test_an_encrypted_backup_is_proved_with_its_private_key_and_not_without(
    archive_format: str, source: Dsn, folder_store: LocalStore, ground: Ground, ready_for: ReadyFor, tmp_path: Path
) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "dumping").mkdir()
    staging = tmp_path / "dumping" if archive_format == "directory" else None
    manifest = dump(source, folder_store, options(staging=staging, encryption_recipients=(str(identity.to_public()),)))
    ready_for(manifest)
    with pytest.raises(MaintenanceError, match="private key"):
        proof_of(ground, folder_store, manifest)
    assert entry_of(folder_store, manifest).proof is None
    assert proof_of(ground, folder_store, manifest, identity=str(identity)).verdict == "proved"


def test_a_backup_whose_rows_were_only_counted_is_proved_and_says_so(
    source: Dsn, folder_store: LocalStore, ground: Ground, ready_for: ReadyFor
) -> None:
    manifest = dump(source, folder_store, options(fingerprints="counts"))
    ready_for(manifest)
    proof = proof_of(ground, folder_store, manifest)
    assert problems(proof) == {}
    assert proof.verdict == "proved"
    assert proof.counts_only


# What a source may hold, or lack, that no archive can say: nothing of it is the backup's fault.
SOURCES: dict[str, tuple[str, ...]] = {
    "nothing but large objects": ("SELECT lo_from_bytea(0, 'abc')",),
    "no schema public": ("DROP SCHEMA public CASCADE", "CREATE SCHEMA mine", "CREATE TABLE mine.t (a int)"),
    "no plpgsql": ("DROP EXTENSION plpgsql",),
    "another owner of schema public": ("CREATE TABLE t (a int)", "ALTER SCHEMA public OWNER TO {owner}"),
    "a schema public as it was before PostgreSQL 15": (
        "ALTER SCHEMA public OWNER TO postgres",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
    ),
    "an index that a failed CREATE INDEX CONCURRENTLY left": (
        "CREATE TABLE t (a int)",
        "CREATE INDEX half ON t (a)",
        "COMMENT ON INDEX half IS 'of no use'",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass",
    ),
    "an index that not all partitions have": (
        "CREATE TABLE t (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (2)",
        "CREATE INDEX few ON ONLY t (a)",
    ),
    "a foreign key that is not kept": (
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE b (a int REFERENCES a)",
        "ALTER TABLE b DISABLE TRIGGER ALL",
    ),
    "rights that were given and taken back": (
        "CREATE TABLE t (a int)",
        "GRANT SELECT ON t TO PUBLIC",
        "REVOKE SELECT ON t FROM PUBLIC",
        "REVOKE ALL ON TABLE t FROM {owner}",
    ),
    "a sequence behind the values of its column": (
        "CREATE TABLE t (id serial PRIMARY KEY)",
        "INSERT INTO t SELECT generate_series(1, 50)",
    ),
    "a sequence that was never used, one at its end, and one shared by two columns": (
        "CREATE SEQUENCE unused START 7",
        "CREATE SEQUENCE ended MAXVALUE 2",
        "SELECT setval('ended', 2)",
        "CREATE TABLE t (a int DEFAULT nextval('unused'), b int DEFAULT nextval('unused'))",
    ),
    "settings and rights of the database": (
        "ALTER DATABASE {owner} SET work_mem = '9MB'",
        "REVOKE CONNECT ON DATABASE {owner} FROM PUBLIC",
    ),
    "a view on a system catalog and an event trigger": (
        "CREATE VIEW v AS SELECT relname FROM pg_class WHERE relkind IN ('r', 'v')",
        "CREATE FUNCTION quiet() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER quiet ON ddl_command_end EXECUTE FUNCTION quiet()",
    ),
    "a publication of some rows": (
        "CREATE TABLE t (a int, b varchar(3), PRIMARY KEY (a, b))",
        "CREATE PUBLICATION p FOR TABLE t WHERE (a IN (1, 2) AND b = 'x')",
    ),
    "views that need each other's key": (
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "CREATE VIEW v AS SELECT id, a, count(*) FROM t GROUP BY id",
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM v",
        "CREATE INDEX ON m (id)",
    ),
}


@pytest.mark.parametrize("what", SOURCES)
def test_a_good_backup_is_proved_whose_source_has(
    what: str,
    pg17: PostgresServer,
    ground17: PostgresServer,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    make_ground: MakeGround,
    ready_for: ReadyFor,
) -> None:
    source = fresh_database(pg17, "odd")
    admin = pg17.superuser(source.dbname)
    run_sql(admin, *(text.replace("{owner}", source.user) for text in SOURCES[what]))
    manifest = dump(admin, folder_store)
    ground = make_ground(ground17)
    # Whoever makes copies of databases in which a superuser owns things has to be one.
    run_sql(ground17.superuser(), f"ALTER ROLE {ground.role} SUPERUSER")
    ready_for(manifest, ground)
    proof = proof_of(ground, folder_store, manifest)
    assert problems(proof) == {}
    assert proof.verdict == "proved"


def test_a_table_that_hides_rows_from_its_owner_is_not_checked_and_the_remedy_is_named(
    pg17: PostgresServer,
    ground17: PostgresServer,
    fresh_database: FreshDatabase,
    folder_store: LocalStore,
    ground: Ground,
    ready_for: ReadyFor,
) -> None:
    source = fresh_database(pg17, "odd")
    run_sql(
        source,
        "CREATE TABLE t (a int)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t FORCE ROW LEVEL SECURITY",
    )
    manifest = dump(pg17.superuser(source.dbname), folder_store)
    ready_for(manifest)
    proof = proof_of(ground, folder_store, manifest)
    assert proof.verdict == "incomplete"
    assert problems(proof).keys() == {"rows", "row hashes"}
    assert f'ALTER ROLE "{ground.role}" BYPASSRLS' in problems(proof)["rows"][0]
    run_sql(ground17.superuser(), f"ALTER ROLE {ground.role} BYPASSRLS")
    assert proof_of(ground, folder_store, manifest).verdict == "proved"


def test_a_backup_without_an_inventory_is_incomplete_and_each_thing_not_checked_is_named(
    folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    proof = proof_of(ground, folder_store, edit(folder_store, backup, inventory=None))
    assert proof.verdict == "incomplete"
    assert {"sequences", "large objects", "constraints", "indexes", "grants"} <= problems(proof).keys()
    assert not {"rows", "row hashes", "schema dump"} & problems(proof).keys()
    with pytest.raises(NotProvedError, match="not all of it could be compared"):
        require_proved(proof)


SECRET = "4f0c"  # stands in a row


@pytest.mark.parametrize(
    ("sql", "verdict", "says"),
    [
        ("SELECT count(*) = 2000 FROM guest", "proved", None),
        ("SELECT count(*) = 1999 FROM guest", "failed", "the answer is not true"),
        ("SELECT 1", "failed", "the answer is not true"),
        ("SELECT NULL::bool", "failed", "the answer is not true"),
        ("SELECT true WHERE false", "failed", "the answer is not true"),
        ("SELECT true FROM no_such_table", "incomplete", "UndefinedTable"),
        (f"SELECT '{SECRET}'::int = 1", "incomplete", "InvalidTextRepresentation"),
        ("SELECT pg_sleep(60) IS NOT NULL", "incomplete", "no answer within 1 s"),
        ("SELECT true; DROP TABLE guest", "incomplete", "SyntaxError"),
        ("DELETE FROM guest RETURNING true", "incomplete", "ReadOnlySqlTransaction"),
    ],
)
def test_smoke_queries_are_asked_of_the_copy_and_only_their_names_and_outcomes_are_kept(
    sql: str, verdict: str, says: str | None, folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    question = SmokeQuery(name="the guests are there", sql=sql)
    proof = proof_of(ground, folder_store, backup, smoke_queries=(question,), smoke_timeout_seconds=1)
    assert proof.verdict == verdict
    assert problems(proof) == ({} if says is None else {"smoke queries": problems(proof)["smoke queries"]})
    if says is not None:
        assert problems(proof)["smoke queries"][0].startswith("the guests are there: ")
        assert says in problems(proof)["smoke queries"][0]
    text = folder_store.get(backup.backup_id.proof_key).decode()
    assert SECRET not in text
    assert sql not in text


def test_a_restore_that_takes_longer_than_wanted_is_proved_and_says_so(
    folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    proof = proof_of(ground, folder_store, backup, rto_minutes=0.0001)
    assert proof.verdict == "proved"
    assert proof.rto_limit_seconds == pytest.approx(0.006)
    assert "more than" in proof.checks[-1].findings[0]
    relaxed = proof_of(ground, folder_store, backup, rto_minutes=60)
    assert relaxed.checks[-1].findings == ()


def test_an_incomplete_proof_replaces_no_better_and_no_worse_one_of_the_same_backup(
    folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    unanswered = {"smoke_queries": (SmokeQuery(name="x", sql="SELECT 1 / 0 = 1"),)}
    false = {"smoke_queries": (SmokeQuery(name="x", sql="SELECT false"),)}
    seen = []
    for asked in (unanswered, {}, unanswered, false, unanswered, {}, unanswered):
        proof_of(ground, folder_store, backup, **asked)
        seen.append(entry_of(folder_store, backup).verdict)
    assert seen == ["incomplete", "proved", "proved", "failed", "failed", "proved", "proved"]


def test_an_incomplete_proof_replaces_one_of_another_manifest(
    folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    assert proof_of(ground, folder_store, backup).verdict == "proved"
    edited = edit(folder_store, backup, run_id="another")
    assert proof_of(
        ground, folder_store, edited, smoke_queries=(SmokeQuery(name="x", sql="SELECT 1 / 0 = 1"),)
    ).verdict == "incomplete"  # fmt: skip
    assert entry_of(folder_store, edited).verdict == "incomplete"


def test_a_backup_that_is_pruned_while_it_is_proved_gets_no_certificate(
    folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    def pruned_at_first_progress(_what: str, _done: int, _total: int) -> None:
        folder_store.delete(backup.backup_id.manifest_key)

    proof_of(ground, folder_store, backup, progress=pruned_at_first_progress)
    assert [item.key for item in folder_store.list() if item.key.endswith(".proof.json")] == []


def test_a_server_that_goes_away_in_the_middle_says_nothing_about_the_backup(
    folder_store: LocalStore, backup: Manifest, ground: Ground, ground17: PostgresServer
) -> None:
    gone = SmokeQuery(name="x", sql="SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(MaintenanceError, match="could not be compared") as raised:
        proof_of(ground, folder_store, backup, smoke_queries=(gone,))
    assert raised.value.transient
    assert entry_of(folder_store, backup).proof is None
    assert copies_on(ground) == []


def test_an_archive_that_no_server_can_make_a_database_of_is_failed_with_the_servers_words(
    pg17: PostgresServer, fresh_database: FreshDatabase, folder_store: LocalStore, ground: Ground, ready_for: ReadyFor
) -> None:
    # A constraint that its own rows break: the function behind it was changed afterwards.
    source = fresh_database(pg17, "broken")
    run_sql(
        source,
        "CREATE FUNCTION fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'",
        "CREATE TABLE t (a int, CONSTRAINT fine_a CHECK (fine(a)))",
        "INSERT INTO t VALUES (1)",
        "CREATE OR REPLACE FUNCTION fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT false'",
    )
    manifest = dump(source, folder_store)
    ready_for(manifest)
    proof = proof_of(ground, folder_store, manifest)
    assert proof.verdict == "failed"
    assert problems(proof).keys() == {"restore"}
    assert "fine_a" in problems(proof)["restore"][0]
    assert copies_on(ground) == []


def test_the_proof_is_of_the_hour_at_which_the_last_check_ended(
    folder_store: LocalStore, backup: Manifest, ground: Ground
) -> None:
    then = backup.created_at + timedelta(hours=2)
    assert proof_of(ground, folder_store, backup, now=lambda: then).proved_at == then
