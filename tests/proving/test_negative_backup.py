"""Whatever was done to a stored backup or to its records, the proof is not given, and is not believed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.backup.inventory import read_inventory
from include.backup.model import Manifest, StoredFile, Tier
from include.backup.stores.local import LocalStore
from include.backup.verify import verify
from include.postgres import tools as client
from include.proving.prove import NotProvedError, require_proved
from include.proving.requirements import MissingRequirementsError
from tests.backup.dump_world import dump, options, run_sql, soon
from tests.proving.conftest import copies_on
from tests.proving.proof_world import edit, entry_of, made_world, problems, proof_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.stack.postgres import PostgresServer
    from tests.proving.proof_world import World


@pytest.fixture(scope="module")
def world(pg17: PostgresServer, ground17: PostgresServer) -> Iterator[World]:
    with made_world(pg17, ground17) as made:
        yield made


@pytest.fixture(scope="module")
def backups(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Manifest]]:
    """One backup by each way of compressing, each verified."""
    made = {}
    for compression in ("zstd:1", "none"):
        folder = tmp_path_factory.mktemp("store")
        manifest = dump(world.source, LocalStore(folder), options(compression))
        verify(LocalStore(folder), manifest.backup_id)
        made[compression] = (folder, manifest)
    return made


@pytest.fixture
def store(backups: dict[str, tuple[Path, Manifest]], tmp_path: Path) -> LocalStore:
    """A store with a backup that one may spoil."""
    shutil.copytree(backups["zstd:1"][0], tmp_path / "store")
    return LocalStore(tmp_path / "store")


@pytest.fixture
def manifest(backups: dict[str, tuple[Path, Manifest]]) -> Manifest:
    return backups["zstd:1"][1]


def archive_of(store: LocalStore, manifest: Manifest, tmp_path: Path) -> Path:
    return tmp_path / "store" / manifest.backup_id.dump_key


def replace_archive(store: LocalStore, manifest: Manifest, data: bytes) -> Manifest:
    """Another archive, with a manifest that says it is the right one."""
    store.put(manifest.backup_id.dump_key, data, replace=True)
    sha256 = hashlib.sha256(data).hexdigest()
    file = StoredFile(suffix=".dump", bytes=len(data), sha256=sha256)
    return edit(store, manifest, bytes=len(data), sha256=sha256, files=(file,))


def replace_inventory(store: LocalStore, manifest: Manifest, data: bytes) -> Manifest:
    store.put(manifest.backup_id.inventory_key, data, replace=True)
    file = StoredFile(suffix=".inventory.json", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return edit(store, manifest, inventory=file)


@pytest.mark.parametrize("compression", ["zstd:1", "none"])
@pytest.mark.parametrize("where", [0.3, 0.6, 0.95])
def test_one_bit_flipped_in_the_archive(
    compression: str, where: float, world: World, backups: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = backups[compression]
    shutil.copytree(folder, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    path = archive_of(store, manifest, tmp_path)
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 4
    path.write_bytes(data)
    proof = proof_of(world.ground, store, manifest)
    assert proof.verdict == "failed"
    assert "sha256" in problems(proof)["archive"][0]
    assert entry_of(store, manifest).verdict == "failed"
    assert not entry_of(store, manifest).good
    with pytest.raises(NotProvedError, match="sha256"):
        require_proved(proof)


def test_one_letter_changed_in_the_archive_before_it_was_hashed(
    world: World, backups: dict[str, tuple[Path, Manifest]], tmp_path: Path
) -> None:
    folder, manifest = backups["none"]
    shutil.copytree(folder, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    data = archive_of(store, manifest, tmp_path).read_bytes()
    name = hashlib.md5(b"150").hexdigest().encode()  # noqa: S324 - the name of guest 150
    assert data.count(name) == 1
    manifest = replace_archive(store, manifest, data.replace(name, name[:-1] + b"X"))
    proof = proof_of(world.ground, store, manifest)
    assert proof.verdict == "failed"
    assert problems(proof).keys() == {"row hashes"}
    assert "public.guest" in problems(proof)["row hashes"][0]


def test_an_archive_that_holds_one_row_less(world: World, store: LocalStore, manifest: Manifest) -> None:
    run_sql(world.source, "DELETE FROM dropped")
    try:
        other = dump(world.source, store, tier=Tier.WEEKLY)
    finally:
        run_sql(world.source, "INSERT INTO dropped VALUES (1, 2)")
    manifest = replace_archive(store, manifest, store.get(other.backup_id.dump_key))
    proof = proof_of(world.ground, store, manifest)
    assert proof.verdict == "failed"
    assert problems(proof)["rows"] == ("public.dropped: 0 rows in the copy, 1 in the snapshot",)


def test_a_dump_taken_under_row_level_security(world: World, store: LocalStore, manifest: Manifest) -> None:
    # What a role without BYPASSRLS gets, with status 0: the rows that the policy lets it see.
    policed = "CREATE POLICY few ON stay FOR SELECT USING (id <= 200)"
    dsn = world.source_admin
    run_sql(dsn, policed, "ALTER TABLE stay ENABLE ROW LEVEL SECURITY")
    run_sql(dsn, f"GRANT pg_read_all_data TO {world.reader}", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC")
    run_sql(dsn, "DO 'BEGIN EXECUTE (SELECT ''GRANT SELECT ON LARGE OBJECT '' || oid || '' TO PUBLIC'' "
                 "FROM pg_largeobject_metadata); END'")  # fmt: skip
    try:
        honest = dump(world.source, store, tier=Tier.WEEKLY)
        manifest_tools = honest.tools["pg_dump"].split(".")[0]
        data = _policed_dump(world, int(manifest_tools))
    finally:
        run_sql(
            dsn,
            "ALTER TABLE stay DISABLE ROW LEVEL SECURITY",
            "DROP POLICY few ON stay",
            f"REVOKE pg_read_all_data FROM {world.reader}",
            "REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM PUBLIC",
            "DO 'BEGIN EXECUTE (SELECT ''REVOKE SELECT ON LARGE OBJECT '' || oid || '' FROM PUBLIC'' "
            "FROM pg_largeobject_metadata); END'",
        )
    proof = proof_of(world.ground, store, replace_archive(store, honest, data))
    assert proof.verdict == "failed"
    assert "public.stay: 200 rows in the copy, 300 in the snapshot" in problems(proof)["rows"]


def _policed_dump(world: World, major: int) -> bytes:
    (tools,) = (found for found in client.installed() if found.major == major)
    reader = replace(world.source, user=world.reader)
    answer = subprocess.run(
        [tools.path("pg_dump"), "-Fc", "--enable-row-security", f"--dbname=host={reader.host} port={reader.port} "
         f"dbname={reader.dbname} user={reader.user}"],
        env={"PGPASSWORD": reader.password or ""}, capture_output=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr.decode()) == (0, "")
    return answer.stdout


def _edited_tables(manifest: Manifest, **changes: Any) -> dict[str, Any]:
    return {
        "tables": tuple(
            table.model_copy(update=changes) if table.name == "stay" else table for table in manifest.tables
        )
    }


EDITS: dict[str, tuple[Any, str]] = {
    "the number of rows": (lambda m: _edited_tables(m, rows=299), "rows"),
    "no number of rows": (lambda m: _edited_tables(m, rows=None), "rows"),
    "a row hash": (lambda m: _edited_tables(m, row_hash="17"), "row hashes"),
    "no row hash": (lambda m: _edited_tables(m, row_hash=None, method=None), "row hashes"),
    "another way of hashing": (lambda m: _edited_tables(m, method="text"), "row hashes"),
    "a table left out": (lambda m: {"tables": m.tables[1:]}, "rows"),
    "another revision": (lambda m: {"schema_revision": "0008"}, "revision"),
    "no revision": (lambda m: {"schema_revision": None}, "revision"),
    "another place of the revision": (lambda m: {"revision_table": "public.elsewhere"}, "revision"),
    "a role left out": (lambda m: {"roles": m.roles[:-1]}, "roles"),
    "the bytes": (lambda m: {"bytes": m.bytes + 1}, "archive"),
    "the sha256": (lambda m: {"sha256": "0" * 64}, "archive"),
    "the inventory's sha256": (
        lambda m: {"inventory": m.inventory.model_copy(update={"sha256": "0" * 64})},
        "archive",
    ),
    "no inventory": (lambda m: {"inventory": None}, "constraints"),
    "another major version of the source": (
        lambda m: {"server": m.server.model_copy(update={"major": 16})},
        "row hashes",
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_manifest_in_which_somebody_edited(what: str, world: World, store: LocalStore, manifest: Manifest) -> None:
    changes, check = EDITS[what]
    edited = edit(store, manifest, **changes(manifest))
    proof = proof_of(world.ground, store, edited)
    assert proof.verdict in {"failed", "incomplete"}
    assert problems(proof)[check]
    assert not entry_of(store, manifest).proved


def test_a_manifest_in_which_somebody_edited_the_hash_of_every_table(
    world: World, store: LocalStore, manifest: Manifest
) -> None:
    # It then looks like one of a backup made with `fingerprints: counts`, but the inventory knows better.
    counted = tuple(table.model_copy(update={"row_hash": None, "method": None}) for table in manifest.tables)
    edited = edit(store, manifest, tables=counted)
    proof = proof_of(world.ground, store, edited)
    assert proof.verdict == "incomplete"
    assert not proof.counts_only


@pytest.mark.parametrize("what", ["role", "extension"])
def test_nothing_is_said_of_a_backup_whose_role_or_extension_is_missing_on_the_proving_ground(
    what: str, world: World, store: LocalStore, manifest: Manifest
) -> None:
    changes = (
        {"roles": (*manifest.roles, "nobody_here"), "owners": (*manifest.owners, "nobody_here")}
        if what == "role"
        else {"extensions": {**manifest.extensions, "nobody_here": "1.0"}}
    )
    edit(store, manifest, **changes)
    with pytest.raises(MissingRequirementsError, match="nobody_here"):
        proof_of(world.ground, store, manifest)
    assert entry_of(store, manifest).proof is None
    assert copies_on(world.ground) == []


INVENTORY_EDITS: dict[str, tuple[str, str, str, str]] = {
    "a constraint": ("constraint", "public.guest.known_status", "'gone'", "'left'"),
    "an index": ("index", "public.guest_status", "'old'", "'new'"),
    "a view": ("view", "public.regulars", "count(*)", "count(1)"),
    "a policy": ("policy", "public.guest.living", "'old'", "'young'"),
    "a default": ("column", "public.guest.status", "'new'", "'old'"),
    "a trigger": ("trigger", "public.guest.touched", "'old'", "'young'"),
    "a function": ("function", "public.net(numeric, numeric)", "0.19", "0.07"),
    "a generated column": ("column", "public.guest.kind", "'away'", "'far'"),
    "a right": ("grant", "table public.guest to {reader}", "SELECT", "INSERT"),
}


@pytest.mark.parametrize("what", INVENTORY_EDITS)
def test_an_inventory_in_which_somebody_edited(what: str, world: World, store: LocalStore, manifest: Manifest) -> None:
    kind, name, old, new = INVENTORY_EDITS[what]
    name = name.format(reader=world.reader)
    document = json.loads(store.get(manifest.backup_id.inventory_key))
    (item,) = (one for one in document["objects"] if (one["kind"], one["name"]) == (kind, name))
    assert old in item["definition"]
    item["definition"] = item["definition"].replace(old, new)
    edited = replace_inventory(store, manifest, json.dumps(document).encode())
    assert read_inventory(store, edited, identity=None)
    proof = proof_of(world.ground, store, edited)
    assert proof.verdict == "failed"
    assert any(name in finding for findings in problems(proof).values() for finding in findings)


def test_an_inventory_of_which_a_byte_changed(world: World, store: LocalStore, manifest: Manifest) -> None:
    data = store.get(manifest.backup_id.inventory_key)
    store.put(manifest.backup_id.inventory_key, data.replace(b"gone", b"left"), replace=True)
    proof = proof_of(world.ground, store, manifest)
    assert proof.verdict == "failed"
    assert "inventory" in problems(proof)["archive"][0]


def test_a_missing_inventory(world: World, store: LocalStore, manifest: Manifest) -> None:
    store.delete(manifest.backup_id.inventory_key)
    assert proof_of(world.ground, store, manifest).verdict == "failed"


def test_a_certificate_of_another_backup(world: World, store: LocalStore, manifest: Manifest) -> None:
    assert proof_of(world.ground, store, manifest).verdict == "proved"
    assert entry_of(store, manifest).proved
    other = dump(world.source, store, now=lambda: manifest.created_at + timedelta(days=1))
    verify(store, other.backup_id)
    store.put(other.backup_id.proof_key, store.get(manifest.backup_id.proof_key))
    assert entry_of(store, other).good
    assert not entry_of(store, other).proved


def test_a_certificate_of_the_same_archive_with_another_manifest(
    world: World, store: LocalStore, manifest: Manifest
) -> None:
    assert proof_of(world.ground, store, manifest).verdict == "proved"
    edit(store, manifest, **_edited_tables(manifest, rows=1))
    assert entry_of(store, manifest).good
    assert not entry_of(store, manifest).proved


def test_a_certificate_in_which_somebody_edited_the_verdict(
    world: World, store: LocalStore, manifest: Manifest
) -> None:
    edit(store, manifest, **_edited_tables(manifest, rows=1))
    assert proof_of(world.ground, store, manifest).verdict == "failed"
    key = manifest.backup_id.proof_key
    store.put(key, store.get(key).replace(b'"verdict": "failed"', b'"verdict": "proved"'), replace=True)
    assert b'"proved"' in store.get(key)
    assert not entry_of(store, manifest).proved


# Runs a proof whose smoke query waits until the test kills it.
_PROOF = """
import json, sys
from pathlib import Path
from include.backup.model import BackupId
from include.backup.stores.local import LocalStore
from include.postgres.dsn import Dsn
from include.proving.ground import Production, open_ground
from include.proving.options import ProofOptions, SmokeQuery
from include.proving.prove import prove
told = json.load(sys.stdin)
waiting = SmokeQuery(name="waits", sql="SELECT pg_sleep(600) IS NULL /* until it is killed */")
options = ProofOptions(smoke_queries=(waiting,), smoke_timeout_seconds=600)
ground = open_ground(Dsn(**told["dsn"]), Production({}, {}))
prove(ground, LocalStore(Path(told["store"])), BackupId.parse(told["backup"]), options=options,
      staging=Path(told["staging"]))
"""


def test_a_proof_killed_in_the_middle_leaves_no_certificate_and_the_next_one_cleans_up_after_it(
    world: World, store: LocalStore, manifest: Manifest, tmp_path: Path
) -> None:
    dsn = world.ground.dsn
    (staging := tmp_path / "staging").mkdir()
    told = {
        "dsn": {"host": dsn.host, "port": dsn.port, "dbname": dsn.dbname, "user": dsn.user, "password": dsn.password},
        "store": str(tmp_path / "store"),
        "backup": manifest.id,
        "staging": str(staging),
    }
    process = subprocess.Popen([sys.executable, "-c", _PROOF], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(told))
    process.stdin.close()
    try:
        assert soon(lambda: _answers(world, "until it is killed") == 1, seconds=60)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert len(copies_on(world.ground)) == 1
    assert entry_of(store, manifest).proof is None
    assert soon(lambda: _locks(world) == 0, seconds=60)
    assert proof_of(world.ground, store, manifest, staging=staging).verdict == "proved"
    assert copies_on(world.ground) == []
    assert list(staging.iterdir()) == []
    assert entry_of(store, manifest).proved


def _answers(world: World, text: str) -> int:
    return _count(
        world,
        "pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid() AND query LIKE %s",
        f"%{text}%",
    )


def _locks(world: World) -> int:
    return _count(world, "pg_locks WHERE locktype = 'advisory' AND %s <> ''", "any")


def _count(world: World, what: str, value: str) -> int:
    with world.ground.dsn.connect() as session:
        row = session.execute(f"SELECT count(*) FROM {what}".encode(), [value]).fetchone()
    return int(row[0]) if row else 0
