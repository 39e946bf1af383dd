"""How parts grow when nobody knows how much will come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.backup.stores.base import StoreError
from include.backup.stores.part_sizes import LARGEST_BYTES, MIB, base_part_bytes, part_bytes
from include.backup.stores.parted import PartedUpload

if TYPE_CHECKING:
    from io import BytesIO

BASE = 16 * MIB
GIB = 1024 * MIB


def reach(*, base: int, max_parts: int, parts: int) -> int:
    return sum(part_bytes(number, base=base, max_parts=max_parts) for number in range(1, parts + 1))


def test_ten_thousand_parts_reach_beyond_two_tebibytes() -> None:
    assert reach(base=BASE, max_parts=10_000, parts=10_000) == 2117 * GIB + 192 * MIB
    assert part_bytes(10_000, base=BASE, max_parts=10_000) == 4 * GIB


def test_a_service_with_a_thousand_parts_takes_two_hundred_gibibytes() -> None:
    assert reach(base=BASE, max_parts=1000, parts=1000) > 200 * GIB


def test_parts_stay_alike_until_four_fifths_are_used() -> None:
    assert {part_bytes(number, base=BASE, max_parts=10_000) for number in range(1, 8001)} == {BASE}
    assert part_bytes(8001, base=BASE, max_parts=10_000) == 2 * BASE
    assert part_bytes(8250, base=BASE, max_parts=10_000) == 2 * BASE
    assert part_bytes(8251, base=BASE, max_parts=10_000) == 4 * BASE


@given(
    expected=st.integers(0, 48 * 1024 * GIB) | st.none(),
    max_parts=st.integers(10, 10_000),
)
def test_a_right_estimate_never_needs_the_last_fifth(expected: int | None, max_parts: int) -> None:
    base = base_part_bytes(expected_bytes=expected, max_parts=max_parts)
    assert BASE <= base <= LARGEST_BYTES
    assert base == LARGEST_BYTES or base * (max_parts * 4 // 5) >= (expected or 0)


@given(max_parts=st.integers(10, 10_000), base=st.sampled_from([BASE, 100 * MIB, LARGEST_BYTES]))
def test_parts_never_shrink_and_never_pass_five_gibibytes(max_parts: int, base: int) -> None:
    sizes = [part_bytes(number, base=base, max_parts=max_parts) for number in range(1, max_parts + 1)]
    assert sizes == sorted(sizes)
    assert sizes[-1] <= 5 * GIB


class Recorded(PartedUpload):
    """Keeps what it is given; fails at a part on demand."""

    def __init__(self, sizes: list[int], *, senders: int, fails_at: int | None = None) -> None:
        super().__init__(part_bytes=lambda number: sizes[min(number, len(sizes)) - 1], senders=senders)
        self.parts: dict[int, tuple[int, bytes]] = {}
        self.buffers: set[int] = set()
        self.whole: bytes | None = None
        self.calls: list[str] = []
        self._fails_at = fails_at

    def _put_whole(self, body: BytesIO) -> None:
        self.whole = body.read()

    def _start(self) -> None:
        self.calls.append("start")

    def _send(self, number: int, start: int, body: BytesIO) -> None:
        if number == self._fails_at:
            raise StoreError("part refused", untouched="-", remedy="-")
        self.buffers.add(id(body))
        self.parts[number] = (start, body.read())

    def _finish(self, number: int, start: int, body: BytesIO) -> None:
        self._send(number, start, body)
        self.calls.append("finish")

    def _discard(self) -> None:
        self.calls.append("discard")


@given(
    pieces=st.lists(st.binary(max_size=40), max_size=30),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5).map(sorted),
    senders=st.integers(1, 3),
)
def test_any_pieces_become_the_same_bytes_in_parts_of_the_planned_sizes(
    pieces: list[bytes], sizes: list[int], senders: int
) -> None:
    upload = Recorded(sizes, senders=senders)
    with upload:
        for piece in pieces:
            reused = bytearray(piece)
            upload.write(reused)
            reused[:] = b"\xff" * len(reused)
        upload.commit()
    everything = b"".join(pieces)
    if len(everything) <= sizes[0]:
        assert upload.whole == everything
        return
    numbers = sorted(upload.parts)
    assert numbers == list(range(1, len(numbers) + 1))
    assert b"".join(upload.parts[number][1] for number in numbers) == everything
    for number in numbers[:-1]:
        assert len(upload.parts[number][1]) == sizes[min(number, len(sizes)) - 1]
    assert upload.parts[numbers[-1]][1]
    assert all(everything[start:].startswith(data) for start, data in upload.parts.values())
    assert len(upload.buffers) <= senders + 1
    assert upload.calls == ["start", "finish"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_after_a_failed_part_nothing_can_be_written_or_committed(fails_at: int) -> None:
    upload = Recorded([10], senders=2, fails_at=fails_at)

    def write_on() -> None:
        for _ in range(100):
            upload.write(b"x" * 7)

    with upload:
        for attempt in (write_on, lambda: upload.write(b"x"), upload.commit):
            with pytest.raises(StoreError, match="part refused"):
                attempt()
    assert upload.calls == ["start", "discard"]
