"""The catalog is what the store holds: a backup exists if and only if its manifest does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from include.backup.catalog import (
    NoSuchBackupError,
    UnreadableManifestError,
    databases,
    read_catalog,
    read_manifest,
)
from include.backup.model import BackupId, Tier
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from tests.backup.retention_world import MemoryStore, days_ago, entry, write

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.model import CatalogEntry


def test_an_empty_store_and_one_that_does_not_exist_yet_hold_no_backups(folder_store: LocalStore) -> None:
    assert read_catalog(folder_store, "hotel").entries == ()
    assert databases(folder_store) == ()


def test_backups_of_all_tiers_are_listed_oldest_first_with_what_is_known_of_them(folder_store: LocalStore) -> None:
    made = [
        entry(days_ago(3), Tier.MONTHLY),
        entry(days_ago(2), Tier.PRE_MIGRATION, state="failed"),
        entry(days_ago(1), Tier.DAILY, state="unverified"),
        entry(days_ago(0.5), Tier.WEEKLY),
    ]
    for each in reversed(made):
        write(folder_store, each)
    assert list(read_catalog(folder_store, "hotel").entries) == made
    assert [each.good for each in made] == [True, False, False, True]


def test_a_backup_is_listed_with_its_proof_and_with_a_persons_acceptance(folder_store: LocalStore) -> None:
    made = [
        entry(days_ago(4), proof="proved"),
        entry(days_ago(3), proof="failed", accepted=days_ago(1)),
        entry(days_ago(2), proof="incomplete", state="unverified"),
        entry(days_ago(1), accepted=days_ago(0)),
    ]
    for each in made:
        write(folder_store, each)
    found = read_catalog(folder_store, "hotel").entries
    assert list(found) == made
    assert [(each.verdict, each.proved, each.good, each.accepted) for each in found] == [
        ("proved", True, True, False),
        ("failed", False, False, True),
        ("incomplete", False, False, False),
        (None, False, True, True),
    ]


def test_only_records_that_the_listing_shows_are_read() -> None:
    class Counting(MemoryStore):
        def get(self, key: str) -> bytes:
            read.append(key)
            return super().get(key)

    read: list[str] = []
    store = Counting()
    made = [entry(days_ago(2)), entry(days_ago(1), state="unverified", proof="incomplete")]
    for each in made:
        write(store.store, each)
    store.put(entry(days_ago(5)).backup_id.proof_key, b"of a backup that is gone")
    assert list(read_catalog(store.store, "hotel").entries) == made
    first, second = (each.backup_id for each in made)
    assert sorted(read) == sorted([first.manifest_key, first.verification_key, second.manifest_key, second.proof_key])


def test_a_backup_that_is_removed_while_the_catalog_is_read_is_not_listed() -> None:
    class Vanishing(MemoryStore):
        def get(self, key: str) -> bytes:
            if key == gone.backup_id.manifest_key:
                self.delete(key)
            return super().get(key)

    gone, left = entry(days_ago(2), proof="proved"), entry(days_ago(1))
    store = Vanishing()
    for each in (gone, left):
        write(store.store, each)
    found = read_catalog(store.store, "hotel")
    assert (found.entries, found.unreadable) == ((left,), ())


def test_an_archive_without_a_manifest_is_no_backup(folder_store: LocalStore) -> None:
    for suffix in (".dump", ".verify.json", ".proof.json"):
        folder_store.put(f"{entry(days_ago(1)).backup_id.stem}{suffix}", b"{}")
    folder_store.put(f"{entry(days_ago(2)).backup_id.stem}.dump/toc.dat", b"")
    found = read_catalog(folder_store, "hotel")
    assert (found.entries, found.unreadable) == ((), ())
    assert databases(folder_store) == ()


@pytest.mark.parametrize(
    "key",
    [
        "hotel/daily/hotel_2026-03-01T020000Z.json.bak",
        "hotel/daily/hotel_2026-03-01T020000Z.json/x",
        "hotel/daily/other_2026-03-01T020000Z.json",
        "hotel/hourly/hotel_2026-03-01T020000Z.json",
        "hotel/daily/hotel_2026-13-01T020000Z.json",
        "hotel/daily/hotel_2026-02-30T020000Z.json",
        "hotel/daily/hotel_2026-03-01T020000+0100.json",
        "hotel/daily/hotel_latest.json",
        "hotel/daily/sub/hotel_2026-03-01T020000Z.json",
        "x/hotel/daily/hotel_2026-03-01T020000Z.json",
    ],
)
def test_what_does_not_follow_our_naming_to_the_letter_is_not_ours(folder_store: LocalStore, key: str) -> None:
    folder_store.put(key, b"somebody else's")
    found = read_catalog(folder_store, "hotel")
    assert (found.entries, found.unreadable) == ((), ())
    assert databases(folder_store) == ()


def test_databases_whose_names_begin_alike_do_not_mix(folder_store: LocalStore) -> None:
    names = ("app", "app-2", "app_staging", "ap", "hotel")
    for name in names:
        write(folder_store, entry(days_ago(1), database=name))
    for name in names:
        (only,) = read_catalog(folder_store, name).entries
        assert only.manifest.database == name
    assert databases(folder_store) == tuple(sorted(names))


def test_a_manifest_that_cannot_be_understood_is_shown_and_hides_no_other(folder_store: LocalStore) -> None:
    healthy = entry(days_ago(1))
    write(folder_store, healthy)
    newer = entry(days_ago(2)).manifest.model_dump_json().replace('"schema_version":1', '"schema_version":2')
    folder_store.put(entry(days_ago(2)).backup_id.manifest_key, newer.encode())
    folder_store.put(entry(days_ago(3)).backup_id.manifest_key, b"")
    folder_store.put(entry(days_ago(4)).backup_id.manifest_key, b'{"secret": "\xff"}')
    found = read_catalog(folder_store, "hotel")
    assert found.entries == (healthy,)
    assert [key for key, _ in found.unreadable] == [entry(days_ago(days)).backup_id.manifest_key for days in (4, 3, 2)]
    assert "schema_version" in found.unreadable[2][1]


@pytest.mark.parametrize(
    "other", [entry(days_ago(2)), entry(days_ago(1), Tier.WEEKLY), entry(days_ago(1), database="app")]
)
def test_a_manifest_under_another_backups_name_is_not_believed(folder_store: LocalStore, other: CatalogEntry) -> None:
    place = entry(days_ago(1)).backup_id
    folder_store.put(place.manifest_key, other.manifest.model_dump_json().encode())
    with pytest.raises(UnreadableManifestError, match=r"is that of .*_2026"):
        read_manifest(folder_store, place)
    assert read_catalog(folder_store, "hotel").entries == ()


def test_a_manifest_whose_id_was_edited_is_not_believed(folder_store: LocalStore) -> None:
    made = entry(days_ago(1))
    edited = made.manifest.model_copy(update={"id": entry(days_ago(2)).manifest.id})
    folder_store.put(made.backup_id.manifest_key, edited.model_dump_json().encode())
    with pytest.raises(UnreadableManifestError):
        read_manifest(folder_store, made.backup_id)


def test_a_missing_manifest_is_told_with_the_way_to_list_them(folder_store: LocalStore) -> None:
    with pytest.raises(NoSuchBackupError) as raised:
        read_manifest(folder_store, entry(days_ago(1)).backup_id)
    assert folder_store.url in raised.value.what
    assert raised.value.database == "hotel"


@pytest.mark.parametrize("record", [b"{", b"", b'{"schema_version": 2}', b"\xff"])
def test_a_record_that_cannot_be_read_proves_nothing_and_accepts_nothing(
    folder_store: LocalStore, record: bytes
) -> None:
    made = entry(days_ago(1), proof="failed", accepted=days_ago(0))
    write(folder_store, made)
    for key in (made.backup_id.verification_key, made.backup_id.proof_key, made.backup_id.acceptance_key):
        folder_store.put(key, record, replace=True)
    (found,) = read_catalog(folder_store, "hotel").entries
    assert (found.verification, found.proof, found.acceptance) == (None, None, None)
    assert (found.good, found.proved, found.accepted) == (False, False, False)


def test_a_store_that_cannot_be_read_is_an_error_and_not_an_empty_catalog(tmp_path: Path) -> None:
    class Unreadable(LocalStore):
        def get(self, key: str) -> bytes:
            raise StoreError("refused", untouched="all", remedy="ask", transient=True)

    store = LocalStore(tmp_path / "store")
    write(store, entry(days_ago(1)))
    with pytest.raises(StoreError, match="refused"):
        read_catalog(Unreadable(tmp_path / "store"), "hotel")


def test_a_backups_name_holds_its_database_tier_and_moment_and_reads_back() -> None:
    summer = timezone(timedelta(hours=2))
    backup = BackupId(database="app-2", tier=Tier.PRE_MIGRATION, created_at=datetime(2026, 7, 1, 1, 30, tzinfo=summer))
    assert backup.stem == "app-2/pre-migration/app-2_2026-06-30T233000Z"
    assert BackupId.parse(backup.stem) == backup
    assert BackupId.from_key(backup.dump_key) == (backup, ".dump")
    assert backup.created_at.astimezone(UTC).hour == 23
    for wrong in ("", "app", f"{backup.stem}.dump", f"/{backup.stem}", backup.stem.upper(), f"{backup.stem}\n"):
        with pytest.raises(ValueError, match="is no backup's id; allowed"):
            BackupId.parse(wrong)
