"""What every store promises, on every kind of store."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from include.backup.stores.base import AlreadyExistsError, MissingObjectError, StoreError
from tests.backup.stores.conftest import SMALL_PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.backup.stores.base import Store

MIB = 1024 * 1024
PART = SMALL_PART_BYTES
pytestmark = pytest.mark.usefixtures("small_parts")
KEY = "hotel/daily/hotel_2026-01-02T020000Z.dump"


class StoppedError(Exception):
    pass


def stop_in_the_middle(store: Store, size: int, *, committed: bool) -> None:
    with store.upload(KEY) as started:
        started.write(bytes(size))
        if committed:
            started.commit()
        raise StoppedError


def upload(store: Store, data: bytes) -> None:
    with store.upload(KEY) as started:
        started.write(data)
        started.commit()


def keys(store: Store, prefix: str = "") -> list[str]:
    return [entry.key for entry in store.list(prefix)]


def stream(store: Store, key: str, total: int, *, seed: int = 1) -> str:
    """Upload `total` random bytes in uneven pieces from one reused buffer; returns their SHA-256."""
    source = random.Random(seed)
    digest = hashlib.sha256()
    buffer = bytearray(700_001)
    with store.upload(key) as started:
        while total:
            size = min(total, source.randint(1, len(buffer)))
            buffer[:size] = source.randbytes(size)
            piece = memoryview(buffer)[:size]
            digest.update(piece)
            assert started.write(piece) == size
            total -= size
        started.commit()
    return digest.hexdigest()


def digest_of(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.read(key):
        assert len(chunk) <= MIB
        digest.update(chunk)
    return digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 7])
def test_a_committed_object_reads_back_as_it_was_written(store: Store, size: int) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    digest = stream(store, KEY, size)
    assert digest_of(store, KEY) == digest
    (entry,) = store.list()
    assert (entry.key, entry.size) == (KEY, size)
    assert before < entry.modified < datetime.now(UTC) + timedelta(seconds=2)


@pytest.mark.parametrize("size", [PART, 2 * PART, 2 * PART + MIB + 13])
def test_an_object_of_several_parts_reads_back_to_the_byte(store: Store, size: int) -> None:
    digest = stream(store, KEY, size)
    assert digest_of(store, KEY) == digest
    assert [entry.size for entry in store.list()] == [size]
    assert list(store.unfinished()) == []


@pytest.mark.parametrize("size", [100, PART + MIB])
def test_nothing_is_visible_before_the_commit(store: Store, size: int) -> None:
    with store.upload(KEY) as started:
        started.write(bytes(size))
        assert keys(store) == []
        with pytest.raises(MissingObjectError):
            store.get(KEY)
        started.commit()
    assert keys(store) == [KEY]


@pytest.mark.parametrize("size", [100, 2 * PART + MIB])
def test_leaving_the_block_without_a_commit_leaves_nothing(store: Store, size: int) -> None:
    with store.upload(KEY) as started:
        started.write(bytes(size))
    assert keys(store) == []
    assert list(store.unfinished()) == []


@pytest.mark.parametrize("size", [100, 2 * PART + MIB])
def test_an_exception_in_the_block_leaves_nothing_and_comes_out_itself(store: Store, size: int) -> None:
    with pytest.raises(StoppedError):
        stop_in_the_middle(store, size, committed=False)
    assert keys(store) == []
    assert list(store.unfinished()) == []


@pytest.mark.parametrize("size", [100, PART + MIB])
def test_an_object_is_never_written_over(store: Store, size: int) -> None:
    store.put(KEY, b"first")
    with pytest.raises(AlreadyExistsError, match="hotel_2026-01-02T020000Z"):
        upload(store, bytes(size))
    with pytest.raises(AlreadyExistsError):
        store.put(KEY, b"second")
    assert store.get(KEY) == b"first"
    assert list(store.unfinished()) == []


@pytest.mark.parametrize("size", [100, PART + MIB])
def test_of_two_uploads_of_one_key_the_first_to_commit_stays(store: Store, size: int) -> None:
    with store.upload(KEY) as slow:
        slow.write(b"s" * size)
        with store.upload(KEY) as quick:
            quick.write(b"q" * size)
            quick.commit()
        with pytest.raises(AlreadyExistsError):
            slow.commit()
    assert digest_of(store, KEY) == hashlib.sha256(b"q" * size).hexdigest()
    assert list(store.unfinished()) == []


def test_a_small_object_is_replaced_only_when_asked(store: Store) -> None:
    store.put(KEY, b"first")
    store.put(KEY, b"second", replace=True)
    assert store.get(KEY) == b"second"
    assert keys(store) == [KEY]


def test_a_missing_object_is_told_as_missing(store: Store) -> None:
    with pytest.raises(MissingObjectError, match="no-such-backup"):
        list(store.read("no-such-backup"))
    with pytest.raises(MissingObjectError):
        store.get("hotel")


def test_a_deleted_object_is_gone_and_deleting_it_again_is_no_error(store: Store) -> None:
    store.put(KEY, b"x")
    store.put(f"{KEY}.json", b"y")
    store.delete(KEY)
    store.delete(KEY)
    assert keys(store) == [f"{KEY}.json"]


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert keys(store) == []
    assert keys(store, "hotel/daily/") == []
    assert list(store.unfinished()) == []


def test_keys_come_in_order_and_by_any_prefix(store: Store) -> None:
    written = ["b/1.json", "aa/2", "a-b", "aa/10", "a", "b/1_/x", "b/1", "b-1/x", "z"]
    for key in written:
        store.put(key, b"")
    assert keys(store) == sorted(written)
    assert keys(store, "b/1") == sorted(key for key in written if key.startswith("b/1"))
    assert keys(store, "a") == sorted(key for key in written if key.startswith("a"))


def test_a_listing_goes_beyond_a_thousand_keys(store: Store) -> None:
    written = [f"hotel/daily/{number:05}" for number in range(1200)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, b"", replace=True), written))
    assert keys(store) == written


def test_a_neighbour_whose_name_begins_alike_is_never_seen(make_store: Callable[[str], Store]) -> None:
    ours, neighbours = make_store("app"), [make_store("app_staging"), make_store("app2")]
    ours.put("daily/x", b"ours")
    for neighbour in neighbours:
        neighbour.put("daily/x", b"theirs")
    with neighbours[0].upload("daily/half") as half:
        half.write(bytes(PART + MIB))
        assert keys(ours) == ["daily/x"]
        assert list(ours.unfinished()) == []
        ours.delete("daily/x")
        half.commit()
    assert [keys(neighbour) for neighbour in neighbours] == [["daily/half", "daily/x"], ["daily/x"]]


@pytest.mark.parametrize(
    "key", ["", "/x", "x/", "a//b", "../x", "a/../b", "a/./b", ".hidden", "a/.hidden", "a\nb", "a\x00b", "x" * 300]
)
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str) -> None:
    for attempt in (
        lambda: store.upload(key),
        lambda: list(store.read(key)),
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.delete(key),
    ):
        with pytest.raises(StoreError, match="cannot be a key"):
            attempt()
    assert keys(store) == []


def test_nothing_is_taken_after_the_commit(store: Store) -> None:
    with store.upload(KEY) as started:
        started.write(b"whole")
        started.commit()
        with pytest.raises(ValueError, match="before its commit"):
            started.write(b"more")
    assert store.get(KEY) == b"whole"


def test_an_error_after_the_commit_keeps_the_object(store: Store) -> None:
    with pytest.raises(StoppedError):
        stop_in_the_middle(store, PART + MIB, committed=True)
    assert keys(store) == [KEY]


def test_the_writability_check_leaves_nothing(store: Store) -> None:
    store.check_writable()
    assert keys(store) == []
