"""An inventory has everything that a database holds besides rows, and notices each change of it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from include.stack.postgres import SUPERUSER
from tests.backup.dump_world import run_sql
from tests.backup.inventory_world import ONE_OF_EVERYTHING, begin, by_name, difference, filled, statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from include.stack.postgres import PostgresServer
    from tests.backup.inventory_world import Objects

KINDS = {
    "access method", "aggregate", "cast", "collation", "column", "comment", "constraint", "conversion",
    "database grant", "database owner", "database setting", "default grant", "domain", "event trigger",
    "extended statistics", "extension", "foreign data wrapper", "foreign server", "foreign table", "function", "grant",
    "index", "language",
    "materialized view", "operator", "operator class", "operator family", "owner", "policy", "procedure",
    "publication", "rule", "schema", "sequence", "table", "text search configuration", "text search dictionary",
    "text search parser", "text search template", "transform", "trigger", "type", "user mapping", "view",
}  # fmt: skip

# What is changed -> what must differ, exactly: the first word is the kind.
CHANGES: dict[str, set[str]] = {
    "ALTER TABLE app.passing SET LOGGED": {"table app.passing"},
    "ALTER TABLE app.passing RESET (fillfactor)": {"table app.passing"},
    "ALTER TABLE app.passing SET (toast.autovacuum_enabled = on)": {"table app.passing"},
    "ALTER TABLE app.rooms DISABLE ROW LEVEL SECURITY": {"table app.rooms"},
    "ALTER TABLE app.rooms FORCE ROW LEVEL SECURITY": {"table app.rooms"},
    "ALTER TABLE app.bookings REPLICA IDENTITY DEFAULT": {"table app.bookings"},
    "ALTER TABLE app.rooms REPLICA IDENTITY USING INDEX rooms_pkey": {"table app.rooms", "index app.rooms_pkey"},
    "ALTER TABLE app.child NO INHERIT app.parent": {"table app.child"},
    "ALTER TABLE app.events DETACH PARTITION app.events_1": {
        "table app.events_1", "index app.events_1_kind_idx", "trigger app.events_1.seen"},
    "CREATE TABLE app.surplus ()": {"table app.surplus", "owner table app.surplus"},
    "DROP TABLE app.parent CASCADE": {
        "table app.parent", "table app.child", "column app.parent.a", "column app.child.a", "column app.child.b",
        "rule app.parent.quiet", "owner table app.parent", "owner table app.child"},
    "ALTER TABLE app.rooms ALTER note DROP DEFAULT": {"column app.rooms.note"},
    "ALTER TABLE app.rooms ALTER note SET DEFAULT 'y'": {"column app.rooms.note"},
    "ALTER TABLE app.rooms ALTER note DROP NOT NULL": {"column app.rooms.note"},
    "ALTER TABLE app.rooms ALTER note SET STORAGE MAIN": {"column app.rooms.note"},
    "ALTER TABLE app.rooms ALTER note SET STATISTICS -1": {"column app.rooms.note"},
    "ALTER TABLE app.rooms ALTER note SET COMPRESSION pglz": {"column app.rooms.note"},
    "ALTER TABLE app.rooms ALTER label RESET (n_distinct)": {"column app.rooms.label"},
    'ALTER TABLE app.rooms ALTER label TYPE varchar(20) COLLATE "C"': {"column app.rooms.label"},
    "ALTER TABLE app.rooms ALTER label TYPE varchar(21)": {"column app.rooms.label"},
    "ALTER TABLE app.rooms ALTER doubled DROP EXPRESSION": {"column app.rooms.doubled"},
    "ALTER TABLE app.rooms ALTER id SET GENERATED ALWAYS": {"column app.rooms.id"},
    'ALTER TABLE "Odd ""s"."T %s" ALTER "C" TYPE bigint': {'column "Odd ""s"."T %s"."C"'},
    'ALTER TABLE "Odd ""s"."T %s" ADD d int': {'column "Odd ""s"."T %s".d', 'table "Odd ""s"."T %s"'},
    "ALTER TABLE app.bookings VALIDATE CONSTRAINT later": {"constraint app.bookings.later"},
    "ALTER TABLE app.bookings DROP CONSTRAINT room_exists": {"constraint app.bookings.room_exists"},
    "ALTER TABLE app.bookings ALTER CONSTRAINT room_exists DEFERRABLE": {"constraint app.bookings.room_exists"},
    "ALTER TABLE app.bookings DISABLE TRIGGER ALL": {
        "constraint app.bookings.room_exists", "constraint app.bookings.bookings_key",
        "trigger app.bookings.watched", "trigger app.bookings.checked"},
    "ALTER DOMAIN app.price DROP CONSTRAINT positive": {"constraint app.price.positive"},
    "ALTER DOMAIN app.price SET NOT NULL": {"domain app.price"},
    "ALTER DOMAIN app.price DROP DEFAULT": {"domain app.price"},
    "DROP INDEX app.rooms_note": {"index app.rooms_note"},
    "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.rooms_note'::regclass": {"index app.rooms_note"},
    "UPDATE pg_index SET indisready = false WHERE indexrelid = 'app.rooms_note'::regclass": {"index app.rooms_note"},
    "ALTER TABLE app.rooms CLUSTER ON rooms_pkey": {"index app.rooms_pkey"},
    "ALTER INDEX app.rooms_note SET (fillfactor = 50)": {"index app.rooms_note"},
    "ALTER INDEX app.rooms_expression ALTER 2 SET STATISTICS 7": {"index app.rooms_expression"},
    "ALTER TABLE app.bookings DISABLE TRIGGER watched": {"trigger app.bookings.watched"},
    "ALTER TABLE app.bookings ENABLE ALWAYS TRIGGER watched": {"trigger app.bookings.watched"},
    "ALTER TABLE app.events_1 DISABLE TRIGGER seen": {"trigger app.events_1.seen"},
    "DROP TRIGGER watched ON app.bookings": {"trigger app.bookings.watched"},
    "ALTER TABLE app.parent DISABLE RULE quiet": {"rule app.parent.quiet"},
    "ALTER POLICY mine ON app.rooms USING (number < 11)": {"policy app.rooms.mine"},
    "ALTER POLICY mine ON app.rooms TO PUBLIC": {"policy app.rooms.mine"},
    "CREATE OR REPLACE VIEW app.cheap WITH (security_barrier) AS SELECT number, note FROM app.rooms WHERE price < 6": {
        "view app.cheap"},
    "ALTER VIEW app.cheap RESET (security_barrier)": {"view app.cheap"},
    "ALTER VIEW app.cheap ALTER note SET DEFAULT 'z'": {"column app.cheap.note"},
    "REFRESH MATERIALIZED VIEW app.empty": {"materialized view app.empty"},
    "REFRESH MATERIALIZED VIEW app.summary WITH NO DATA": {"materialized view app.summary"},
    "ALTER SEQUENCE app.counter INCREMENT -1": {"sequence app.counter"},
    "ALTER SEQUENCE app.counter NO CYCLE": {"sequence app.counter"},
    "ALTER SEQUENCE app.counter OWNED BY app.bookings.id": {"sequence app.counter"},
    "ALTER STATISTICS app.together SET STATISTICS 9": {"extended statistics app.together"},
    "CREATE OR REPLACE FUNCTION app.twice(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE "
    "AS 'SELECT a * b + 1'": {"function app.twice(integer, integer)"},
    "ALTER FUNCTION app.twice SECURITY DEFINER": {"function app.twice(integer, integer)"},
    "ALTER FUNCTION app.twice SET search_path = app": {"function app.twice(integer, integer)"},
    "ALTER FUNCTION app.twice VOLATILE": {"function app.twice(integer, integer)"},
    "ALTER FUNCTION app.twice COST 7": {"function app.twice(integer, integer)"},
    "CREATE OR REPLACE FUNCTION app.new_style(a int) RETURNS int LANGUAGE sql RETURN a + 2": {
        "function app.new_style(integer)"},
    "CREATE OR REPLACE PROCEDURE app.act() LANGUAGE plpgsql AS 'BEGIN END'": {"procedure app.act()"},
    "CREATE OR REPLACE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '1')": {
        "aggregate app.total(integer)"},
    "ALTER TYPE app.mood ADD VALUE 'so so' BEFORE 'bad'": {"type app.mood"},
    "ALTER TYPE app.pair ADD ATTRIBUTE c int": {"type app.pair"},
    "ALTER EVENT TRIGGER on_ddl DISABLE": {"event trigger on_ddl"},
    "ALTER PUBLICATION news SET (publish = 'insert')": {"publication news"},
    "ALTER PUBLICATION news ADD TABLE app.rooms": {"publication news"},
    "ALTER FOREIGN DATA WRAPPER far OPTIONS (DROP debug)": {"foreign data wrapper far"},
    "ALTER SERVER there VERSION '2'": {"foreign server there"},
    "ALTER FOREIGN TABLE app.remote OPTIONS (SET name 'd')": {"foreign table app.remote"},
    "DROP USER MAPPING FOR {reader} SERVER there": {"user mapping for {reader} on there"},
    "DROP COLLATION app.bytewise": {"collation app.bytewise", "owner collation app.bytewise"},
    "DROP CONVERSION app.latin": {"conversion app.latin", "owner conversion app.latin"},
    "ALTER OPERATOR app.<< (app.pair, app.pair) SET (RESTRICT = scalarltsel)": {"operator app.<<(app.pair, app.pair)"},
    "ALTER OPERATOR FAMILY app.pairs USING btree ADD OPERATOR 5 pg_catalog.> (int, int)": {
        "operator family app.pairs USING btree"},
    "ALTER OPERATOR CLASS app.pair_order USING btree RENAME TO other": {
        "operator class app.pair_order USING btree", "operator class app.other USING btree",
        "owner operator class app.pair_order USING btree", "owner operator class app.other USING btree"},
    "DROP CAST (int AS app.mood)": {"cast integer AS app.mood"},
    "ALTER TEXT SEARCH DICTIONARY app.words (accept = true)": {"text search dictionary app.words"},
    "ALTER TEXT SEARCH CONFIGURATION app.plain ALTER MAPPING FOR word WITH simple": {
        "text search configuration app.plain"},
    "DROP TEXT SEARCH PARSER app.reader": {"text search parser app.reader"},
    "DROP TEXT SEARCH TEMPLATE app.form": {"text search template app.form"},
    "DROP TRANSFORM FOR int LANGUAGE plnight": {"transform FOR integer LANGUAGE plnight"},
    "ALTER LANGUAGE plnight OWNER TO {owner}": {"owner language plnight"},
    "DROP ACCESS METHOD heap_too": {"access method heap_too"},
    "UPDATE pg_extension SET extversion = '9' WHERE extname = 'plpgsql'": {"extension plpgsql"},
    "REVOKE SELECT ON app.rooms FROM {reader}": {"grant table app.rooms to {reader}"},
    "REVOKE UPDATE (note) ON app.rooms FROM {reader}": {"grant column app.rooms.note to {reader}"},
    "GRANT DELETE ON app.bookings TO PUBLIC": {"grant table app.bookings to PUBLIC"},
    "REVOKE GRANT OPTION FOR USAGE ON SEQUENCE app.counter FROM {reader}": {"grant sequence app.counter to {reader}"},
    "GRANT EXECUTE ON FUNCTION app.twice TO PUBLIC": {"grant function app.twice(integer, integer) to PUBLIC"},
    "GRANT USAGE ON TYPE app.mood TO PUBLIC": {"grant type app.mood to PUBLIC"},
    "REVOKE USAGE ON SCHEMA app FROM {reader}": {"grant schema app to {reader}"},
    "GRANT USAGE ON LANGUAGE plpgsql TO {reader}": {"grant language plpgsql to {reader}"},
    "GRANT USAGE ON FOREIGN SERVER there TO {reader}": {"grant foreign server there to {reader}"},
    "GRANT USAGE ON FOREIGN DATA WRAPPER far TO {reader}": {"grant foreign data wrapper far to {reader}"},
    "REVOKE SELECT ON pg_catalog.pg_authid FROM {reader}": {"grant table pg_catalog.pg_authid to {reader}"},
    "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep FROM PUBLIC": {
        "grant function pg_catalog.pg_sleep(double precision) to PUBLIC"},
    "REVOKE UPDATE ON app.rooms FROM {owner}": {"grant table app.rooms to {owner}"},
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA app GRANT INSERT ON TABLES TO {reader}": {
        "default grant for {owner} in app on tables to {reader}"},
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT EXECUTE ON FUNCTIONS TO PUBLIC": {
        "default grant for {owner} on functions to PUBLIC"},
    "ALTER TABLE app.bookings OWNER TO {owner}": {"owner table app.bookings", "owner sequence app.bookings_id_seq"},
    "ALTER FUNCTION app.twice OWNER TO {owner}": {"owner function app.twice(integer, integer)"},
    "ALTER SCHEMA app OWNER TO {reader}": {"owner schema app", "grant schema app to {reader}"},
    "ALTER DATABASE {owner} SET search_path = app": {"database setting search_path"},
    "ALTER ROLE {reader} IN DATABASE {owner} RESET ALL": {"database setting work_mem for {reader}"},
    "GRANT CONNECT ON DATABASE {owner} TO PUBLIC": {"database grant no CONNECT to PUBLIC"},
    "REVOKE CREATE ON DATABASE {owner} FROM {reader}": {"database grant CREATE to {reader}"},
    "COMMENT ON TABLE app.rooms IS 'beds'": {"comment table app.rooms"},
    "COMMENT ON COLUMN app.rooms.note IS NULL": {"comment table column app.rooms.note"},
    "COMMENT ON SCHEMA public IS 'ours'": {"comment schema public"},
    "DROP SCHEMA public": {"schema public", "owner schema public", "grant schema public to PUBLIC",
                           "comment schema public"},
    # And what must not be noticed.
    "GRANT SELECT ON app.bookings TO {me}": set(),
    "CREATE TEMPORARY TABLE fleeting (a int PRIMARY KEY)": set(),
    "VACUUM": set(),
    "SELECT nextval('app.counter')": set(),
}  # fmt: skip

World = tuple["psycopg.Connection[tuple[Any, ...]]", dict[str, str]]


@pytest.fixture(scope="module", params=["pg15", "pg17", "pg18"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    found: PostgresServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def world(server: PostgresServer) -> Iterator[World]:
    """A superuser's session in a database with one of everything, and the names of the roles there."""
    names = {"owner": f"owner_{secrets.token_hex(4)}", "reader": f"reader_{secrets.token_hex(4)}", "me": SUPERUSER}
    run_sql(server.superuser(), *(f"CREATE ROLE {names[role]}" for role in ("owner", "reader")),
            f"CREATE DATABASE {names['owner']}")  # fmt: skip
    admin = server.superuser(names["owner"])
    run_sql(admin, *statements(ONE_OF_EVERYTHING, names))
    with admin.connect() as session:
        yield session, names
    run_sql(server.superuser(), f"DROP DATABASE {names['owner']}", f"DROP ROLE {names['owner']}, {names['reader']}")


@pytest.fixture(scope="module")
def baseline(world: World) -> Objects:
    session, _ = world
    begin(session)
    found = by_name(session)
    session.execute("ROLLBACK")
    return found


def test_one_of_each_kind_is_in_it(baseline: Objects) -> None:
    assert {kind for kind, _ in baseline} == KINDS


@pytest.mark.parametrize("change", CHANGES)
def test_it_differs_exactly_where_the_database_was_changed_by(change: str, world: World, baseline: Objects) -> None:
    session, names = world
    expected = {filled(name, names) for name in CHANGES[change]}
    if change == "VACUUM":
        session.execute("VACUUM")
    begin(session)
    try:
        if change != "VACUUM":
            session.execute(filled(change, names).encode())
        assert difference(baseline, by_name(session)) == expected
    finally:
        session.execute("ROLLBACK")
