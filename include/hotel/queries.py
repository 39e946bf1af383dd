"""The questions the hotel asks all day: the queries that indexes, caches and reports are about.

Each is a function over an open connection. Its statement is the constant of the same name in capitals, with named
parameters, for whoever explains or measures it.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003  (psycopg's class_row and readers of the dataclasses resolve the types)
from dataclasses import dataclass
from decimal import Decimal  # noqa: TC003
from typing import TYPE_CHECKING, Any

from psycopg.rows import class_row

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class StayAvailability:
    """How many rooms of a type can be had for every night of a stay."""

    room_type_id: int
    available_rooms: int


@dataclass(frozen=True)
class GuestBooking:
    """A booking as its guest sees it."""

    id: int
    room_type_id: int
    start_date: dt.date
    end_date: dt.date
    rooms: int
    status: str
    total_amount: Decimal
    created_at: dt.datetime


@dataclass(frozen=True)
class Arrival:
    """Who comes today, and for what."""

    booking_id: int
    guest: str
    room_type: str
    rooms: int
    guests: int
    nights: int
    status: str


@dataclass(frozen=True)
class PendingPayment:
    """A payment that was started and has not come to an end."""

    id: int
    booking_id: int
    user_id: int
    amount: Decimal
    created_at: dt.datetime


@dataclass(frozen=True)
class DueNotification:
    """A message whose time has come."""

    id: int
    user_id: int
    type: str
    channel: str
    message: str
    scheduled_at: dt.datetime


@dataclass(frozen=True)
class WaitlistEntry:
    """A wish that is still open."""

    id: int
    user_id: int
    start_date: dt.date
    end_date: dt.date
    rooms: int
    created_at: dt.datetime


@dataclass(frozen=True)
class MonthlyRevenue:
    """What was paid, and kept, in a month of UTC; `month` is its first day."""

    month: dt.date
    payments: int
    amount: Decimal


# A night without a row in the inventory is a night on which nothing is sold. Capacity may have been taken back below
# what is booked: that is zero rooms, not a negative number of them.
AVAILABILITY_FOR_STAY = """
WITH overlapping AS (
    SELECT start_date, end_date, rooms
    FROM bookings
    WHERE room_type_id = %(room_type_id)s
        AND start_date < %(departure)s
        AND end_date > %(arrival)s
        AND status IN ('pending', 'confirmed', 'checked_in')
), nights AS (
    SELECT coalesce(total_rooms, 0) - coalesce(
        (SELECT sum(rooms) FROM overlapping WHERE start_date <= night AND night < end_date), 0
    ) AS free
    FROM (
        SELECT %(arrival)s::date + n AS night FROM generate_series(0, %(departure)s::date - %(arrival)s::date - 1) AS n
    ) AS stay
    LEFT JOIN room_inventory AS stock ON stock.room_type_id = %(room_type_id)s AND stock.date = night
)
SELECT %(room_type_id)s::bigint AS room_type_id, greatest(min(free), 0)::int AS available_rooms FROM nights
"""

BOOKINGS_OF_GUEST = """
SELECT id, room_type_id, start_date, end_date, rooms, status, total_amount, created_at
FROM bookings
WHERE user_id = %(user_id)s
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s
"""

ARRIVALS_OF_DAY = """
SELECT booking.id AS booking_id, guest.name AS guest, type.name AS room_type, booking.rooms, booking.guests,
    booking.end_date - booking.start_date AS nights, booking.status
FROM bookings AS booking
JOIN users AS guest ON guest.id = booking.user_id
JOIN room_types AS type ON type.id = booking.room_type_id
WHERE booking.start_date = %(day)s AND booking.status IN ('confirmed', 'checked_in')
ORDER BY guest.name, booking.id
"""

PENDING_PAYMENTS = """
SELECT id, booking_id, user_id, amount, created_at
FROM payments
WHERE status = 'pending' AND created_at < %(before)s
ORDER BY created_at, id
LIMIT %(limit)s
"""

DUE_NOTIFICATIONS = """
SELECT id, user_id, type, channel, message, scheduled_at
FROM notifications
WHERE status = 'pending' AND scheduled_at <= %(now)s
ORDER BY scheduled_at, id
LIMIT %(limit)s
"""

WAITLIST_FOR_ROOM_TYPE = """
SELECT id, user_id, start_date, end_date, rooms, created_at
FROM waitlist
WHERE room_type_id = %(room_type_id)s AND status = 'waiting'
ORDER BY created_at, id
"""

REVENUE_BY_MONTH = """
SELECT date_trunc('month', created_at AT TIME ZONE 'UTC')::date AS month, count(*) AS payments, sum(amount) AS amount
FROM payments
WHERE status = 'succeeded' AND created_at >= %(start)s AND created_at < %(end)s
GROUP BY 1
ORDER BY 1
"""


def availability_for_stay(
    connection: psycopg.Connection[Any], *, room_type_id: int, arrival: dt.date, departure: dt.date
) -> StayAvailability:
    """Rooms of a type that are free on every night from arrival up to, not including, departure.

    Counts rooms against the inventory's capacity, night by night. For stays from today on: guests who have left
    do not count.

    Raises:
        ValueError: the departure is not after the arrival.
    """
    if departure <= arrival:
        raise ValueError(f"departure {departure} is not after arrival {arrival}: a stay has at least one night")
    parameters = {"room_type_id": room_type_id, "arrival": arrival, "departure": departure}
    with connection.cursor(row_factory=class_row(StayAvailability)) as cursor:
        return cursor.execute(AVAILABILITY_FOR_STAY, parameters).fetchall()[0]


def bookings_of_guest(connection: psycopg.Connection[Any], *, user_id: int, limit: int = 20) -> list[GuestBooking]:
    """A guest's bookings of every status, the newest first."""
    with connection.cursor(row_factory=class_row(GuestBooking)) as cursor:
        return cursor.execute(BOOKINGS_OF_GUEST, {"user_id": user_id, "limit": limit}).fetchall()


def arrivals_of_day(connection: psycopg.Connection[Any], *, day: dt.date) -> list[Arrival]:
    """Confirmed bookings that begin on a day, those already checked in among them, by the guest's name."""
    with connection.cursor(row_factory=class_row(Arrival)) as cursor:
        return cursor.execute(ARRIVALS_OF_DAY, {"day": day}).fetchall()


def pending_payments(
    connection: psycopg.Connection[Any], *, before: dt.datetime, limit: int = 100
) -> list[PendingPayment]:
    """Payments that were started before a moment and still hang, the oldest first."""
    with connection.cursor(row_factory=class_row(PendingPayment)) as cursor:
        return cursor.execute(PENDING_PAYMENTS, {"before": before, "limit": limit}).fetchall()


def due_notifications(
    connection: psycopg.Connection[Any], *, now: dt.datetime, limit: int = 100
) -> list[DueNotification]:
    """Messages that should have gone out by now, the longest overdue first."""
    with connection.cursor(row_factory=class_row(DueNotification)) as cursor:
        return cursor.execute(DUE_NOTIFICATIONS, {"now": now, "limit": limit}).fetchall()


def waitlist_for_room_type(connection: psycopg.Connection[Any], *, room_type_id: int) -> list[WaitlistEntry]:
    """Who waits for a room type: first come, first served."""
    with connection.cursor(row_factory=class_row(WaitlistEntry)) as cursor:
        return cursor.execute(WAITLIST_FOR_ROOM_TYPE, {"room_type_id": room_type_id}).fetchall()


def revenue_by_month(
    connection: psycopg.Connection[Any], *, start: dt.datetime, end: dt.datetime
) -> list[MonthlyRevenue]:
    """Succeeded payments from `start` up to, not including, `end`; a month without any has no row."""
    with connection.cursor(row_factory=class_row(MonthlyRevenue)) as cursor:
        return cursor.execute(REVENUE_BY_MONTH, {"start": start, "end": end}).fetchall()
