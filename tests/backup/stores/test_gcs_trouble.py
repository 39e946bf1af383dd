"""What happens to a backup when Google Cloud Storage, or the way to it, fails.

`GcsFront` adds what fake-gcs-server lacks of the resumable protocol.
"""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from include.backup.stores.base import AlreadyExistsError, MissingObjectError, StoreError
from include.backup.stores.gcs import GcsStore
from tests.backup.stores.conftest import BUCKET, SMALL_PART_BYTES, gcs_client
from tests.backup.stores.proxies import CLOSE, Answer, GcsFront, Request
from tests.objectstores import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("small_parts")
PART = SMALL_PART_BYTES
KEY = "hotel/daily/x.dump"


@pytest.fixture
def store(gcs_front: GcsFront) -> GcsStore:
    return GcsStore(gcs_client(gcs_front.endpoint), bucket=BUCKET, prefix=f"t{uuid4().hex}/app", patience_seconds=1.5)


def is_chunk(request: Request) -> bool:
    return request.method == "PUT" and not request.headers["Content-Range"].startswith("bytes */")


def is_chunk_of(request: Request, *, start: int) -> bool:
    return request.method == "PUT" and request.headers["Content-Range"].startswith(f"bytes {start}-")


def times(number: int, which: Callable[[Request], bool], answer: Answer) -> Callable[[Request], Answer | None]:
    """Give `answer` to the first `number` requests of a kind."""
    left = [number]

    def trouble(request: Request) -> Answer | None:
        if which(request) and left[0]:
            left[0] -= 1
            return answer
        return None

    return trouble


def upload_for_ever(store: GcsStore) -> None:
    with store.upload(KEY) as started:
        while True:
            started.write(bytes(PART // 2))


def upload(store: GcsStore, data: bytes) -> None:
    with store.upload(KEY) as started:
        started.write(data)
        started.commit()


@pytest.mark.parametrize("size", [100, 2 * PART + 1])
@pytest.mark.parametrize("trouble", [Answer(503), CLOSE], ids=["503", "closed"])
def test_a_request_that_fails_once_is_repeated(
    gcs_front: GcsFront, store: GcsStore, trouble: Answer, size: int
) -> None:
    gcs_front.trouble = times(1, lambda request: request.method in {"PUT", "POST"}, trouble)
    data = os.urandom(size)
    upload(store, data)
    assert store.get(KEY) == data


@pytest.mark.parametrize("trouble", [Answer(503), CLOSE], ids=["503", "closed"])
def test_a_chunk_that_fails_once_is_sent_again_from_where_the_service_is(
    gcs_front: GcsFront, store: GcsStore, trouble: Answer
) -> None:
    gcs_front.trouble = times(1, is_chunk, trouble)
    data = os.urandom(2 * PART + 1)
    upload(store, data)
    assert store.get(KEY) == data
    asked = [request for request in gcs_front.seen if request.headers.get("Content-Range") == "bytes */*"]
    assert len(asked) == 1


@pytest.mark.parametrize("place", ["/*", f"/{2 * PART + 1}"], ids=["a chunk in the middle", "the last chunk"])
def test_a_chunk_whose_answer_was_lost_is_not_written_twice(gcs_front: GcsFront, store: GcsStore, place: str) -> None:
    forwarded = gcs_front.after
    lost: list[str] = []

    def lose_first(request: Request, answer: Answer) -> Answer:
        answer = forwarded(request, answer)
        given = request.headers.get("Content-Range", "")
        if given.endswith(place) and not lost:
            lost.append(given)
            return CLOSE
        return answer

    gcs_front.after = lose_first
    data = os.urandom(2 * PART + 1)
    upload(store, data)
    assert lost
    assert store.get(KEY) == data


def test_a_chunk_of_which_only_a_part_was_kept_is_continued_there(gcs_front: GcsFront, store: GcsStore) -> None:
    checked = gcs_front.before

    def keep_a_quarter_mebibyte(request: Request) -> Answer | None:
        if is_chunk_of(request, start=PART) or is_chunk_of(request, start=2 * PART):
            request.body = request.body[: 256 * 1024]
            first = int(request.headers["Content-Range"].removeprefix("bytes ").partition("-")[0])
            request.headers["Content-Range"] = f"bytes {first}-{first + len(request.body) - 1}/*"
        return checked(request)

    gcs_front.before = keep_a_quarter_mebibyte
    data = os.urandom(3 * PART)
    upload(store, data)
    assert store.get(KEY) == data


def test_a_session_that_cannot_be_cancelled_is_told_without_its_address(
    gcs_front: GcsFront, store: GcsStore, caplog: pytest.LogCaptureFixture
) -> None:
    gcs_front.trouble = lambda request: CLOSE if request.method == "DELETE" else None
    with store.upload(KEY) as started:
        started.write(bytes(PART + 1))
    assert "cancelling gs://" in caplog.text
    assert not any(token in caplog.text for token in gcs_front.sessions)


def test_a_small_object_whose_answer_was_lost_is_recognised_as_ours(gcs_front: GcsFront, store: GcsStore) -> None:
    lost: list[str] = []

    def lose_first(request: Request, answer: Answer) -> Answer:
        if request.method == "POST" and not lost:
            lost.append(request.path)
            return CLOSE
        return answer

    gcs_front.after = lose_first
    upload(store, b"ours")
    assert lost
    assert store.get(KEY) == b"ours"


@pytest.mark.parametrize(
    ("trouble", "transient"),
    [(Answer(503), True), (CLOSE, True), (Answer(403), False), (Answer(404), False)],
    ids=["503", "closed", "403", "404"],
)
def test_a_chunk_that_is_refused_stops_the_upload_and_cancels_it(
    gcs_front: GcsFront, store: GcsStore, trouble: Answer, transient: bool
) -> None:
    gcs_front.trouble = lambda request: trouble if request.method == "PUT" else None
    with pytest.raises(StoreError, match="from byte 0 on") as failed:
        upload_for_ever(store)
    assert failed.value.transient is transient
    assert list(store.list()) == []
    assert [session.state for session in gcs_front.sessions.values()] == ["cancelled"]
    shown = "".join(traceback.format_exception(failed.value))
    assert not any(token in shown for token in gcs_front.sessions)


def test_leaving_the_block_cancels_the_session(gcs_front: GcsFront, store: GcsStore) -> None:
    with store.upload(KEY) as started:
        started.write(bytes(PART + 1))
    assert [session.state for session in gcs_front.sessions.values()] == ["cancelled"]
    assert list(store.list()) == []


@pytest.mark.parametrize("size", [100, PART + 1])
def test_bytes_that_change_on_the_way_are_found_out_and_the_object_removed(
    gcs_front: GcsFront, store: GcsStore, size: int
) -> None:
    def flip(request: Request) -> None:
        if request.method in {"POST", "PUT"} and b"x" * 90 in request.body:
            at = request.body.index(b"x" * 90)
            request.body = request.body[: at + 40] + b"y" + request.body[at + 41 :]

    gcs_front.trouble = flip
    with pytest.raises(StoreError, match=r"checksum|other bytes arrived"):
        upload(store, b"x" * size)
    assert list(store.list()) == []


def test_bytes_that_change_on_the_way_back_are_found_out(gcs_front: GcsFront, store: GcsStore) -> None:
    store.put(KEY, b"x" * 1000)
    forwarded = gcs_front.after

    def flip(request: Request, answer: Answer) -> Answer:
        answer = forwarded(request, answer)
        if answer.body == b"x" * 1000:
            answer.body = b"x" * 999 + b"y"
        return answer

    gcs_front.after = flip
    with pytest.raises(StoreError, match="checksum"):
        list(store.read(KEY))


@pytest.mark.parametrize("cut", [0, 300])
def test_a_body_that_breaks_off_never_passes_for_the_whole(gcs_front: GcsFront, store: GcsStore, cut: int) -> None:
    store.put(KEY, os.urandom(1000))
    forwarded = gcs_front.after

    def shorten(request: Request, answer: Answer) -> Answer:
        answer = forwarded(request, answer)
        if request.query.get("alt") == ["media"]:
            answer.headers["Content-Length"] = "1000"
            answer.cut_after = cut
        return answer

    gcs_front.after = shorten
    with pytest.raises(StoreError) as failed:
        list(store.read(KEY))
    assert failed.value.transient


def test_an_object_of_another_run_is_left_and_the_session_refused(gcs_front: GcsFront, store: GcsStore) -> None:
    with store.upload(KEY) as started:
        started.write(bytes(PART + 1))
        store.put(KEY, b"theirs")
        with pytest.raises(AlreadyExistsError):
            started.commit()
    assert store.get(KEY) == b"theirs"


def test_a_service_that_cannot_be_reached_is_a_passing_trouble() -> None:
    client = gcs_client(f"http://127.0.0.1:{free_port()}")
    store = GcsStore(client, bucket=BUCKET, prefix="x", patience_seconds=0.3)
    for attempt in (store.check_writable, lambda: list(store.list()), lambda: store.get("x")):
        with pytest.raises(StoreError) as failed:
            attempt()
        assert failed.value.transient
        assert "reached" in failed.value.remedy


@pytest.mark.parametrize(
    ("status", "says"), [(401, "backup_store"), (403, "storage.objects.list"), (404, "Create the bucket")]
)
def test_each_refusal_has_a_remedy(gcs_front: GcsFront, store: GcsStore, status: int, says: str) -> None:
    body = b'{"error":{"code":%d,"message":"as ordered","errors":[{"message":"as ordered"}]}}' % status
    gcs_front.trouble = lambda _: Answer(status, body, {"Content-Type": "application/json"})
    with pytest.raises(StoreError, match=str(status)) as failed:
        list(store.list())
    assert says in failed.value.remedy
    assert not failed.value.transient
    assert not isinstance(failed.value, MissingObjectError)


def test_a_missing_bucket_is_told_as_such(gcs_front: GcsFront) -> None:
    store = GcsStore(gcs_client(gcs_front.endpoint), bucket="no-such-bucket", prefix="x", patience_seconds=1)
    for attempt in (lambda: list(store.list()), store.check_writable):
        with pytest.raises(StoreError, match="404") as failed:
            attempt()
        assert "Create the bucket" in failed.value.remedy
