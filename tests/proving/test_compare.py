"""Comparisons as decisions: what counts as a difference, what could not be checked, and what a restore may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from include.backup.inventory import Inventory, LargeObjects, SchemaObject, SequenceWindow
from include.backup.model import TableFingerprint
from include.proving.compare import (
    MOST_FINDINGS,
    compare_large_objects,
    compare_revision,
    compare_row_hashes,
    compare_rows,
    judged,
    table_name,
)
from include.proving.definitions import ArchivedSchema
from include.proving.objects import compare_objects
from include.proving.schema_dump import differing_lines, without_fence
from include.proving.sequences import SequenceReading, compare_sequences
from tests.backup.retention_world import days_ago, entry

if TYPE_CHECKING:
    from include.backup.certificate import Check


def table(name: str, rows: int | None = 5, row_hash: str | None = "7", **others: object) -> TableFingerprint:
    known = {"oid": 1, "schema_name": "public", "method": "hash_record" if row_hash else None, **others}
    return TableFingerprint(name=name, rows=rows, row_hash=row_hash, **known)  # type: ignore[arg-type] - by keyword


def by_name(*tables: TableFingerprint) -> dict[str, TableFingerprint | str]:
    return {table_name(one): one for one in tables}


def hashes(expected: list[TableFingerprint], *found: TableFingerprint, same_major: bool = True) -> Check:
    return compare_row_hashes(expected, by_name(*found), same_major=same_major, promised=True)


def part(name: str, rows: int, row_hash: str | None, method: str | None = "hash_record") -> TableFingerprint:
    return table(name, rows, row_hash, hash_partition_of="public.tree", method=method)


def test_rows_that_moved_between_the_hash_partitions_of_one_tree_are_the_same_rows() -> None:
    expected = [part("a", 3, "10"), part("b", 1, "5"), table("c")]
    moved = (part("a", 1, "6"), part("b", 3, "9"), table("c"))
    assert compare_rows(expected, by_name(*moved)).outcome == "held"
    assert hashes(expected, *moved).outcome == "held"
    changed = (part("a", 1, "6"), part("b", 3, "8"), table("c"))
    assert compare_rows(expected, by_name(*changed)).outcome == "held"
    assert hashes(expected, *changed).outcome == "differs"
    fewer = (part("a", 1, "6"), part("b", 2, "9"), table("c"))
    assert compare_rows(expected, by_name(*fewer)).outcome == "differs"


def test_rows_that_moved_and_hashes_of_another_major_version_are_no_difference() -> None:
    expected = [part("a", 3, "10"), part("b", 0, "0")]
    moved = (part("a", 0, None, None), part("b", 3, None, None))
    assert compare_rows(expected, by_name(*moved)).outcome == "held"
    assert hashes(expected, *moved, same_major=False).outcome == "not checked"


def test_hashes_that_mean_nothing_in_another_major_version_are_not_checked_but_empty_tables_are() -> None:
    expected = [table("a"), table("b", 0, "0"), table("c", method="text")]
    check = hashes(
        expected, table("a", row_hash=None), table("b", 0, None), table("c", method="text"), same_major=False
    )
    assert check.outcome == "not checked"
    assert [finding.split(":")[0] for finding in check.findings] == ["public.a"]


def test_a_difference_outweighs_what_could_not_be_checked_and_both_are_named() -> None:
    check = compare_rows([table("a"), table("b")], {"public.a": "no right", "public.b": table("b", 4)})
    assert check.outcome == "differs"
    assert check.findings == ("public.b: 4 rows in the copy, 5 in the snapshot", "public.a: no right")


def test_missing_and_surplus_tables_are_differences() -> None:
    check = compare_rows([table("a")], by_name(table("b")))
    assert check.outcome == "differs"
    assert len(check.findings) == 2


def test_a_backup_without_tables_is_not_one_whose_hashes_were_left_out() -> None:
    assert compare_row_hashes([], {}, same_major=True, promised=False).outcome == "held"
    counted = table("a", row_hash=None)
    assert compare_row_hashes([counted], by_name(counted), same_major=True, promised=False).outcome == "left out"
    assert compare_row_hashes([counted], by_name(counted), same_major=True, promised=True).outcome == "not checked"


def test_findings_are_bounded_and_counted() -> None:
    check = judged("x", "y", differs=[str(number) for number in range(MOST_FINDINGS + 12)])
    assert len(check.findings) == MOST_FINDINGS + 1
    assert check.findings[-1] == "… and 12 more"


def sequence(
    before: int, after: int, next_value: int, *, furthest: int | None = None, increment: int = 1, cycles: bool = False
) -> str:
    window = SequenceWindow(
        schema_name="public", name="s", before=before, after=after, increment=increment, cycles=cycles
    )
    return compare_sequences([window], {("public", "s"): SequenceReading(next_value, furthest)}).outcome


@pytest.mark.parametrize(
    ("before", "after", "next_value", "others", "outcome"),
    [
        (10, 10, 10, {}, "held"),
        (10, 10, 9, {}, "differs"),
        (10, 10, 11, {}, "differs"),
        (10, 20, 10, {}, "held"),
        (10, 20, 15, {}, "held"),
        (10, 20, 20, {}, "held"),
        # Set back and used again, the application may have been anywhere.
        (10, 20, 9, {}, "not checked"),
        (10, 20, 21, {}, "not checked"),
        (20, 10, 5, {}, "held"),
        # Its column's values
        (10, 20, 15, {"furthest": 14}, "held"),
        (10, 10, 10, {"furthest": 9}, "held"),
        (10, 20, 15, {"furthest": 15}, "not checked"),
        (10, 20, 5, {"furthest": 5}, "differs"),
        (10, 10, 9, {"furthest": 9}, "differs"),
        (10, 10, 10, {"furthest": 500}, "held"),
        (20, 10, 5, {"furthest": 7}, "differs"),
        # Downwards
        (-10, -20, -15, {"increment": -1, "furthest": -14}, "held"),
        (-10, -20, -9, {"increment": -1}, "not checked"),
        (-10, -20, -5, {"increment": -1, "furthest": -5}, "differs"),
        (-20, -10, 3, {"increment": -1}, "held"),
        # Round and round
        (2, 1, 7, {"cycles": True, "furthest": 9}, "held"),
        (2, 2, 3, {"cycles": True}, "held"),
        (2, 2, 2, {"cycles": True, "furthest": 9}, "held"),
    ],
)
def test_a_sequence_stands_where_pg_dump_may_have_read_it(
    before: int, after: int, next_value: int, others: dict[str, int], outcome: str
) -> None:
    assert sequence(before, after, next_value, **others) == outcome  # type: ignore[arg-type] - by keyword


def test_sequences_that_are_missing_or_too_many_are_differences() -> None:
    window = SequenceWindow(schema_name="a", name="s", before=1, after=1, increment=1, cycles=False)
    assert compare_sequences([window], {}).outcome == "differs"
    assert compare_sequences([], {("a", "s"): SequenceReading(1, None)}).outcome == "differs"
    assert compare_sequences([window], "no right").outcome == "not checked"


def test_large_objects_are_compared_by_number_bytes_and_hash() -> None:
    whole = LargeObjects(count=2, bytes=30, hash="5")
    assert compare_large_objects(whole, whole).outcome == "held"
    for update in ({"count": 1}, {"bytes": 31}, {"hash": "6"}):
        assert compare_large_objects(whole, whole.model_copy(update=update)).outcome == "differs"
    counted = whole.model_copy(update={"hash": None})
    assert compare_large_objects(counted, counted).outcome == "held"
    assert compare_large_objects(whole, "no right").outcome == "not checked"


@pytest.mark.parametrize(
    ("table", "expected", "found", "outcome"),
    [
        ("a.b", "1", "1", "held"),
        ("a.b", None, None, "held"),
        ("a.b", "1", "2", "differs"),
        ("a.b", "1", None, "differs"),
        ("a.b", None, "1", "differs"),
        (None, "1", None, "not checked"),
    ],
)
def test_a_revision_is_compared_where_the_manifest_says_it_stands(
    table: str | None, expected: str | None, found: str | None, outcome: str
) -> None:
    update = {"revision_table": table, "schema_revision": expected}
    manifest = entry(days_ago(1)).manifest.model_copy(update=update)
    assert compare_revision(manifest, found).outcome == outcome


SQL = """--
-- Name: room; Type: TABLE; Schema: public; Owner: o
--

CREATE TABLE public.room (
    id integer NOT NULL,
    kind character varying DEFAULT ('a'::text)::character varying NOT NULL,
    other character varying DEFAULT ('b'::text)::character varying NOT NULL,
    CONSTRAINT known CHECK (((kind)::text = ANY ((ARRAY['a'::character varying])::text[])))
);

--
-- Name: bed; Type: TABLE; Schema: public; Owner: o
--

CREATE TABLE public.bed (
    kind character varying,
    CONSTRAINT known CHECK (((kind)::text = ANY ((ARRAY['z'::character varying])::text[])))
);

--
-- Name: free; Type: VIEW; Schema: public; Owner: o
--

CREATE VIEW public.free AS
 SELECT room.id
   FROM public.room
  WHERE ((room.kind)::text = 'a'::text);

--
-- Name: by_kind; Type: INDEX; Schema: public; Owner: o
--

CREATE INDEX by_kind ON public.room USING btree (kind) WHERE ((kind)::text = 'a'::text);
"""
AGAIN = "as this server writes it"

WRITTEN = {
    "a constraint": (
        "constraint",
        "public.room.known",
        "CHECK (((kind)::text = ANY ((ARRAY['a'::character varying])::text[])))",
    ),
    "a default": ("column", "public.room.kind", "character varying DEFAULT ('a'::text)::character varying"),
    "a view": (
        "view",
        "public.free",
        "AS  SELECT room.id\n   FROM public.room\n  WHERE ((room.kind)::text = 'a'::text);",
    ),
    "an index": (
        "index",
        "public.by_kind",
        "CREATE INDEX by_kind ON public.room USING btree (kind) WHERE ((kind)::text = 'a'::text)",
    ),
}


def rewritten(definition: str, kind: str) -> str:
    """The same definition in other words, as a server might give it back."""
    if kind == "column":
        return "character varying DEFAULT 'a'::character varying"
    return f"AS  SELECT {AGAIN};" if kind == "view" else f"{definition.partition('(')[0]}({AGAIN})"


def outcome(
    kind: str, name: str, source: str, copy: str, schema_only: str, *, sql: str = SQL, same_major: bool = True
) -> set[str]:
    def one(definition: str) -> SchemaObject:
        return SchemaObject(kind=kind, name=name, definition=definition)

    inventory = Inventory(
        backup="x",
        server_major=17,
        objects=(one(source),),
        sequences=(),
        large_objects=LargeObjects(count=0, bytes=0, hash=None),
    )
    checks = compare_objects(
        inventory, [one(copy)], schema_only=[one(schema_only)], archived=ArchivedSchema(sql), same_major=same_major
    )
    return {check.outcome for check in checks} - {"held"}


@pytest.mark.parametrize("what", WRITTEN)
def test_other_words_are_accepted_only_where_archive_and_empty_database_bear_them_out(what: str) -> None:
    kind, name, source = WRITTEN[what]
    copy = rewritten(source, kind)
    assert copy != source
    assert outcome(kind, name, source, copy, copy) == set()
    assert outcome(kind, name, source, copy, copy, same_major=False) == set()
    # The empty database has it differently: so the copy was changed.
    assert outcome(kind, name, source, copy, source) == {"differs"}
    # The source had something else than the archive.
    elsewhere = source.replace("'a'", "'z'")
    assert outcome(kind, name, elsewhere, rewritten(elsewhere, kind), rewritten(elsewhere, kind)) == {"differs"}
    assert outcome(kind, name, elsewhere, copy, copy, same_major=False) == {"not checked"}


def test_a_text_that_stands_in_the_archive_at_another_object_explains_nothing() -> None:
    of_bed = "CHECK (((kind)::text = ANY ((ARRAY['z'::character varying])::text[])))"
    assert outcome("constraint", "public.room.known", of_bed, AGAIN, AGAIN) == {"differs"}
    of_other = "character varying DEFAULT ('b'::text)::character varying"
    changed = "character varying DEFAULT 'b'::character varying"
    assert outcome("column", "public.room.kind", of_other, changed, changed) == {"differs"}
    assert outcome("column", "public.room.other", of_other, changed, changed) == set()


def test_a_part_of_a_definition_in_the_archive_does_not_explain_the_rest() -> None:
    longer = "character varying DEFAULT ('a'::text)::character varying"
    copy = "text DEFAULT 'a'::character varying"
    assert outcome("column", "public.room.kind", longer, copy, copy) == {"differs"}
    shorter = "CREATE INDEX by_kind ON public.room USING btree (kind)"
    assert outcome("index", "public.by_kind", shorter, AGAIN, AGAIN) == {"differs"}


def test_another_version_of_an_extension_is_not_checked_and_another_schema_is_a_difference() -> None:
    old, new = "VERSION '1.0' SCHEMA public", "VERSION '1.1' SCHEMA public"
    assert outcome("extension", "citext", old, new, new) == {"not checked"}
    assert outcome("extension", "citext", old, old.replace("public", "other"), new) == {"differs"}


def test_dumps_in_another_order_say_the_same() -> None:
    head, *blocks = SQL.split("--\n-- Name")
    turned = head + "".join(f"--\n-- Name{block.rstrip()}\n\n" for block in reversed(blocks))
    assert turned != SQL
    assert differing_lines(SQL, turned) == ()


def test_each_line_in_which_dumps_differ_is_shown_with_its_object() -> None:
    assert differing_lines(SQL, SQL.replace("id integer NOT NULL", "id bigint NOT NULL")) == (
        "Name: room; Type: TABLE; Schema: public; Owner: o: -     id integer NOT NULL,",
        "Name: room; Type: TABLE; Schema: public; Owner: o: +     id bigint NOT NULL,",
    )
    without = SQL[: SQL.index("--\n-- Name: by_kind")]
    assert len(differing_lines(SQL, without)) == 1
    assert differing_lines(without, SQL)[0].startswith("Name: by_kind; Type: INDEX; Schema: public; Owner: o: + CREATE")
    assert differing_lines(SQL, SQL + SQL) != ()


def test_an_access_method_belongs_to_its_table_whichever_line_it_stands_on() -> None:
    heap, own = "SET default_table_access_method = heap;\n\n", "SET default_table_access_method = own;\n\n"
    assert differing_lines(heap + SQL, heap + SQL.replace("--\n-- Name: bed", f"{heap}--\n-- Name: bed")) == ()
    assert differing_lines(heap + SQL, heap + SQL.replace("--\n-- Name: bed", f"{own}--\n-- Name: bed")) != ()


def test_the_random_key_around_a_dump_is_left_out() -> None:
    text = "-- dump\n\\restrict abc\nSELECT 1;\n\\restrict other\n\\unrestrict abc\n"
    assert without_fence(text) == "-- dump\nSELECT 1;\n\\restrict other\n"
    assert without_fence("SELECT 1;\n") == "SELECT 1;\n"
