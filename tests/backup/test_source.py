"""What is asked of a source, and how it is told when the source does not let us in."""

from __future__ import annotations

import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from include.backup import source
from include.errors import MaintenanceError
from tests.backup.dump_world import run_sql

if TYPE_CHECKING:
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    return fresh_database(pg17)


def refused(dsn: Dsn) -> MaintenanceError:
    with pytest.raises(MaintenanceError) as raised:
        source.connect(dsn, database="app")
    error = raised.value
    assert error.database == "app"
    assert error.untouched
    if dsn.password:
        assert dsn.password not in str(error)
        assert dsn.password not in repr(error.__cause__)
    return error


def test_a_wrong_password_is_not_tried_again_and_the_connection_is_named(dsn: Dsn) -> None:
    error = refused(replace(dsn, password="not-the-password"))
    assert not error.transient
    assert "password authentication failed" in error.what
    assert str(dsn) in error.what
    assert "Airflow connection" in error.remedy


def test_a_missing_password_is_not_tried_again(dsn: Dsn) -> None:
    error = refused(replace(dsn, password=None))
    assert not error.transient
    assert "no password supplied" in error.what


def test_an_unknown_database_or_role_is_not_tried_again(dsn: Dsn) -> None:
    for unknown in (replace(dsn, dbname="no_such_thing"), replace(dsn, user="no_such_thing")):
        error = refused(unknown)
        assert not error.transient
        assert "no_such_thing" in error.what


def test_a_database_that_the_role_may_not_enter_is_not_tried_again(dsn: Dsn, pg17: PostgresServer) -> None:
    run_sql(pg17.superuser(), f"REVOKE CONNECT ON DATABASE {dsn.dbname} FROM PUBLIC, {dsn.user}")
    error = refused(dsn)
    assert not error.transient
    assert "permission denied" in error.what


def test_a_role_that_may_not_log_in_is_not_tried_again(dsn: Dsn, pg17: PostgresServer) -> None:
    run_sql(pg17.superuser(), f"ALTER ROLE {dsn.user} NOLOGIN")
    assert not refused(dsn).transient


def test_an_option_that_libpq_does_not_know_is_named_and_not_tried_again(dsn: Dsn) -> None:
    error = refused(replace(dsn, options={"keep_alive": "1"}))
    assert not error.transient
    assert "keep_alive" in error.what


def test_encryption_that_the_server_does_not_offer_is_not_tried_again(dsn: Dsn) -> None:
    error = refused(replace(dsn, options={"sslmode": "require"}))
    assert not error.transient
    assert "SSL" in error.what


def test_a_server_that_is_not_there_may_be_tried_again(dsn: Dsn) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        error = refused(replace(dsn, port=nobody.getsockname()[1]))
    assert error.transient
    assert "tries again by itself" in error.remedy


def test_a_server_that_hangs_up_may_be_tried_again(dsn: Dsn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            listener.accept()[0].close()

        hang_up = threading.Thread(target=answer)
        hang_up.start()
        assert refused(replace(dsn, port=listener.getsockname()[1])).transient
        hang_up.join()


def test_a_name_that_does_not_resolve_may_be_tried_again(dsn: Dsn) -> None:
    assert refused(replace(dsn, host="no-such-host.invalid")).transient


def test_too_many_sessions_may_be_tried_again(dsn: Dsn, pg17: PostgresServer) -> None:
    run_sql(pg17.superuser(), f"ALTER ROLE {dsn.user} CONNECTION LIMIT 0")
    error = refused(dsn)
    assert error.transient
    assert "too many connections" in error.what


def test_the_identity_of_a_server_is_told_to_a_role_that_may_read_it_and_missing_for_another(
    dsn: Dsn, pg17: PostgresServer
) -> None:
    with pg17.superuser().connect() as session:
        known = source.identity(session)
        row = session.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
        session.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        with dsn.connect() as session:
            unknown = source.identity(session)
    finally:
        run_sql(pg17.superuser(), "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
    assert row == (known.system_identifier,)
    assert unknown.system_identifier is None or unknown.system_identifier == known.system_identifier
    assert (unknown.major, unknown.database) == (17, dsn.dbname)
    assert unknown.version == known.version
    assert unknown.version.startswith("17.")


def test_roles_that_owners_and_grants_name_are_listed_and_no_others(dsn: Dsn, pg17: PostgresServer) -> None:
    admin = pg17.superuser(dsn.dbname)
    roles = [f"{dsn.user}_{kind}" for kind in ("owns", "reads", "idle")]
    run_sql(pg17.superuser(), *(f"CREATE ROLE {role}" for role in roles))
    try:
        run_sql(
            admin,
            "CREATE TABLE t (a int)",
            f"ALTER TABLE t OWNER TO {roles[0]}",
            f"GRANT SELECT ON t TO {roles[1]}",
        )
        with dsn.connect() as session:
            found = source.contents(session, revision_table="dbmaint.schema_revision").roles
    finally:
        run_sql(admin, f"DROP OWNED BY {', '.join(roles)}")
        run_sql(admin, f"DROP ROLE {', '.join(roles)}")
    assert roles[0] in found
    assert roles[1] in found
    assert roles[2] not in found


def test_the_revision_is_none_without_its_table_and_joined_where_there_are_two_heads(dsn: Dsn) -> None:
    with dsn.connect() as session:
        assert source.contents(session, revision_table="no.such_table").schema_revision is None
        session.execute('CREATE SCHEMA "Odd %s"')
        session.execute('CREATE TABLE "Odd %s"."re""v" (version_num text)')
        assert source.contents(session, revision_table='Odd %s.re"v').schema_revision is None
        session.execute('INSERT INTO "Odd %s"."re""v" VALUES (\'b\'), (\'a\')')
        assert source.contents(session, revision_table='Odd %s.re"v').schema_revision == "a, b"


def test_the_size_of_a_database_grows_with_it(dsn: Dsn) -> None:
    with dsn.connect() as session:
        before = source.database_bytes(session)
        session.execute("CREATE TABLE t AS SELECT generate_series(1, 20000) AS a")
        assert 500_000 < source.database_bytes(session) - before < 2_000_000


def test_what_is_asked_before_a_dump_waits_for_no_lock(dsn: Dsn) -> None:
    run_sql(dsn, "CREATE TABLE t (a int)")
    with dsn.connect() as other, dsn.connect() as session:
        other.execute("BEGIN")
        other.execute("ALTER TABLE t ADD COLUMN b int")
        session.execute("SET lock_timeout = 1")
        assert len(source.contents(session, revision_table="dbmaint.schema_revision").tables) == 1
        assert source.unreadable(session) == ()
        assert source.database_bytes(session) > 0
        source.identity(session)


def test_a_server_itself_is_not_taken_for_a_pooler(dsn: Dsn) -> None:
    with dsn.connect() as session:
        assert not source.behind_pooler(session)
