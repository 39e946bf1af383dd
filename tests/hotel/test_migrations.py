from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from include.hotel import migrate
from include.hotel.models import Base
from tests.hotel.catalog import schema

if TYPE_CHECKING:
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

# The list as it was asked for, in its own spelling.
REQUESTED_INDEXES = """
User: phone
User: email
User: roleId
User: ircaMembershipId
Booking: userId
Booking: roomTypeId
Booking: startDate
Booking: endDate
Booking: status
Booking: createdAt
RoomInventory: roomTypeId
RoomInventory: date
Payment: bookingId
Payment: userId
Payment: status
Payment: createdAt
Notification: userId
Notification: status
Notification: scheduledAt
Booking: status, startDate, endDate
Booking: userId, status, createdAt
Booking: roomTypeId, startDate, endDate
Booking: startDate, endDate, roomTypeId, status
RoomInventory: roomTypeId, date, availableRooms
Waitlist: status, startDate, endDate
Waitlist: roomTypeId, status, createdAt
Payment: status, createdAt
Payment: userId, status
Notification: status, scheduledAt
Notification: userId, type, status
"""
TABLE_OF = {
    "User": "users",
    "Booking": "bookings",
    "RoomInventory": "room_inventory",
    "Payment": "payments",
    "Notification": "notifications",
    "Waitlist": "waitlist",
}


def _requested() -> list[tuple[str, list[str]]]:
    wanted = []
    for line in REQUESTED_INDEXES.strip().splitlines():
        model, columns = line.split(": ")
        wanted.append((TABLE_OF[model], re.sub(r"[A-Z]", lambda m: f"_{m[0].lower()}", columns).split(", ")))
    return wanted


def _downgrade(dsn: Dsn) -> None:
    with migrate.alembic_config(dsn) as config:
        command.downgrade(config, "base")


def test_every_requested_index_is_there_with_these_columns_in_this_order(hotel: Dsn) -> None:
    with hotel.connect() as session:
        found = session.execute(
            """
            SELECT indrelid::regclass::text, array_agg(attname::text ORDER BY place)
            FROM pg_index CROSS JOIN unnest(indkey) WITH ORDINALITY AS key (attnum, place)
            JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = key.attnum
            JOIN pg_class ON pg_class.oid = indrelid AND relnamespace = 'public'::regnamespace
            WHERE indpred IS NULL AND NOT indisunique AND indisvalid
            GROUP BY indexrelid, indrelid
            """
        ).fetchall()
    assert sorted(found) == sorted(_requested())
    assert len(found) == 30


def test_the_revisions_build_what_the_models_expect(hotel: Dsn) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: hotel.connect(autocommit=False))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_revisions_and_the_models_agree_on_every_check_default_and_name(
    hotel: Dsn, pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    from_models = fresh_database(pg17)
    engine = create_engine("postgresql+psycopg://", creator=lambda: from_models.connect(autocommit=False))
    Base.metadata.create_all(engine)
    engine.dispose()
    assert schema(from_models) == schema(hotel)


def test_a_downgrade_to_base_leaves_nothing_and_an_upgrade_brings_the_same_back(hotel: Dsn) -> None:
    before = schema(hotel)
    _downgrade(hotel)
    assert migrate.current(hotel) is None
    assert schema(hotel) == []
    migrate.upgrade(hotel)
    assert schema(hotel) == before


def test_the_revision_of_a_database_that_was_never_migrated_is_none(
    pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    assert migrate.current(fresh_database(pg17)) is None


def test_an_upgrade_of_a_database_that_is_up_to_date_changes_nothing(hotel: Dsn) -> None:
    before = schema(hotel)
    migrate.upgrade(hotel)
    assert migrate.current(hotel) == "0001"
    assert schema(hotel) == before


def test_airflows_own_version_table_is_neither_read_nor_touched(
    pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    dsn = fresh_database(pg17)
    with dsn.connect() as session:
        session.execute("CREATE TABLE alembic_version (version_num text)")
        session.execute("INSERT INTO alembic_version VALUES ('of airflow')")
    migrate.upgrade(dsn)
    with dsn.connect() as session:
        assert session.execute("SELECT version_num FROM alembic_version").fetchall() == [("of airflow",)]
        assert session.execute("SELECT version_num FROM dbmaint.schema_revision").fetchall() == [("0001",)]


def test_an_upgrade_leaves_the_loggers_of_the_process_alone(
    pg17: PostgresServer, fresh_database: FreshDatabase
) -> None:
    task_log = logging.getLogger("airflow.task.hotel_test")
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    migrate.upgrade(fresh_database(pg17))
    assert not task_log.disabled
    assert (root.level, list(root.handlers)) == before


def test_a_failed_sign_in_does_not_tell_the_password(pg17: PostgresServer, fresh_database: FreshDatabase) -> None:
    dsn = fresh_database(pg17)
    wrong = type(dsn)(host=dsn.host, port=dsn.port, dbname=dsn.dbname, user=dsn.user, password="not-this-one")
    with pytest.raises(psycopg.OperationalError) as failure:
        migrate.current(wrong)
    assert "not-this-one" not in repr(failure.value)
    with pytest.raises(Exception, match="password authentication failed") as raised:
        migrate.upgrade(wrong)
    assert "not-this-one" not in repr(raised.value) + str(raised.value)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE bookings SET end_date = start_date", "ck_bookings_stay"),
        ("UPDATE bookings SET status = 'paid'", "ck_bookings_status"),
        ("UPDATE users SET email = 'Guest@example.com'", "ck_users_email_lower"),
        ("UPDATE notifications SET sent_at = NULL", "ck_notifications_sent_at"),
        ("UPDATE payments SET amount = 0", "ck_payments_amount"),
    ],
)
def test_the_database_refuses_what_no_hotel_would_write(loaded_hotel: Dsn, statement: str, constraint: str) -> None:
    with loaded_hotel.connect() as session, pytest.raises(psycopg.errors.CheckViolation) as failure:
        session.execute(statement)
    assert failure.value.diag.constraint_name == constraint


def test_every_revision_has_its_entry_in_the_changelog() -> None:
    revisions = {path.name.split("_")[0] for path in (migrate.MIGRATIONS / "versions").glob("[0-9]*.py")}
    changelog = (Path(__file__).parents[2] / "docs/schema-changelog.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| (\d{4}) \|", changelog, flags=re.MULTILINE)) == revisions
    assert revisions
