"""The inventory of a database: its schema, sequences and large objects as the dump's own snapshot saw them.

Rows have their fingerprints in the manifest. What else a restored copy must show again stands here, each object with
its definition in full, so that a comparison can say exactly what differs.
"""

from __future__ import annotations

from typing import Literal

from include.backup.record import Record


class SchemaObject(Record):
    """One object of the schema.

    Args:
        kind: e.g. `table`, `column`, `constraint`, `index`, `trigger`, `policy`, `grant`, `default grant`.
        name: identifies it among its kind, schema-qualified and quoted as SQL needs it.
        definition: in full; what the server calls invalid, not validated or disabled is said in it.
        flags: what must be equal even where two servers write the same definition differently (`valid`,
            `validated`, `enabled`, `populated`, … with their values), as `name=value` joined by spaces.
    """

    kind: str
    name: str
    definition: str
    flags: str = ""


class SequenceWindow(Record):
    """A sequence, which no snapshot holds still: read before pg_dump reads it, and again afterwards.

    Args:
        schema_name: schema.
        name: sequence.
        before: the next value it would have given before the dump began.
        after: the same when the dump had ended.
        increment: its step; negative ones count down.
        cycles: whether it begins again at its end, so that no order of values means anything.
    """

    schema_name: str
    name: str
    before: int
    after: int
    increment: int
    cycles: bool


class LargeObjects(Record):
    """All large objects together: their number, bytes, and a hash over contents, owners and grants.

    Args:
        count: how many.
        bytes: of their contents.
        hash: order-independent, as a decimal string, or None where hashing was switched off.
    """

    count: int
    bytes: int
    hash: str | None


class Inventory(Record):
    """What one snapshot of the source held besides rows."""

    schema_version: Literal[1] = 1
    backup: str
    server_major: int
    objects: tuple[SchemaObject, ...]
    sequences: tuple[SequenceWindow, ...]
    large_objects: LargeObjects
