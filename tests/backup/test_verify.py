"""Whatever differs from what was written is called damaged, recorded, and never counts as a good backup."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from include.backup.catalog import NoSuchBackupError, read_catalog
from include.backup.model import BackupId, Manifest, TableFingerprint, Tier, Verification
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.backup.verify import BackupDamagedError, verify
from include.errors import MaintenanceError
from tests.backup.dump_world import contents_of, dump, options, run_sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from include.stack.postgres import PostgresServer

KINDS = ("zstd", "none", "gzip", "encrypted", "directory")


@pytest.fixture(scope="module")
def made(pg17: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Manifest]]]:
    """A store with one backup of every kind, made once; each test gets a copy of it."""
    folder = tmp_path_factory.mktemp("verify")
    source = pg17.superuser("verify_source")
    run_sql(pg17.superuser(), "CREATE DATABASE verify_source TEMPLATE template0")
    run_sql(
        source,
        "CREATE TABLE t AS SELECT i, md5(i::text) AS f FROM generate_series(1, 4000) i",
        "CREATE TABLE u (a int)",
        "SELECT lo_from_bytea(0, 'a large object')",
    )
    key = str(pyrage.x25519.Identity.generate().to_public())
    (folder / "staging").mkdir()
    how = {
        "zstd": options("zstd:1"),
        "none": options("none"),
        "gzip": options("gzip:1"),
        "encrypted": options("zstd:1", encryption_recipients=(key,)),
        "directory": options("zstd:1", staging=folder / "staging"),
    }
    store = LocalStore(folder / "store")
    yield folder / "store", {kind: dump(source, store, how[kind]) for kind in KINDS}
    run_sql(pg17.superuser(), "DROP DATABASE verify_source")


@pytest.fixture
def store(made: tuple[Path, dict[str, Manifest]], tmp_path: Path) -> LocalStore:
    shutil.copytree(made[0], tmp_path / "store")
    return LocalStore(tmp_path / "store")


@pytest.fixture
def manifests(made: tuple[Path, dict[str, Manifest]]) -> dict[str, Manifest]:
    return made[1]


def replace(store: LocalStore, key: str, data: bytes) -> None:
    store.put(key, data, replace=True)


def good(store: LocalStore, manifest: Manifest) -> bool:
    (entry,) = (entry for entry in read_catalog(store, "app").entries if entry.manifest.id == manifest.id)
    return entry.good


def damaged(store: LocalStore, manifest: Manifest) -> str:
    """Verify, and see that the damage is told, recorded and counts."""
    with pytest.raises(BackupDamagedError) as raised:
        verify(store, manifest.backup_id)
    assert raised.value.database == "app"
    assert not raised.value.transient
    assert "run the backup again now" in raised.value.remedy
    record = Verification.model_validate_json(store.get(manifest.backup_id.verification_key))
    assert record.failure
    assert record.failure in raised.value.what
    assert manifest.id in raised.value.what
    assert not good(store, manifest)
    return record.failure


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_backup_is_good_and_stays_as_it_is(
    store: LocalStore, manifests: dict[str, Manifest], kind: str, tmp_path: Path
) -> None:
    manifest = manifests[kind]
    assert not good(store, manifest), "nobody has looked at it yet"
    before = contents_of(tmp_path / "store")
    told: list[int] = []
    outcome = verify(store, manifest.backup_id, progress=told.append)
    assert outcome.failure is None
    assert outcome.level == ("encrypted bytes" if kind == "encrypted" else "archive")
    assert good(store, manifest)
    assert told == sorted(told)
    assert told[-1] == manifest.bytes
    after = contents_of(tmp_path / "store")
    assert after.keys() - before.keys() == {manifest.backup_id.verification_key}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("kind", ["zstd", "none", "gzip", "encrypted"])
def test_one_flipped_bit_anywhere_is_found(store: LocalStore, manifests: dict[str, Manifest], kind: str) -> None:
    manifest = manifests[kind]
    key = manifest.backup_id.dump_key
    whole = store.get(key)
    # The head, the table of contents, data, the end.
    for place in (0, 4, 7, 40, 400, 2000, len(whole) // 2, len(whole) * 3 // 4, len(whole) - 300, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        replace(store, key, bytes(flipped))
        assert "sha256" in damaged(store, manifest), place
    replace(store, key, whole)
    assert verify(store, manifest.backup_id).failure is None
    assert good(store, manifest)


@pytest.mark.parametrize("kind", ["zstd", "none", "gzip", "encrypted"])
def test_a_truncated_or_lengthened_archive_is_found(
    store: LocalStore, manifests: dict[str, Manifest], kind: str
) -> None:
    manifest = manifests[kind]
    key = manifest.backup_id.dump_key
    whole = store.get(key)
    for size in (0, 1, 10, 1000, len(whole) // 2, len(whole) - 1):
        replace(store, key, whole[:size])
        assert f"{size} bytes are stored, {len(whole)} were written" in damaged(store, manifest)
    replace(store, key, whole + b"\0")
    assert f"{len(whole) + 1} bytes are stored" in damaged(store, manifest)


def test_damage_to_any_file_of_a_directory_archive_is_found(store: LocalStore, manifests: dict[str, Manifest]) -> None:
    manifest = manifests["directory"]
    assert len(manifest.files) >= 5
    for file in manifest.files:
        key = f"{manifest.id}{file.suffix}"
        whole = store.get(key)
        replace(store, key, whole[:-1])
        assert f"{file.suffix}: {len(whole) - 1} bytes are stored" in damaged(store, manifest)
        replace(store, key, bytes([whole[0] ^ 1]) + whole[1:])
        assert f"{file.suffix}: sha256 is" in damaged(store, manifest)
        store.delete(key)
        assert "missing from the store" in damaged(store, manifest)
        replace(store, key, whole)
    verify(store, manifest.backup_id)
    assert good(store, manifest)


@pytest.mark.parametrize("kind", ["zstd", "encrypted"])
def test_an_archive_that_is_gone_is_damage(store: LocalStore, manifests: dict[str, Manifest], kind: str) -> None:
    store.delete(manifests[kind].backup_id.dump_key)
    assert "an object is missing from the store" in damaged(store, manifests[kind])


def test_another_backups_archive_in_its_place_is_damage(store: LocalStore, manifests: dict[str, Manifest]) -> None:
    replace(store, manifests["zstd"].backup_id.dump_key, store.get(manifests["gzip"].backup_id.dump_key))
    damaged(store, manifests["zstd"])


def edited(manifest: Manifest, **changes: Any) -> Manifest:
    """The manifest after somebody's edit; a hash or size is changed wherever it stands."""
    return manifest.model_copy(update=changes)


def test_a_manifest_that_was_edited_is_damage(store: LocalStore, manifests: dict[str, Manifest]) -> None:
    manifest = manifests["zstd"]
    (file,) = manifest.files
    other = file.model_copy(update={"sha256": "0" * 64})
    longer = file.model_copy(update={"bytes": file.bytes + 1})
    extra = TableFingerprint(oid=1, schema_name="public", name="ghost", rows=0, row_hash="0", method="text")
    edits: dict[str, dict[str, Any]] = {
        "the manifest contradicts itself": {"bytes": manifest.bytes + 1},
        "contradicts itself": {"sha256": "0" * 64},
        "contradicts": {"files": (other,)},
        "itself": {"files": ()},
        "sha256 is": {"files": (other,), "sha256": other.sha256},
        "bytes are stored": {"files": (longer,), "bytes": longer.bytes},
        "tables of the snapshot are not in the archive: public.ghost": {"tables": (*manifest.tables, extra)},
        "the archive holds tables that the snapshot did not": {"tables": manifest.tables[1:]},
    }
    for expected, changes in edits.items():
        replace(store, manifest.backup_id.manifest_key, edited(manifest, **changes).model_dump_json().encode())
        assert expected in damaged(store, manifest), changes


def test_an_undecodable_archive_is_damage_even_where_the_manifest_vouches_for_its_bytes(
    store: LocalStore, manifests: dict[str, Manifest]
) -> None:
    from hashlib import sha256

    for kind in ("zstd", "gzip", "none"):
        manifest = manifests[kind]
        half = store.get(manifest.backup_id.dump_key)[: manifest.bytes // 2]
        digest = sha256(half).hexdigest()
        file = manifest.files[0].model_copy(update={"bytes": len(half), "sha256": digest})
        forged = edited(manifest, files=(file,), bytes=len(half), sha256=digest)
        replace(store, manifest.backup_id.dump_key, half)
        replace(store, manifest.backup_id.manifest_key, forged.model_dump_json().encode())
        assert "cannot be decoded to its end: pg_restore" in damaged(store, forged)


def test_a_verification_of_an_earlier_object_does_not_make_the_present_one_good(
    store: LocalStore, manifests: dict[str, Manifest]
) -> None:
    manifest = manifests["zstd"]
    verify(store, manifest.backup_id)
    record = Verification.model_validate_json(store.get(manifest.backup_id.verification_key))
    for change in ({"sha256": "0" * 64}, {"backup": manifests["gzip"].id}, {"failure": "x"}):
        changed = record.model_copy(update=change)
        replace(store, manifest.backup_id.verification_key, changed.model_dump_json().encode())
        assert not good(store, manifest)
    replace(store, manifest.backup_id.verification_key, b"{")
    assert not good(store, manifest)


class RefusingStore(LocalStore):
    """A folder that refuses to be read after the manifest."""

    def read(self, key: str, *, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
        if not key.endswith(".json"):
            raise StoreError("the store went away", untouched="all", remedy="wait", transient=True)
        return super().read(key, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_goes_away_is_no_verdict(
    store: LocalStore, manifests: dict[str, Manifest], kind: str, tmp_path: Path
) -> None:
    before = contents_of(tmp_path / "store")
    with pytest.raises(StoreError, match="went away") as raised:
        verify(RefusingStore(tmp_path / "store"), manifests[kind].backup_id)
    assert not isinstance(raised.value, BackupDamagedError)
    assert contents_of(tmp_path / "store") == before


def test_missing_tools_are_no_verdict(
    store: LocalStore, manifests: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("include.postgres.tools.installed", lambda: ())
    before = contents_of(tmp_path / "store")
    with pytest.raises(MaintenanceError, match="none installed") as raised:
        verify(store, manifests["zstd"].backup_id)
    assert not isinstance(raised.value, BackupDamagedError)
    assert contents_of(tmp_path / "store") == before
    # Bytes can be compared without any tools.
    assert verify(store, manifests["encrypted"].backup_id).failure is None


def test_a_backup_that_does_not_exist_is_told_with_the_way_to_list_them(
    store: LocalStore, manifests: dict[str, Manifest]
) -> None:
    created: datetime = manifests["zstd"].created_at
    with pytest.raises(NoSuchBackupError) as raised:
        verify(store, BackupId(database="app", tier=Tier.MONTHLY, created_at=created))
    assert "include.cli backups" in raised.value.remedy


def test_a_directory_archive_is_verified_in_the_folder_that_is_named_and_leaves_nothing_there(
    store: LocalStore, manifests: dict[str, Manifest], tmp_path: Path
) -> None:
    staging = tmp_path / "room"
    staging.mkdir()
    seen: set[str] = set()

    def look(_: int) -> None:
        seen.update(path.name.rpartition("-")[0] for path in staging.iterdir())

    verify(store, manifests["directory"].backup_id, staging=staging, progress=look)
    assert seen == {"night-porter-staging"}
    assert list(staging.iterdir()) == []
