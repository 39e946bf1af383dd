"""What a sweep takes away, and all that it must leave alone."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.backup.model import Tier
from include.backup.stores.base import StoredObject, StoreError, UnfinishedUpload
from include.backup.stores.local import LocalStore
from include.backup.sweep import MIN_AGE, abandoned_uploads, leftovers, owner, sweep
from tests.backup.retention_world import NOW, MemoryStore, days_ago, entry, write

STEM = entry(days_ago(30)).backup_id.stem
OLD = days_ago(8)


def found(suffix: str, modified: datetime = OLD, stem: str = STEM) -> StoredObject:
    return StoredObject(f"{stem}{suffix}", 10, modified)


def left(*objects: StoredObject, database: str = "hotel") -> set[str]:
    return {one.key.removeprefix(STEM) for one in leftovers(objects, database=database, now=NOW)}


@pytest.mark.parametrize("suffix", [".dump", ".verify.json", ".proof.json", ".dump/toc.dat", ".dump/1.dat.zst"])
def test_an_old_object_without_a_manifest_is_a_leftover_even_alone(suffix: str) -> None:
    assert left(found(suffix)) == {suffix}


def test_all_objects_of_a_backup_without_manifest_go_together() -> None:
    suffixes = {".dump/toc.dat", ".dump/1.dat.zst", ".verify.json", ".proof.json"}
    assert left(*(found(suffix) for suffix in suffixes)) == suffixes


def test_nothing_of_a_backup_with_a_manifest_is_a_leftover() -> None:
    assert left(*(found(suffix) for suffix in (".dump", ".verify.json", ".proof.json", ".json"))) == set()


def test_a_manifest_without_an_archive_is_not_a_leftover() -> None:
    assert left(found(".json")) == set()


def test_a_verification_record_is_no_manifest() -> None:
    assert left(found(".dump"), found(".verify.json")) == {".dump", ".verify.json"}


def test_the_manifest_of_another_tier_or_moment_does_not_save_a_leftover() -> None:
    weekly = entry(days_ago(30), Tier.WEEKLY).backup_id.stem
    later = entry(days_ago(29)).backup_id.stem
    assert left(found(".dump"), found(".json", stem=weekly), found(".json", stem=later)) == {".dump"}


def test_an_object_may_lie_a_week_before_it_is_a_leftover() -> None:
    assert left(found(".dump", NOW - MIN_AGE)) == set()
    assert left(found(".dump", NOW - MIN_AGE - timedelta(seconds=1))) == {".dump"}


def test_one_young_object_protects_all_of_its_backup() -> None:
    assert left(found(".dump/1.dat"), found(".dump/2.dat", days_ago(1))) == set()


def test_an_object_from_the_future_is_not_a_leftover() -> None:
    assert left(found(".dump", NOW + timedelta(days=400))) == set()


@pytest.mark.parametrize(
    "key",
    [
        f"{STEM}.dump.old",
        f"{STEM}.dump/",
        f"{STEM}.DUMP",
        f"{STEM}.json.bak",
        f"{STEM}.txt",
        f"{STEM}-copy.dump",
        f"{STEM}",
        f"old/{STEM}.dump",
        f"{STEM}.dump\n",
        "hotel/daily/hotel_2026-03-01.dump",
        "hotel/daily/hotel_2026-02-30T020000Z.dump",
        "hotel/daily/hotel_2026-03-01T020000+0000.dump",
        "hotel/daily/other_2026-03-01T020000Z.dump",
        "hotel/yearly/hotel_2026-03-01T020000Z.dump",
        "hotel/hotel_2026-03-01T020000Z.dump",
        "hotel/daily/notes.txt",
        "Hotel/daily/Hotel_2026-03-01T020000Z.dump",
        "night-porter-probe-0123",
    ],
)
def test_what_does_not_follow_our_naming_to_the_letter_is_never_touched(key: str) -> None:
    assert owner(key) is None
    assert left(StoredObject(key, 10, OLD)) == set()
    assert abandoned_uploads([UnfinishedUpload(key, OLD, "t")], database="hotel", now=NOW) == []


@pytest.mark.parametrize("other", ["hotel_staging", "hotel-2", "hote", "h"])
def test_leftovers_of_another_database_are_not_this_ones_business(other: str) -> None:
    stem = entry(days_ago(30), database=other).backup_id.stem
    assert left(found(".dump", stem=stem)) == set()
    assert len(leftovers([found(".dump", stem=stem)], database=other, now=NOW)) == 1


def test_an_upload_unfinished_for_more_than_a_week_is_abandoned() -> None:
    week, more = NOW - MIN_AGE, NOW - MIN_AGE - timedelta(seconds=1)
    uploads = [UnfinishedUpload(f"{STEM}.dump", week, "young"), UnfinishedUpload(f"{STEM}.dump", more, "old")]
    assert [one.token for one in abandoned_uploads(uploads, database="hotel", now=NOW)] == ["old"]


def test_an_unfinished_upload_of_another_database_is_left_to_it() -> None:
    stem = entry(days_ago(30), database="hotel_staging").backup_id.stem
    assert abandoned_uploads([UnfinishedUpload(f"{stem}.dump", OLD, "t")], database="hotel", now=NOW) == []


# In a real folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def aged(folder: Path) -> None:
    """Make every file in the folder eight days old."""
    for path in folder.rglob("*"):
        os.utime(path, (OLD.timestamp(), OLD.timestamp()))


def test_a_sweep_removes_leftovers_and_unfinished_uploads_and_leaves_all_else(folder: Path) -> None:
    store = LocalStore(folder)
    kept = write(store, entry(days_ago(20)), archive={".dump/toc.dat": b"t", ".dump/1.dat": b"d"}, proof=True)
    kept |= write(store, entry(days_ago(30), database="hotel_staging"))
    store.put("hotel/daily/notes.txt", b"mine")
    store.put(f"{STEM}.dump.old", b"mine")
    orphans = {f"{STEM}.dump/toc.dat": b"abc", f"{STEM}.dump/1.dat": b"de", f"{STEM}.verify.json": b"f"}
    for key, data in orphans.items():
        store.put(key, data)
    staging = entry(days_ago(40), database="hotel_staging").backup_id.dump_key
    store.put(staging, b"another database's leftover")
    (folder / f"{STEM}.dump").with_name(f".night-porter-upload-{'0' * 32}-{Path(STEM).name}.dump").write_bytes(b"part")
    aged(folder)

    dry = sweep(store, "hotel", now=NOW)
    assert {one.key for one in dry.objects} == set(orphans)
    assert len(dry.uploads) == 1
    assert (dry.bytes, dry.dry_run) == (6, True)
    assert len(list(store.list())) == len(kept) + len(orphans) + 3

    done = sweep(store, "hotel", now=NOW, dry_run=False)
    assert (done.objects, done.uploads, done.dry_run) == (dry.objects, dry.uploads, False)
    assert {one.key for one in store.list()} == {*kept, "hotel/daily/notes.txt", f"{STEM}.dump.old", staging}
    assert list(store.unfinished()) == []
    again = sweep(store, "hotel", now=NOW, dry_run=False)
    assert (again.objects, again.uploads) == ((), ())


def test_a_dump_that_runs_at_this_moment_is_left_alone(folder: Path) -> None:
    store = LocalStore(folder)
    store.put(f"{STEM}.dump/1.dat", b"d")
    with store.upload(f"{STEM}.dump/2.dat") as upload:
        upload.write(b"half")
        swept = sweep(store, "hotel", now=datetime.now(NOW.tzinfo), dry_run=False)
        upload.commit()
    assert (swept.objects, swept.uploads) == ((), ())
    assert len(list(store.list())) == 2


class LateManifest(MemoryStore):
    """A manifest arrives between the first listing and the removal."""

    listings = 0

    def list(self, prefix: str = ""):  # type: ignore[no-untyped-def]  # as its parent's
        self.listings += 1
        if self.listings == 2:
            self.put(f"{STEM}.json", b"{}")
        return super().list(prefix)


def test_a_manifest_that_arrives_during_the_sweep_saves_its_backup() -> None:
    memory = LateManifest(now=OLD)
    memory.put(f"{STEM}.dump", b"a")
    assert sweep(memory.store, "hotel", now=NOW, dry_run=False).objects == ()
    assert memory.keys == {f"{STEM}.dump", f"{STEM}.json"}


def test_a_sweep_that_the_store_stops_tells_how_far_it_came() -> None:
    memory = MemoryStore(now=OLD)
    for suffix in (".dump/1.dat", ".dump/2.dat", ".dump/toc.dat"):
        memory.put(f"{STEM}{suffix}", b"a")
    memory.uploads = [UnfinishedUpload(f"{STEM}.dump/3.dat", OLD, "t")]
    memory.deletions_left = 2
    with pytest.raises(StoreError) as raised:
        sweep(memory.store, "hotel", now=NOW, dry_run=False)
    assert raised.value.what == (
        "the sweep of memory: stopped after 2 of 3 leftover objects and 0 of 1 unfinished uploads: the line is dead"
    )
    assert (raised.value.database, raised.value.transient) == ("hotel", True)
    assert memory.keys == {f"{STEM}.dump/toc.dat"}
    assert len(memory.uploads) == 1


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.builds(
            lambda day, database, suffix, age: StoredObject(
                f"{entry(days_ago(day), database=database).backup_id.stem}{suffix}", 1, days_ago(age)
            ),
            st.integers(8, 10),
            st.sampled_from(["hotel", "hotel_staging"]),
            st.sampled_from([".dump", ".dump/1.dat", ".json", ".verify.json", ".proof.json", ".json.bak", ".old"]),
            st.integers(5, 9),
        ),
        unique_by=lambda one: one.key,
        max_size=25,
    )
)
def test_a_leftover_is_ours_old_and_has_no_manifest_and_nothing_like_it_is_forgotten(
    objects: list[StoredObject],
) -> None:
    keys = {one.key for one in objects}
    known = (".dump", ".dump/1.dat", ".json", ".verify.json", ".proof.json")

    def stem_of(one: StoredObject) -> str:
        return one.key[: one.key.index("Z.") + 1]

    def is_leftover(one: StoredObject) -> bool:
        stem = stem_of(one)
        siblings = [other for other in objects if other.key in {f"{stem}{suffix}" for suffix in known}]
        return (
            one in siblings
            and one.key.startswith("hotel/")
            and f"{stem}.json" not in keys
            and min(NOW - other.modified for other in siblings) > timedelta(days=7)
        )

    assert leftovers(objects, database="hotel", now=NOW) == sorted(
        filter(is_leftover, objects), key=lambda one: one.key
    )
