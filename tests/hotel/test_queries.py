from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.rows import dict_row

from include.hotel import data, queries

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from include.postgres.dsn import Dsn

TODAY = data.TODAY
NOW = data.NOW


@pytest.fixture
def session(loaded_hotel: Dsn) -> Iterator[psycopg.Connection[Any]]:
    """A small hotel, seen from a session that does not live in UTC; nothing written here stays."""
    with loaded_hotel.connect(autocommit=False) as connection:
        connection.execute("SET TimeZone = 'America/New_York'")
        yield connection
        connection.rollback()


def _all(session: psycopg.Connection[Any], table: str) -> list[dict[str, Any]]:
    with session.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()


def _nights(start: dt.date, end: dt.date) -> list[dt.date]:
    return [start + dt.timedelta(n) for n in range((end - start).days)]


def test_availability_is_the_scarcest_night_of_the_stay(session: psycopg.Connection[Any]) -> None:
    stock = {(r["room_type_id"], r["date"]): r["total_rooms"] for r in _all(session, "room_inventory")}
    booked: Counter[tuple[int, dt.date]] = Counter()
    for booking in _all(session, "bookings"):
        if booking["status"] in {"pending", "confirmed", "checked_in"}:
            for night in _nights(booking["start_date"], booking["end_date"]):
                booked[booking["room_type_id"], night] += booking["rooms"]
    seen = set()
    for room_type in range(1, 13):
        for ahead in (0, 1, 2, 3, 5, 8, 13, 21, 55, 364, 366, 400):
            for length in (1, 2, 7, 14):
                arrival = TODAY + dt.timedelta(ahead)
                departure = arrival + dt.timedelta(length)
                expected = max(
                    0,
                    min(
                        stock.get((room_type, night), 0) - booked[room_type, night]
                        for night in _nights(arrival, departure)
                    ),
                )
                found = queries.availability_for_stay(
                    session, room_type_id=room_type, arrival=arrival, departure=departure
                )
                assert found == queries.StayAvailability(room_type, expected)
                seen.add(expected)
    assert len(seen) > 3


def _one_room(session: psycopg.Connection[Any], start: str, end: str, status: str) -> None:
    session.execute("DELETE FROM payments")
    session.execute("DELETE FROM bookings")
    session.execute("UPDATE room_inventory SET total_rooms = 1, available_rooms = 1")
    session.execute(
        "INSERT INTO bookings (user_id, room_type_id, start_date, end_date, rooms, guests, status, total_amount)"
        " VALUES (1, 1, %s, %s, 1, 1, %s, 100)",
        [start, end, status],
    )


def _free(session: psycopg.Connection[Any], arrival: str, departure: str) -> int:
    return queries.availability_for_stay(
        session,
        room_type_id=1,
        arrival=dt.date.fromisoformat(arrival),
        departure=dt.date.fromisoformat(departure),
    ).available_rooms


def test_a_room_is_free_again_on_the_day_of_departure_and_until_the_day_of_arrival(
    session: psycopg.Connection[Any],
) -> None:
    _one_room(session, "2025-12-10", "2025-12-12", "confirmed")
    assert _free(session, "2025-12-08", "2025-12-10") == 1
    assert _free(session, "2025-12-12", "2025-12-14") == 1
    assert _free(session, "2025-12-09", "2025-12-11") == 0
    assert _free(session, "2025-12-11", "2025-12-12") == 0
    assert _free(session, "2025-12-01", "2025-12-31") == 0


@pytest.mark.parametrize(
    ("status", "free"),
    [("pending", 0), ("confirmed", 0), ("checked_in", 0), ("checked_out", 1), ("cancelled", 1), ("no_show", 1)],
)
def test_only_a_booking_that_stands_holds_a_room(session: psycopg.Connection[Any], status: str, free: int) -> None:
    _one_room(session, "2025-12-10", "2025-12-12", status)
    assert _free(session, "2025-12-10", "2025-12-12") == free


def test_capacity_taken_back_below_the_bookings_is_no_room_and_not_a_negative_number(
    session: psycopg.Connection[Any],
) -> None:
    _one_room(session, "2025-12-10", "2025-12-12", "confirmed")
    session.execute("UPDATE room_inventory SET total_rooms = 0, available_rooms = 0")
    assert _free(session, "2025-12-10", "2025-12-12") == 0


def test_a_stay_without_a_night_is_refused(session: psycopg.Connection[Any]) -> None:
    with pytest.raises(ValueError, match="at least one night"):
        queries.availability_for_stay(session, room_type_id=1, arrival=TODAY, departure=TODAY)


def test_a_guests_bookings_come_newest_first_and_no_other_guests(session: psycopg.Connection[Any]) -> None:
    bookings = _all(session, "bookings")
    for user, count in Counter(row["user_id"] for row in bookings).most_common(5):
        mine = [row for row in reversed(bookings) if row["user_id"] == user]
        found = queries.bookings_of_guest(session, user_id=user, limit=1000)
        assert [row.id for row in found] == [row["id"] for row in mine]
        assert len(found) == count
        assert found[0].total_amount == mine[0]["total_amount"]
        assert queries.bookings_of_guest(session, user_id=user, limit=2) == found[:2]


def test_arrivals_are_the_confirmed_bookings_that_begin_that_day(session: psycopg.Connection[Any]) -> None:
    names = {row["id"]: row["name"] for row in _all(session, "users")}
    bookings = _all(session, "bookings")
    counts = set()
    for ahead in range(40):
        day = TODAY + dt.timedelta(ahead)
        expected = sorted(
            (names[row["user_id"]], row["id"], (row["end_date"] - day).days)
            for row in bookings
            if row["start_date"] == day and row["status"] in {"confirmed", "checked_in"}
        )
        found = queries.arrivals_of_day(session, day=day)
        assert [(row.guest, row.booking_id, row.nights) for row in found] == expected
        counts.add(len(found))
    assert len(counts) > 1


def test_pending_payments_are_those_started_before_the_moment(session: psycopg.Connection[Any]) -> None:
    session.execute("UPDATE payments SET status = 'pending' WHERE id % 17 = 0")
    waiting = [row for row in _all(session, "payments") if row["status"] == "pending"]
    before = waiting[len(waiting) // 2]["created_at"]
    expected = sorted((row["created_at"], row["id"]) for row in waiting if row["created_at"] < before)
    found = queries.pending_payments(session, before=before, limit=1000)
    assert [(row.created_at, row.id) for row in found] == expected
    assert len(expected) > 10
    assert queries.pending_payments(session, before=before, limit=3) == found[:3]


def test_due_notifications_include_the_one_due_this_second_and_none_of_later(
    session: psycopg.Connection[Any],
) -> None:
    waiting = sorted(
        (row["scheduled_at"], row["id"]) for row in _all(session, "notifications") if row["status"] == "pending"
    )
    now = waiting[len(waiting) // 2][0]
    found = queries.due_notifications(session, now=now, limit=1000)
    assert [(row.scheduled_at, row.id) for row in found] == [entry for entry in waiting if entry[0] <= now]
    assert found[-1].scheduled_at == now
    assert queries.due_notifications(session, now=now, limit=1) == found[:1]


def test_a_waitlist_is_served_in_the_order_of_coming(session: psycopg.Connection[Any]) -> None:
    session.execute("UPDATE waitlist SET room_type_id = 1 + id % 2, status = 'waiting' WHERE id % 3 > 0")
    entries = _all(session, "waitlist")
    for room_type in (1, 2):
        expected = sorted(
            (row["created_at"], row["id"])
            for row in entries
            if row["room_type_id"] == room_type and row["status"] == "waiting"
        )
        found = queries.waitlist_for_room_type(session, room_type_id=room_type)
        assert [(row.created_at, row.id) for row in found] == expected
        assert len(found) > 2


def test_revenue_counts_what_was_paid_and_kept_by_months_of_utc(session: psycopg.Connection[Any]) -> None:
    # The last moment of January in UTC is still the 31st in New York; the first of February is, too.
    session.execute("UPDATE payments SET created_at = '2025-01-31 23:59:59+00', status = 'succeeded' WHERE id = 1")
    session.execute("UPDATE payments SET created_at = '2025-02-01 00:00:00+00', status = 'succeeded' WHERE id = 2")
    start, end = dt.datetime(2024, 6, 1, tzinfo=dt.UTC), dt.datetime(2025, 4, 1, tzinfo=dt.UTC)
    expected: dict[dt.date, list[Any]] = {}
    for row in _all(session, "payments"):
        if row["status"] == "succeeded" and start <= row["created_at"] < end:
            month = row["created_at"].astimezone(dt.UTC).date().replace(day=1)
            expected.setdefault(month, []).append(row["amount"])
    found = queries.revenue_by_month(session, start=start, end=end)
    assert found == [
        queries.MonthlyRevenue(month, len(amounts), sum(amounts)) for month, amounts in sorted(expected.items())
    ]
    assert len(found) == 10
