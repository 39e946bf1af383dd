"""Schema dumps of two databases compared: pg_dump's own words, object by object, in whatever order.

Two databases that were restored from one archive on one server must give the same dump to the line.
"""

from __future__ import annotations

import difflib
import re
import subprocess
import tempfile
from collections import Counter
from typing import TYPE_CHECKING

from include.postgres import tools as client

if TYPE_CHECKING:
    from pathlib import Path

    from include.postgres.dsn import Dsn
    from include.postgres.tools import ClientTools

# Releases since August 2025 fence what they write with a key that is another one each time.
_FENCE = re.compile(r"^\\restrict (?P<key>\w+)$", re.MULTILINE)
_HEADER = re.compile(r"^--\n-- (?P<title>Name: .*)\n--\n", re.MULTILINE)
# Said once, before the first table that needs it, so which object it stands beside depends on the order.
_ACCESS_METHOD = re.compile(r"^SET default_table_access_method = .*;\n?", re.MULTILINE)
_TABLESPACE = re.compile(r"^SET default_tablespace = .*;\n?", re.MULTILINE)


class SchemaDumpError(Exception):
    """A client program could not write the schema; the text is its own."""


def schema_of(dsn: Dsn, tools: ClientTools) -> str:
    """`pg_dump --schema-only` of a database.

    Raises:
        SchemaDumpError: pg_dump refused.
    """
    return _written([tools.path("pg_dump"), "--schema-only"], dsn)


def schema_in(archive: Path, tools: ClientTools) -> str:
    """The SQL of the schema that an archive holds.

    Raises:
        SchemaDumpError: pg_restore cannot read it.
    """
    return _written([tools.path("pg_restore"), "--schema-only", "--file=-", str(archive)], None)


def _written(command: list[str], dsn: Dsn | None) -> str:
    with (
        tempfile.TemporaryFile() as stderr,
        tempfile.TemporaryFile() as output,
        client.running(command, dsn, stderr=stderr, stdin=subprocess.DEVNULL, stdout=output) as process,
    ):
        if failure := client.outcome(process, stderr):
            raise SchemaDumpError(failure)
        output.seek(0)
        return without_fence(output.read().decode(errors="surrogateescape"))


def without_fence(text: str) -> str:
    """A dump without the lines that hold its random key."""
    match = _FENCE.search(text)
    if match is None:
        return text
    fence = {f"\\restrict {match['key']}", f"\\unrestrict {match['key']}"}
    return "\n".join(line for line in text.split("\n") if line not in fence)


def differing_lines(expected: str, found: str) -> tuple[str, ...]:
    """The lines in which two dumps differ, each led by the object it belongs to; none where they say the same.

    Args:
        expected: its lines are shown with `-`.
        found: its lines are shown with `+`.
    """
    wanted, there = Counter(blocks(expected)), Counter(blocks(found))
    only_wanted, only_there = _by_title(wanted - there), _by_title(there - wanted)
    lines: list[str] = []
    for title in sorted(only_wanted.keys() | only_there.keys()):
        before = "\n".join(only_wanted.get(title, ())).splitlines()
        after = "\n".join(only_there.get(title, ())).splitlines()
        changed = [line for line in difflib.ndiff(before, after) if line[:2] in {"- ", "+ "} and line[2:].strip()]
        lines += [f"{title}: {line}" for line in changed or [f"{title}: white space"]]
    return tuple(lines)


def blocks(dump: str) -> list[tuple[str, str]]:
    """Title and SQL of each object in a schema dump.

    What looks like a title inside a function cuts both dumps at the same place.
    """
    parts = _HEADER.split(_TABLESPACE.sub("", dump))
    access_method = ""
    blocks = []
    for title, sql in zip(["(settings)", *parts[1::2]], parts[::2], strict=True):
        in_force = access_method if "; Type: TABLE; " in title or "; Type: MATERIALIZED VIEW; " in title else ""
        blocks.append((title, in_force + _ACCESS_METHOD.sub("", sql).strip()))
        access_method = next(iter(_ACCESS_METHOD.findall(sql)[-1:]), access_method)
    return blocks


def _by_title(blocks: Counter[tuple[str, str]]) -> dict[str, list[str]]:
    titles: dict[str, list[str]] = {}
    for title, sql in sorted(blocks.elements()):
        titles.setdefault(title, []).append(sql)
    return titles
