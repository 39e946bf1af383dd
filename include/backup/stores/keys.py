"""Which keys a store takes. One rule for all stores, so that a backup can be copied from any to any other."""

from __future__ import annotations

import re
from uuid import uuid4

from include.backup.stores.base import Store, StoreError

_PART = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]*\Z")
PART_BYTES = 200


def is_key(key: str) -> bool:
    """Whether `key` is relative, without empty, hidden or over-long parts and without control characters.

    A part that begins with a dot would be hidden in a folder, and `.` and `..` would leave it.
    """
    return all(_PART.match(part) and len(part.encode()) <= PART_BYTES for part in key.split("/"))


def check_key(key: str) -> str:
    """The key itself, when it may be used.

    Raises:
        StoreError: it may not; nothing was asked of the store.
    """
    if is_key(key):
        return key
    raise StoreError(
        f"{key!r} cannot be a key in a backup store: keys are relative, their parts are separated by one '/', "
        f"and no part is empty, begins with a dot, holds control characters or is longer than {PART_BYTES} bytes",
        untouched="the store was not asked for anything",
        remedy="Use a key as `backups` lists it.",
    )


def probe(store: Store) -> None:
    """Write, read back and remove a few bytes under a name that no backup has.

    Raises:
        StoreError: one of the three was refused or gave back other bytes.
    """
    token = uuid4().hex
    key = f"night-porter-probe-{token}"
    store.put(key, token.encode())
    read = store.get(key)
    store.delete(key)
    if read != token.encode():
        raise StoreError(
            f"{store.url} gave back other bytes than were written to {key}",
            untouched="every backup in the store",
            remedy="Do not trust this store before its owner has explained that.",
        )
