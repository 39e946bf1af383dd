"""Telling a definition that was changed from one that the server only writes differently.

What a server deparses need not come back as the same text when it was parsed again: `status IN ('a', 'b')` over a
varchar column is written with one set of casts, read, and written with another. So a source's text that is not the
copy's is accepted only where two things are shown: the source's text stands in the archive to the letter, at that very
object; and the archive's schema, restored into an empty database, gives the copy's text.

Which part of a definition stands in a dump, and where, follows from PostgreSQL's `src/bin/pg_dump/pg_dump.c`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from include.proving.schema_dump import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.backup.inventory import SchemaObject

_REST_OF_COLUMN = r"(?P<rest>(?: STORAGE \w+)?(?: COMPRESSION \w+)?(?: STATISTICS \d+)?(?: OPTIONS \(.*\))?)"
_COLUMN = re.compile(rf"(?P<head>.*?) (?P<how>DEFAULT|GENERATED AS) (?P<text>.*?){_REST_OF_COLUMN}\Z", re.DOTALL)
_INDEX = re.compile(r"(?P<head>)(?P<text>.*?)(?P<rest>(?: PARTITION OF .*?)?(?: STATISTICS \([\d, ]*\))?)\Z", re.DOTALL)
_PREDICATE = re.compile(r"(?P<head>CREATE INDEX .*?) WHERE (?P<text>.*)(?P<rest>)\Z", re.DOTALL)
_STATISTICS = re.compile(r"(?P<head>)(?P<text>.*?)(?P<rest>(?: STATISTICS \d+)?)\Z", re.DOTALL)
_WHOLE = re.compile(r"(?P<head>)(?P<text>.*)(?P<rest>)\Z", re.DOTALL)
_POLICY = re.compile(r"(?P<head>.*?)(?P<text>(?:USING|WITH CHECK) \(.*)(?P<rest>)\Z", re.DOTALL)
_VIEW = re.compile(r"(?P<head>.*?)\bAS (?P<text>\s*(?:SELECT|WITH|VALUES)\b.*?);?(?P<rest>)\Z", re.DOTALL)
_DOMAIN = re.compile(r"(?P<head>.*?) (?P<text>DEFAULT .*)(?P<rest>)\Z", re.DOTALL)
_ROUTINE = re.compile(r"(?P<head>)(?P<text>\(.*\))(?P<rest> (?:RETURNS|LANGUAGE) .*)\Z", re.DOTALL)
_SQL_BODY = re.compile(r"(?P<head>.*?) AS (?P<text>(?:BEGIN ATOMIC|RETURN )\b.*)(?P<rest>)\Z", re.DOTALL)
_PARTITION_KEY = re.compile(
    r"(?P<head>.*?)(?P<text>PARTITION BY (?:RANGE|LIST|HASH) \(.*?\))(?P<rest>(?: USING \S+)?(?: WITH \(.*\))?)\Z",
    re.DOTALL,
)
_PARTS = {
    "column": (_COLUMN,),
    "constraint": (_WHOLE,),
    "index": (_INDEX, _PREDICATE),
    "trigger": (_WHOLE,),
    "rule": (_WHOLE,),
    "policy": (_POLICY,),
    "view": (_VIEW,),
    "materialized view": (_VIEW,),
    "domain": (_DOMAIN,),
    "function": (_ROUTINE, _SQL_BODY),
    "procedure": (_ROUTINE, _SQL_BODY),
    "table": (_PARTITION_KEY,),
    "extended statistics": (_STATISTICS,),
}
_IDENTIFIER = r'(?:"(?:[^"]|"")*"|[^".]+)'
_INNER_NAME = re.compile(rf"(?P<outer>{_IDENTIFIER}\.{_IDENTIFIER})\.(?P<inner>{_IDENTIFIER})\Z", re.DOTALL)


@dataclass(frozen=True)
class ArchivedSchema:
    """The SQL of the schema that an archive holds."""

    text: str

    @cached_property
    def _blocks(self) -> tuple[str, ...]:
        return tuple(sql for _, sql in blocks(self.text))

    def says(self, source: SchemaObject, copy: SchemaObject) -> bool:
        """Whether all in which the copy's definition differs stands in the archive as the source wrote it.

        Args:
            source: as the snapshot held it.
            copy: the same object of the restored copy, with another definition.
        """
        wanted, there = source.definition, copy.definition
        for pattern in _PARTS.get(source.kind, ()):
            of_source, of_copy = pattern.match(wanted), pattern.match(there)
            if of_source is None or of_copy is None or of_source["text"] == of_copy["text"]:
                continue
            places = tuple(_places(source, of_source))
            if not any(re.search(where, sql, re.MULTILINE) for sql in self._blocks for where in places):
                continue
            # From here on this part counts as equal; what else differs has to be explained by the next pattern.
            start, end = of_source.span("text")
            wanted = wanted[:start] + of_copy["text"] + wanted[end:]
        return wanted == there


def _places(source: SchemaObject, part: re.Match[str]) -> Iterator[str]:
    """Regular expressions, of which one finds the part in the SQL of the object that it belongs to."""
    text = re.escape(part["text"])
    name = re.escape(source.name)
    inner = _INNER_NAME.match(source.name)
    outer, inner_name = (re.escape(inner["outer"]), re.escape(inner["inner"])) if inner else ("", "")
    table = rf"TABLE (?:ONLY )?{outer}\b"
    match source.kind:
        case "column" if part["how"] == "DEFAULT":
            yield rf"TABLE {outer} \((?s:.*)^    {inner_name} [^\n]*DEFAULT {text}(?:,$|$| NOT NULL| CONSTRAINT )"
            yield rf"{table} ALTER COLUMN {inner_name} SET DEFAULT {text};$"
        case "column":
            yield rf"TABLE {outer} \((?s:.*)^    {inner_name} [^\n]*GENERATED ALWAYS AS \({text}\)"
            yield rf"{table} ALTER COLUMN {inner_name} SET GENERATED ALWAYS AS \({text}\)"
        case "constraint":
            yield rf"(?:TABLE(?: ONLY)?|DOMAIN) {outer}\s(?s:.*)\bCONSTRAINT {inner_name} {text}(?:[,;]?$)"
        case "policy":
            yield rf"^CREATE POLICY {inner_name} ON {outer} (?s:.*){text};$"
        case "view" | "materialized view":
            yield rf"VIEW {name}\s(?s:.*)\bAS\s*{text.lstrip()}"
        case "domain":
            yield rf"^CREATE DOMAIN {name} AS (?s:.*){text}"
        case "function" | "procedure" if part["text"].startswith("("):
            called = re.escape(source.name[: source.name.index("(")]) if "(" in source.name else name
            yield rf"^CREATE (?:FUNCTION|PROCEDURE) {called}{text}"
        case "function" | "procedure":
            called = re.escape(source.name[: source.name.index("(")]) if "(" in source.name else name
            yield rf"^CREATE (?:FUNCTION|PROCEDURE) {called}\((?s:.*)^ *{text};?$"
        case "table":
            yield rf"^CREATE (?:\w+ )?TABLE {name} \((?s:.*)^{text}"
        case "index" if part.re is _PREDICATE:  # an exclusion constraint's own index is not dumped by itself
            index = re.escape(source.name[source.name.index(".") + 1 :])
            yield rf"\bADD CONSTRAINT {index} EXCLUDE (?s:.*) WHERE \({text}\)"
        case _:  # the part is a whole statement, with all names in it
            yield rf"^{text};?$"
