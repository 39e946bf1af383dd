"""The schema's objects: those of the snapshot against those of the copy, one check for each kind of promise."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from include.backup.inventory import NOT_IN_ARCHIVE
from include.proving.compare import judged

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.backup.certificate import Check
    from include.backup.inventory import Inventory, SchemaObject
    from include.proving.definitions import ArchivedSchema

    Key = tuple[str, str]
    Objects = Mapping[Key, SchemaObject]

_GROUPS = {
    "table": "tables and columns",
    "foreign table": "tables and columns",
    "column": "tables and columns",
    "constraint": "constraints",
    "index": "indexes",
    "trigger": "triggers",
    "event trigger": "triggers",
    "policy": "policies",
    "owner": "owners",
    "grant": "grants",
    "default grant": "default grants",
    "extension": "extensions",
    "function": "functions",
    "procedure": "functions",
    "aggregate": "functions",
    "view": "views",
    "materialized view": "views",
    "rule": "views",
    "type": "types",
    "domain": "types",
}
_EVERYTHING_ELSE = "everything else"
OBJECT_CHECKS = tuple(
    dict.fromkeys(
        ["tables and columns", "generated columns", "constraints", "foreign keys", *_GROUPS.values(), _EVERYTHING_ELSE]
    )
)
_LONGEST_SHOWN = 300
# An archive has no word about their absence.
_IN_EVERY_NEW_DATABASE = {("schema", "public"), ("extension", "plpgsql")}


def compare_objects(
    inventory: Inventory,
    copy: Iterable[SchemaObject],
    *,
    schema_only: Iterable[SchemaObject],
    archived: ArchivedSchema,
    same_major: bool,
) -> tuple[Check, ...]:
    """Every object of the schema: there, with its flags and its definition, and no other beside it.

    Args:
        inventory: what the snapshot held.
        copy: of the restored copy.
        schema_only: of an empty database into which the archive's schema alone was restored.
        archived: the SQL of the archive's schema.
        same_major: whether source and copy are on servers of one major version. Across two, a definition that
            cannot be traced is not checked; missing objects, surplus ones and flags are differences all the same.
    """
    wanted, there, restored = _by_key(inventory.objects), _by_key(copy), _by_key(schema_only)
    differs: dict[str, list[str]] = defaultdict(list)
    unchecked: dict[str, list[str]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    notes: dict[str, list[str]] = defaultdict(list)
    for one in inventory.left_out:
        notes[_group(one)].append(f"{one.name} is {one.flags} at the source, which pg_dump leaves out")
    for key, of_source in wanted.items():
        group = _group(of_source)
        of_copy = there.get(key)
        if of_copy is None:
            differs[group].append(f"{_called(of_source)} is not in the copy")
            continue
        counts[group] += 1
        if of_source.flags != of_copy.flags:
            differs[group].append(
                f"{_called(of_source)}: {_only_in(of_copy.flags, of_source.flags)} in the copy, "
                f"{_only_in(of_source.flags, of_copy.flags)} in the snapshot"
            )
        if of_source.definition == of_copy.definition:
            continue
        if of_source.kind == "extension" and _unversioned(of_source) == _unversioned(of_copy):
            unchecked[group].append(
                f"{_called(of_source)}: {of_copy.definition} on this server, {of_source.definition} at the source"
            )
            continue
        again = restored.get(key)
        if again is not None and again.definition == of_copy.definition and archived.says(of_source, of_copy):
            continue
        changed = f"{_called(of_source)}: {_difference(of_copy.definition, of_source.definition)}"
        (differs if same_major else unchecked)[group].append(changed)
    for key in there.keys() - wanted.keys():
        surplus, group = there[key], _group(there[key])
        if (surplus.kind, surplus.name) in _IN_EVERY_NEW_DATABASE:
            notes[group].append(f"{_called(surplus)} comes with every new database; the source had dropped it")
        elif not _of_dropped_public_schema(surplus, wanted):
            differs[group].append(f"{_called(surplus)} is in the copy, but not in the backup")
    return tuple(
        judged(
            group,
            "; ".join([f"{counts[group]:,} compared", *notes[group]]),
            differs=sorted(differs[group]),
            unchecked=sorted(unchecked[group]),
        )
        for group in OBJECT_CHECKS
    )


def _by_key(objects: Iterable[SchemaObject]) -> dict[Key, SchemaObject]:
    return {(one.kind, one.name): one for one in objects if one.kind not in NOT_IN_ARCHIVE}


def _group(one: SchemaObject) -> str:
    if one.kind == "constraint" and one.definition.startswith("FOREIGN KEY"):
        return "foreign keys"
    if one.kind == "column" and "generated=" in one.flags and "generated=no" not in one.flags:
        return "generated columns"
    return _GROUPS.get(one.kind, _EVERYTHING_ELSE)


def _of_dropped_public_schema(surplus: SchemaObject, wanted: Objects) -> bool:
    """Whether it is the owner, comment or default right of a schema that came back with the new database."""
    names = {"owner": "schema public", "comment": "schema public", "grant": "schema public to PUBLIC"}
    return ("schema", "public") not in wanted and names.get(surplus.kind) == surplus.name


def _unversioned(extension: SchemaObject) -> str:
    return re.sub("VERSION '[^']*'", "", extension.definition)


def _called(one: SchemaObject) -> str:
    return f"{one.kind} {one.name}"


def _only_in(flags: str, others: str) -> str:
    return " ".join(sorted(set(flags.split()) - set(others.split()))) or "none of it"


def _difference(there: str, wanted: str) -> str:
    """Both definitions from shortly before the first character in which they differ."""
    same = next(
        (i for i, (a, b) in enumerate(zip(there, wanted, strict=False)) if a != b), min(len(there), len(wanted))
    )
    start = max(0, same - 60)
    lead = "…" if start else ""
    return f"{lead}{_short(there[start:])} in the copy, {lead}{_short(wanted[start:])} in the snapshot"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return (text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…") or "nothing"
