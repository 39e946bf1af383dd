"""What the snapshot held against what the restored copy holds: plain data in, a check out.

Each check says no more than was compared. What differs for a reason that is not the backup's (another major version,
a role that may not read) is not checked, never a difference.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from include.backup.certificate import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from include.backup.inventory import LargeObjects
    from include.backup.model import Manifest, TableFingerprint

MOST_FINDINGS = 50


def judged(name: str, detail: str, *, differs: Sequence[str] = (), unchecked: Sequence[str] = ()) -> Check:
    """A check with the outcome that its findings make; differences come first, and all are counted."""
    findings = [*differs, *unchecked]
    if len(findings) > MOST_FINDINGS:
        findings = [*findings[:MOST_FINDINGS], f"… and {len(findings) - MOST_FINDINGS} more"]
    return Check(
        name=name,
        outcome="differs" if differs else "not checked" if unchecked else "held",
        detail=detail,
        findings=tuple(findings),
    )


def table_name(table: TableFingerprint) -> str:
    """The table's name for a person and as a key."""
    return f"{table.schema_name}.{table.name}"


def compare_rows(expected: Iterable[TableFingerprint], found: Mapping[str, TableFingerprint | str]) -> Check:
    """Every table's number of rows; tables that are missing, and such as were never in the backup.

    Args:
        expected: of the manifest.
        found: of the copy by name; a text says why a table could not be read.
    """
    wanted = {table_name(table): table for table in expected}
    moved = _moved_between_hash_partitions(wanted, found, hashes=False)
    differs = [f"{name} is not in the copy" for name in sorted(wanted.keys() - found.keys())]
    differs += [f"{name} is in the copy, but not in the manifest" for name in sorted(found.keys() - wanted.keys())]
    unchecked = []
    total = 0
    for name, table in wanted.items():
        reading = found.get(name)
        if isinstance(reading, str):
            unchecked.append(f"{name}: {reading}")
        elif table.rows is None:
            unchecked.append(f"{name}: the manifest has no row count")
        elif reading is not None:
            total += reading.rows or 0
            if reading.rows != table.rows and name not in moved:
                differs.append(f"{name}: {reading.rows} rows in the copy, {table.rows} in the snapshot")
    return judged("rows", f"{total:,} rows in {len(wanted):,} tables counted", differs=differs, unchecked=unchecked)


def compare_row_hashes(
    expected: Iterable[TableFingerprint],
    found: Mapping[str, TableFingerprint | str],
    *,
    same_major: bool,
    promised: bool,
) -> Check:
    """Every table's row hash.

    Args:
        expected: of the manifest.
        found: of the copy by name, made with the same method; a text says why a table could not be read.
        same_major: whether both servers have one major version: the values of `hash_record` mean nothing across two.
        promised: whether the backup was made with hashes: then a table without one was not left out by any setting.
    """
    wanted = {table_name(table): table for table in expected}
    if wanted and not promised and all(table.method is None for table in wanted.values()):
        return Check(
            name="row hashes",
            outcome="left out",
            detail="the backup was made with `fingerprints: counts`: rows were counted, their contents not compared",
        )
    moved = _moved_between_hash_partitions(wanted, found, hashes=True)
    differs, unchecked = [], []
    for name, table in wanted.items():
        reading = found.get(name)
        if reading is None:
            continue  # missing, which the row counts say
        if isinstance(reading, str):
            unchecked.append(f"{name}: {reading}")
        elif table.row_hash is None:
            unchecked.append(f"{name}: the manifest has no row hash")
        elif table.row_hash == reading.row_hash or name in moved or _both_empty(table, reading):
            continue
        elif reading.row_hash is None:
            unchecked.append(
                f"{name}: its hash was made by {table.method}, which gives other values in another major version; "
                "a proving ground of the source's major version can compare it"
                if not same_major
                else f"{name}: it could not be hashed by {table.method}, as the manifest was"
            )
        else:
            rows = "the same number of rows" if table.rows == reading.rows else "another number of rows"
            differs.append(f"{name}: {rows}, with other contents (hash {reading.row_hash}, not {table.row_hash})")
    methods = sorted({table.method for table in wanted.values() if table.method is not None})
    detail = f"the contents of {len(wanted) - len(unchecked):,} tables hashed ({' and '.join(methods) or 'no rows'})"
    return judged("row hashes", detail, differs=differs, unchecked=unchecked)


def _both_empty(table: TableFingerprint, reading: TableFingerprint) -> bool:
    return (table.rows, table.row_hash, reading.rows) == (0, "0", 0)


def _moved_between_hash_partitions(
    wanted: Mapping[str, TableFingerprint], found: Mapping[str, TableFingerprint | str], *, hashes: bool
) -> set[str]:
    """The partitions of such trees as hold the same rows all in all; a restore may spread them anew.

    Numbers of rows and hashes are sums, so those of a tree are the sums of its partitions'.
    """
    trees: dict[str, list[str]] = defaultdict(list)
    for name, table in wanted.items():
        if table.hash_partition_of is not None:
            trees[table.hash_partition_of].append(name)
    moved: set[str] = set()
    sums = _hash_sum if hashes else _row_sum
    for names in trees.values():
        there = [reading for name in names if (reading := found.get(name)) and not isinstance(reading, str)]
        expected = sums([wanted[name] for name in names])
        if expected is not None and len(there) == len(names) and sums(there) == expected:
            moved.update(names)
    return moved


def _row_sum(tables: Sequence[TableFingerprint]) -> int | None:
    rows = [table.rows for table in tables if table.rows is not None]
    return sum(rows) if len(rows) == len(tables) else None


def _hash_sum(tables: Sequence[TableFingerprint]) -> int | None:
    """None where not all rows were hashed, or not all by one method."""
    filled = [table for table in tables if table.rows]
    hashes = [int(table.row_hash) for table in filled if table.row_hash is not None]
    return sum(hashes) if len(hashes) == len(filled) and len({table.method for table in filled}) <= 1 else None


def compare_large_objects(expected: LargeObjects, found: LargeObjects | str) -> Check:
    """All large objects together: number, bytes and, where it was made, their hash.

    Args:
        expected: of the snapshot.
        found: of the copy, or why they could not be read.
    """
    if isinstance(found, str):
        return judged("large objects", f"{expected.count:,} in the snapshot", unchecked=[found])
    differs = []
    for what, wanted, there in (
        ("objects", expected.count, found.count),
        ("bytes", expected.bytes, found.bytes),
    ):
        if wanted != there:
            differs.append(f"{there} {what} in the copy, {wanted} in the snapshot")
    if expected.hash is not None and expected.hash != found.hash:
        differs.append("contents, owners or grants differ from the snapshot's")
    compared = "counted" if expected.hash is None else "counted and hashed"
    return judged("large objects", f"{expected.count:,} objects, {expected.bytes:,} bytes, {compared}", differs=differs)


def compare_roles(manifest: Manifest, *, roles: Iterable[str], owners: Iterable[str], restored_by: str) -> Check:
    """Every role that the copy names stands in the manifest, which is what a restore is prepared by.

    The manifest may list more: who created an extension is not restored.

    Args:
        manifest: of the backup.
        roles: that owners, grants and policies of the copy name.
        owners: those that own something in it.
        restored_by: the role that restored; extensions are its own.
    """
    surplus = {*roles} - {*manifest.roles, restored_by, "pg_database_owner"}
    differs = [f"the copy names role {name}, which the manifest does not list" for name in sorted(surplus)]
    surplus = {*owners} - {*manifest.owners, restored_by, "pg_database_owner"}
    differs += [f"role {name} owns something in the copy, the manifest does not say so" for name in sorted(surplus)]
    return judged("roles", f"the manifest lists {len(manifest.roles)}", differs=differs)


def compare_revision(manifest: Manifest, found: str | None) -> Check:
    """The applied schema revision.

    Args:
        manifest: says where it stands, and what it was.
        found: in the copy.
    """
    table, expected = manifest.revision_table, manifest.schema_revision
    if table is None:
        return judged("revision", "not comparable", unchecked=["the manifest does not say where the revision stands"])
    detail = f"{table} says {expected}" if expected else f"no revision in {table}"
    differs = [] if expected == found else [f"{found or 'none'} in the copy, {expected or 'none'} in the manifest"]
    return judged("revision", detail, differs=differs)
