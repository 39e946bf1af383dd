"""The inventory of a database: its schema, sequences and large objects as the dump's own snapshot saw them.

Rows have their fingerprints in the manifest. What else a restored copy must show again stands here, each object with
its definition in full, so that a comparison can say exactly what differs.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from psycopg import sql
from pydantic import ValidationError

from include.backup import large_objects as lo
from include.backup import schema_objects, schema_objects_code, schema_objects_rights
from include.backup.model import StoredFile
from include.backup.private_keys import private_keys
from include.backup.record import Record
from include.backup.stores.base import MissingObjectError
from include.backup.verify import BackupDamagedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import psycopg

    from include.backup.model import BackupId, Manifest
    from include.backup.stores.base import Store

    Connection = psycopg.Connection[tuple[Any, ...]]

NOT_IN_ARCHIVE = schema_objects_rights.NOT_IN_ARCHIVE
_SUFFIX = ".inventory.json"
_QUERIES = (*schema_objects.QUERIES, *schema_objects_code.QUERIES, *schema_objects_rights.QUERIES)
_SEQUENCES_AT_ONCE = 200


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
    """What one snapshot of the source held besides rows.

    Args:
        backup: the backup's id.
        server_major: of the source.
        objects: by kind and name; those of the kinds in NOT_IN_ARCHIVE are for whoever makes the database anew.
        left_out: what the source had but pg_dump leaves out: invalid indexes, and that the triggers of a foreign key
            or deferrable constraint are disabled (a restored copy has them enabled, and so it is in `objects`).
        sequences: by schema and name.
        large_objects: all together.
    """

    schema_version: Literal[1] = 1
    backup: str
    server_major: int
    objects: tuple[SchemaObject, ...]
    left_out: tuple[SchemaObject, ...] = ()
    sequences: tuple[SequenceWindow, ...]
    large_objects: LargeObjects


def take_objects(connection: Connection) -> tuple[SchemaObject, ...]:
    """The schema by kind and name, owners included, invalid indexes too: one query for each kind.

    Args:
        connection: in a transaction, with SESSION_SETTINGS made.

    Raises:
        psycopg.Error: the server refused or went away.
    """
    found = []
    connection.execute("SET LOCAL jit = off")  # compiling such queries takes longer than running them
    for query in _QUERIES:
        for kind, name, definition, flags, owner in connection.execute(query.encode()):
            found.append(SchemaObject(kind=kind, name=name, definition=definition or "", flags=flags))
            if owner is not None:
                found.append(SchemaObject(kind="owner", name=f"{kind} {name}", definition=owner))
    return tuple(sorted(found, key=lambda item: (item.kind, item.name)))


def take_sequences(connection: Connection) -> tuple[SequenceWindow, ...]:
    """The next value of each sequence at this moment, whatever the snapshot; they are locked against DROP from then on.

    `before` and `after` are one and the same reading.
    """
    listed = connection.execute(schema_objects.SEQUENCE_NAMES.encode()).fetchall()
    reading = sql.SQL("SELECT last_value, is_called FROM {}")
    positions: list[tuple[int, bool]] = []
    for first in range(0, len(listed), _SEQUENCES_AT_ONCE):
        names = [sql.Identifier(schema, name) for schema, name, _, _ in listed[first : first + _SEQUENCES_AT_ONCE]]
        query = sql.SQL(" UNION ALL ").join(reading.format(name) for name in names)
        positions += connection.execute(query).fetchall()
    return tuple(
        SequenceWindow(
            schema_name=schema,
            name=name,
            before=(upcoming := last + increment if called else last),
            after=upcoming,
            increment=increment,
            cycles=cycles,
        )
        for (schema, name, increment, cycles), (last, called) in zip(listed, positions, strict=True)
    )


def windows(before: Iterable[SequenceWindow], after: Iterable[SequenceWindow]) -> tuple[SequenceWindow, ...]:
    """Two readings of the same sequences as one."""
    return tuple(early.model_copy(update={"after": late.after}) for early, late in zip(before, after, strict=True))


def take_large_objects(connection: Connection, *, hashes: bool) -> LargeObjects:
    """All large objects together.

    Args:
        connection: in a transaction, with SESSION_SETTINGS made.
        hashes: False reads no contents.

    Raises:
        psycopg.Error: the server refused or went away.
    """
    row = connection.execute((lo.HASHES if hashes else lo.SIZES).encode()).fetchone()
    if row is None:
        raise AssertionError("an aggregate gave no row")
    return LargeObjects(count=row[0], bytes=row[1], hash=row[2])


def as_archived(
    objects: Iterable[SchemaObject],
) -> tuple[tuple[SchemaObject, ...], tuple[SchemaObject, ...]]:
    """What of a source's objects an archive of it restores, and what pg_dump leaves out without a word; pure."""
    restored, left_out = [], []
    for item in objects:
        if item.kind == "index" and "valid=false" in item.flags.split() and " ON ONLY " not in item.definition:
            left_out.append(item)
        elif item.kind == "constraint" and "enabled=false" in item.flags.split():
            left_out.append(item)
            restored.append(item.model_copy(update={"flags": item.flags.replace("enabled=false", "enabled=true")}))
        else:
            restored.append(item)
    return tuple(restored), tuple(left_out)


def write_inventory(store: Store, backup: BackupId, inventory: Inventory, *, recipients: tuple[str, ...]) -> StoredFile:
    """Put an inventory beside the archive, encrypted where there are recipients.

    Raises:
        StoreError: the store refused.
    """
    data = inventory.model_dump_json().encode()
    if recipients:
        import pyrage

        data = pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients])
    store.put(backup.inventory_key, data)
    return StoredFile(suffix=_SUFFIX, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_inventory(store: Store, manifest: Manifest, *, identity: str | None) -> Inventory:
    """The inventory of a backup, as it was written.

    Args:
        store: where it is.
        manifest: the backup's; it has an inventory.
        identity: the age private key(s) of an encrypted backup, as age-keygen writes them.

    Raises:
        BackupDamagedError: it is missing, is not what was written, or is another backup's.
        MaintenanceError: the private key is missing or another one.
        StoreError: the store cannot be read.
    """
    if manifest.inventory is None:
        raise ValueError(f"{manifest.id} was made without an inventory")
    try:
        data = store.get(manifest.backup_id.inventory_key)
    except MissingObjectError as error:
        raise _damaged(manifest, "it is missing from the store") from error
    if (len(data), hashlib.sha256(data).hexdigest()) != (manifest.inventory.bytes, manifest.inventory.sha256):
        raise _damaged(manifest, f"what is stored ({len(data)} bytes) is not what was written")
    if manifest.encryption_recipients:
        data = _decrypt(data, manifest, identity)
    try:
        inventory = Inventory.model_validate_json(data)
    except ValidationError as error:
        raise _damaged(manifest, "it cannot be understood") from error
    if inventory.backup != manifest.id:
        raise _damaged(manifest, f"it is that of {inventory.backup}")
    return inventory


def _decrypt(data: bytes, manifest: Manifest, identity: str | None) -> bytes:
    import pyrage

    try:
        return bytes(pyrage.decrypt(data, private_keys(manifest, identity)))
    except pyrage.DecryptError as error:
        raise _damaged(manifest, f"it cannot be decrypted: {error}") from error


def _damaged(manifest: Manifest, problem: str) -> BackupDamagedError:
    return BackupDamagedError(
        f"the inventory of backup {manifest.id} is damaged: {problem}",
        database=manifest.database,
        untouched="the archive beside it can still be restored by hand (docs/restore.md)",
        remedy="run the backup again now, then look into the store that holds it",
    )
