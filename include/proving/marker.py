"""How a copy on the proving ground is known as ours: its name, its lock and its marker.

A copy's database goes through three states, and each is known without a doubt when its run is killed in it:

1. *shell*: CREATE DATABASE makes it closed to every connection, in one step. Nobody can have put anything into it.
2. *marked*: its comment says whose it is and of which backup.
3. *open*: connections are allowed.

From before the first step until its end, a run holds the advisory lock of the name. Names are never used twice, so a
lock that is free once is free for ever.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, ValidationError

from include.backup.record import Record

if TYPE_CHECKING:
    from datetime import datetime

_LONGEST_NAME = 63  # bytes, of a PostgreSQL identifier
_NAME = re.compile(r"np_[a-z][a-z0-9_]*_\d{8}t\d{6}z_[0-9a-f]{8}")


class Marker(Record):
    """The comment on a copy's database.

    Args:
        night_porter: what the database is for.
        backup: id of the backup it is restored from.
        created: when, UTC.
        keep_until: the run that made it wants it kept until then, UTC; None: no longer than the run lives.
    """

    night_porter: Literal["copy"] = "copy"
    backup: str
    created: AwareDatetime
    keep_until: AwareDatetime | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A database on the proving ground, as a cleaner sees it.

    Args:
        name: its name.
        comment: on it, or None.
        shell: whether it is closed to connections as only the first step leaves it.
        locked: whether anybody holds the lock of its name.
    """

    name: str
    comment: str | None
    shell: bool
    locked: bool


def copy_name(database: str, now: datetime) -> str:
    """A name that no database has had: `np_<configured name>_<stamp>_<random>`, lower case, needing no quotes."""
    tail = f"_{now:%Y%m%dt%H%M%Sz}_{secrets.token_hex(4)}"
    return f"np_{database.replace('-', '_')}"[: _LONGEST_NAME - len(tail)] + tail


def lock_number(name: str) -> int:
    """The advisory lock that belongs to a name."""
    return int.from_bytes(hashlib.sha256(f"night-porter copy {name}".encode()).digest()[:8], signed=True)


def is_leftover(found: Found, now: datetime) -> bool:
    """Whether a database is a copy that nobody needs any more: ours beyond doubt, its run ended, its time over."""
    if found.locked or not _NAME.fullmatch(found.name):
        return False
    if found.comment is None:
        return found.shell
    try:
        marker = Marker.model_validate_json(found.comment)
    except ValidationError:
        return False
    return marker.keep_until is None or marker.keep_until <= now
