"""How large each part of a multipart upload is when nobody knows how much will come."""

from __future__ import annotations

MIB = 1024 * 1024
BASE_BYTES = 16 * MIB
LARGEST_BYTES = 5 * 1024 * MIB


def base_part_bytes(*, expected_bytes: int | None, max_parts: int) -> int:
    """Size of an upload's first parts in bytes: enough for the estimate within 80 % of the parts.

    Args:
        expected_bytes: estimate of the whole, or None.
        max_parts: how many parts the service takes.
    """
    usable = max_parts * 4 // 5
    needed = -(-(expected_bytes or 0) // usable)
    return min(max(BASE_BYTES, -(-needed // MIB) * MIB), LARGEST_BYTES)


def part_bytes(number: int, *, base: int, max_parts: int) -> int:
    """Size of one part in bytes.

    The estimate may be wrong, so the last fifth of the parts is a net: there the size doubles with every 2.5 % of
    the parts. Ten thousand parts of at first 16 MiB reach 2.06 TiB, a thousand reach 211 GiB.

    Args:
        number: the part's, from 1.
        base: size of the first parts.
        max_parts: how many parts the service takes.
    """
    beyond = number - 1 - max_parts * 4 // 5
    if beyond < 0:
        return base
    doublings = beyond * 40 // max_parts + 1
    return int(min(base * 2**doublings, LARGEST_BYTES))
