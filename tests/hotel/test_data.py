from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from include.errors import MaintenanceError
from include.hotel import data, migrate
from include.hotel.data_sql import TABLES
from include.hotel.models import Base
from include.postgres.dsn import Dsn
from tests.hotel.catalog import schema

if TYPE_CHECKING:
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

# Of scale 0.05, seed 1. It changes when, and only when, the generator is meant to make other data.
KNOWN = "3313783f6fb7ade5a5b2b59b3850c7e9df9721e56e93ebd94d9e93caf053875b"


def _rows(dsn: Dsn, statement: str) -> list[tuple[Any, ...]]:
    with dsn.connect() as session:
        session.execute("SET TimeZone = 'UTC'")
        session.execute("SET DateStyle = 'ISO'")
        return session.execute(statement).fetchall()


def _number(dsn: Dsn, statement: str) -> Any:
    return _rows(dsn, statement)[0][0]


def _hashes(dsn: Dsn) -> dict[str, str]:
    """A hash per table over the rows as text, in the order in which they lie in the table."""
    digest = "encode(sha256(convert_to(coalesce(string_agg(t::text, E'\\n' ORDER BY ctid), ''), 'UTF8')), 'hex')"
    return {table: str(_number(dsn, f"SELECT {digest} FROM {table} AS t")) for table in TABLES}


def _combined(hashes: dict[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{t} {h}" for t, h in sorted(hashes.items())).encode()).hexdigest()


def test_the_generator_fills_every_table_of_the_models() -> None:
    assert set(TABLES) == set(Base.metadata.tables)


@pytest.mark.parametrize("server", ["pg15", "pg17", "pg18"])
def test_the_same_seed_gives_the_same_bytes_on_every_server_whatever_its_settings(
    server: str, request: pytest.FixtureRequest, fresh_database: FreshDatabase
) -> None:
    dsn = fresh_database(request.getfixturevalue(server))
    with dsn.connect() as session:
        for setting in (
            "TimeZone = 'America/New_York'",
            "DateStyle = 'German'",
            "max_parallel_workers_per_gather = 4",
            "parallel_setup_cost = 0",
            "enable_hashagg = off",
        ):
            session.execute(f"ALTER ROLE {dsn.user} SET {setting}")
    migrate.upgrade(dsn)
    data.generate(dsn, scale=0.05)
    assert _combined(_hashes(dsn)) == KNOWN


def test_another_seed_gives_other_guests_bookings_and_payments(hotel: Dsn) -> None:
    data.generate(hotel, scale=0.05, seed=2)
    first = _hashes(hotel)
    with hotel.connect() as session:
        session.execute(f"TRUNCATE {', '.join(TABLES)}")
    data.generate(hotel, scale=0.05, seed=3)
    second = _hashes(hotel)
    alike = {table for table in TABLES if first[table] == second[table]}
    assert alike == {"roles", "room_types", "booking_rules", "deposit_policies", "special_days"}


@pytest.mark.parametrize("scale", [0.0001, 0.037, 1])
def test_a_scale_gives_exactly_its_bookings_and_reports_what_it_loaded(hotel: Dsn, scale: float) -> None:
    steps: list[tuple[str, int]] = []
    report = data.generate(hotel, scale=scale, progress=lambda step, count: steps.append((step, count)))
    assert report.rows["bookings"] == round(10_000 * scale)
    assert report.rows == {table: _number(hotel, f"SELECT count(*) FROM {table}") for table in TABLES}
    assert steps == [*report.rows.items(), ("statistics", 11), ("indexes", 41)]
    assert report.seconds > 0


def test_a_load_leaves_the_schema_as_it_found_it(hotel: Dsn) -> None:
    before = schema(hotel)
    data.generate(hotel, scale=0.01)
    assert schema(hotel) == before


def test_a_row_added_after_a_load_gets_the_next_number(hotel: Dsn) -> None:
    data.generate(hotel, scale=0.01)
    insert = "INSERT INTO roles (name, description) VALUES ('porter', 'Carries') RETURNING id"
    assert _number(hotel, insert) == _number(hotel, "SELECT count(*) FROM roles")


def test_a_load_ends_with_statistics_for_the_planner(hotel: Dsn) -> None:
    data.generate(hotel, scale=0.05)
    assert _number(hotel, "SELECT reltuples FROM pg_class WHERE oid = 'bookings'::regclass") == 500
    assert _number(hotel, "SELECT count(*) FROM pg_stats WHERE tablename = 'bookings'") == 11


def test_a_load_that_is_killed_leaves_nothing(hotel: Dsn, pg17: PostgresServer) -> None:
    before = schema(hotel)

    def kill(step: str, _count: int) -> None:
        if step == "payments":
            with pg17.superuser().connect() as session:
                session.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                    [hotel.dbname],
                )

    with pytest.raises(psycopg.OperationalError):
        data.generate(hotel, scale=0.01, progress=kill)
    assert schema(hotel) == before
    assert all(_number(hotel, f"SELECT count(*) FROM {table}") == 0 for table in TABLES)
    data.generate(hotel, scale=0.01)
    assert _number(hotel, "SELECT min(id) FROM bookings") == 1


def test_a_database_with_rows_is_refused_and_keeps_them(hotel: Dsn) -> None:
    data.generate(hotel, scale=0.01)
    before = _hashes(hotel)
    with pytest.raises(MaintenanceError, match="the table roles holds rows already"):
        data.generate(hotel, scale=0.01)
    assert _hashes(hotel) == before


def test_a_database_without_the_schema_is_refused(pg17: PostgresServer, fresh_database: FreshDatabase) -> None:
    with pytest.raises(MaintenanceError, match="has no hotel schema") as refusal:
        data.generate(fresh_database(pg17), scale=0.01)
    assert "schema" in refusal.value.remedy


def test_tables_in_use_are_waited_for_only_so_long(hotel: Dsn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data._SESSION, "lock_timeout", "50ms")
    with hotel.connect(autocommit=False) as other:
        other.execute("SELECT FROM bookings")
        with pytest.raises(MaintenanceError, match="in use") as refusal:
            data.generate(hotel, scale=0.01)
    assert refusal.value.transient


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_that_means_nothing_is_refused_before_a_connection_is_made(scale: float) -> None:
    nowhere = Dsn(host="127.0.0.1", port=1, dbname="hotel", user="nobody")
    with pytest.raises(ValueError, match="scale"):
        data.generate(nowhere, scale=scale)


def test_the_data_is_shaped_like_a_hotels(loaded_hotel: Dsn) -> None:
    status = dict(_rows(loaded_hotel, "SELECT status, count(*)::float / 3000 FROM bookings GROUP BY 1"))
    assert 0.15 < status["cancelled"] < 0.35
    assert 0 < status["pending"] < 0.02
    assert {"confirmed", "checked_in", "checked_out", "no_show"} < set(status)

    by_month = dict(
        _rows(loaded_hotel, "SELECT extract(month FROM start_date)::int, count(*) FROM bookings GROUP BY 1")
    )
    assert by_month[7] + by_month[8] > 1.5 * (by_month[1] + by_month[2])
    by_day = dict(_rows(loaded_hotel, "SELECT extract(isodow FROM start_date)::int, count(*) FROM bookings GROUP BY 1"))
    assert min(by_day[6], by_day[7]) > max(by_day[2], by_day[3])
    by_type = sorted(
        count for _, count in _rows(loaded_hotel, "SELECT room_type_id, count(*) FROM bookings GROUP BY 1")
    )
    assert by_type[-1] > 10 * by_type[0]
    assert sum(by_type[-3:]) > 1500


def test_what_belongs_together_fits_together(loaded_hotel: Dsn) -> None:
    now = data.NOW.isoformat()
    never = {
        "booked before signing up": """SELECT FROM bookings b JOIN users u ON u.id = user_id
            WHERE b.created_at < u.created_at""",
        "booked after arrival": "SELECT FROM bookings WHERE created_at >= start_date",
        "made in the future": f"SELECT FROM bookings WHERE created_at > '{now}'",
        "changed before it was made": f"SELECT FROM bookings WHERE updated_at NOT BETWEEN created_at AND '{now}'",
        "paid in the future": f"SELECT FROM payments WHERE created_at > '{now}'",
        "paid for another": """SELECT FROM payments p JOIN bookings b ON b.id = booking_id
            WHERE p.user_id <> b.user_id""",
        "sent before its time": f"SELECT FROM notifications WHERE sent_at < scheduled_at OR sent_at > '{now}'",
        "scheduled before it was made": "SELECT FROM notifications WHERE scheduled_at < created_at",
        "left, but still here": f"SELECT FROM bookings WHERE status = 'checked_in' AND end_date <= '{data.TODAY}'",
        "too many in a room": """SELECT FROM bookings b JOIN room_types t ON t.id = room_type_id
            WHERE guests > rooms * capacity""",
        "somebody's address": "SELECT FROM users WHERE email !~ '@example\\.(com|org)$' OR phone !~ '^\\+999'",
        "paid in full, but not the price": """SELECT FROM bookings b WHERE status = 'checked_out' AND total_amount <>
            (SELECT sum(amount) FROM payments p WHERE p.booking_id = b.id AND p.status <> 'failed')""",
    }
    for what, statement in never.items():
        assert _rows(loaded_hotel, statement) == [], what


def test_bookings_lie_in_the_order_in_which_they_were_made(loaded_hotel: Dsn) -> None:
    for table in ("bookings", "payments", "notifications", "waitlist"):
        made = [row[0] for row in _rows(loaded_hotel, f"SELECT created_at FROM {table} ORDER BY id")]
        assert made == sorted(made)
        assert made


def test_no_night_is_oversold_and_the_inventory_agrees_with_the_bookings(loaded_hotel: Dsn) -> None:
    booked: dict[tuple[int, dt.date], int] = {}
    for room_type, start, end, rooms in _rows(
        loaded_hotel, "SELECT room_type_id, start_date, end_date, rooms FROM bookings WHERE status <> 'cancelled'"
    ):
        for n in range((end - start).days):
            night = (room_type, start + dt.timedelta(n))
            booked[night] = booked.get(night, 0) + rooms
    inventory = _rows(loaded_hotel, "SELECT room_type_id, date, total_rooms, available_rooms FROM room_inventory")
    assert {(room_type, night): total - free for room_type, night, total, free in inventory if total != free} == booked
    assert min(free for *_, free in inventory) >= 0
    assert min(free for *_, free in inventory) == 0
