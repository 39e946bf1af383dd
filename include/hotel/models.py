"""The hotel's tables as SQLAlchemy models: what the code of today expects to find.

The database itself is built by the revisions below `migrations/`; a test holds the two together.

Statuses and kinds are text with a CHECK, not enum types: a CHECK can be replaced by NOT VALID and VALIDATE without
stopping writers and can be taken back by a downgrade, while a value once added to an enum stays. Stays, seasons and
rules are half-open ranges of calendar days: `end_date` is the day of departure, its night is not part of the stay.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Annotated

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Numeric,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy import Text as SqlText
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Key = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
Money = Annotated[Decimal, mapped_column(Numeric(10, 2))]
Moment = Annotated[dt.datetime, mapped_column(DateTime(timezone=True))]
Stamp = Annotated[dt.datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
Text = Annotated[str, mapped_column(SqlText)]
RoleKey = Annotated[int, mapped_column(ForeignKey("roles.id"))]
UserKey = Annotated[int, mapped_column(ForeignKey("users.id"))]
RoomTypeKey = Annotated[int, mapped_column(ForeignKey("room_types.id"))]
BookingKey = Annotated[int, mapped_column(ForeignKey("bookings.id"))]


def _choice(column: str, *values: str) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


class Base(DeclarativeBase):
    """Common naming of constraints and indexes, so that a later revision can name what it drops."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


class Role(Base):
    """What a user may do: guest, receptionist, manager, administrator."""

    __tablename__ = "roles"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[Key]
    name: Mapped[Text]
    description: Mapped[Text]
    created_at: Mapped[Stamp]


class User(Base):
    """A guest or a member of staff."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("email"),
        UniqueConstraint("phone"),
        # Without it the unique constraint would let the same person in twice.
        CheckConstraint("email = lower(email)", name="email_lower"),
        CheckConstraint("position('@' in email) > 1", name="email_shape"),
        Index(None, "phone"),
        Index(None, "email"),
        Index(None, "role_id"),
        Index(None, "irca_membership_id"),
    )

    id: Mapped[Key]
    role_id: Mapped[RoleKey]
    name: Mapped[Text]
    email: Mapped[Text]
    phone: Mapped[Text]
    irca_membership_id: Mapped[Text | None]
    created_at: Mapped[Stamp]
    updated_at: Mapped[Stamp]


class RoomType(Base):
    """A kind of room that is sold; bookings are for a type and get their room at the desk."""

    __tablename__ = "room_types"
    __table_args__ = (
        UniqueConstraint("code"),
        CheckConstraint("capacity > 0", name="capacity"),
        CheckConstraint("base_price > 0", name="base_price"),
    )

    id: Mapped[Key]
    code: Mapped[Text]
    name: Mapped[Text]
    capacity: Mapped[int]
    base_price: Mapped[Money]
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[Stamp]


class RoomInventory(Base):
    """How many rooms of a type exist on a night, and how many of them nobody has booked."""

    __tablename__ = "room_inventory"
    __table_args__ = (
        UniqueConstraint("room_type_id", "date"),
        CheckConstraint("total_rooms >= 0", name="total_rooms"),
        CheckConstraint("available_rooms <= total_rooms", name="available_rooms_at_most_total"),
        Index(None, "room_type_id"),
        Index(None, "date"),
        Index(None, "room_type_id", "date", "available_rooms"),
    )

    id: Mapped[Key]
    room_type_id: Mapped[RoomTypeKey]
    date: Mapped[dt.date]
    total_rooms: Mapped[int]
    available_rooms: Mapped[int]
    updated_at: Mapped[Stamp]


class Booking(Base):
    """One guest's stay in one or several rooms of a type."""

    __tablename__ = "bookings"
    __table_args__ = (
        _choice("status", "pending", "confirmed", "checked_in", "checked_out", "cancelled", "no_show"),
        CheckConstraint("start_date < end_date", name="stay"),
        CheckConstraint("rooms > 0", name="rooms"),
        CheckConstraint("guests > 0", name="guests"),
        CheckConstraint("total_amount >= 0", name="total_amount"),
        Index(None, "user_id"),
        Index(None, "room_type_id"),
        Index(None, "start_date"),
        Index(None, "end_date"),
        Index(None, "status"),
        Index(None, "created_at"),
        Index(None, "status", "start_date", "end_date"),
        Index(None, "user_id", "status", "created_at"),
        Index(None, "room_type_id", "start_date", "end_date"),
        Index(None, "start_date", "end_date", "room_type_id", "status"),
    )

    id: Mapped[Key]
    user_id: Mapped[UserKey]
    room_type_id: Mapped[RoomTypeKey]
    start_date: Mapped[dt.date]
    end_date: Mapped[dt.date]
    rooms: Mapped[int]
    guests: Mapped[int]
    status: Mapped[Text] = mapped_column(server_default="pending")
    total_amount: Mapped[Money]
    created_at: Mapped[Stamp]
    updated_at: Mapped[Stamp]


class Payment(Base):
    """One attempt to pay a deposit or a balance, in the house's one currency."""

    __tablename__ = "payments"
    __table_args__ = (
        _choice("kind", "deposit", "balance"),
        _choice("method", "card", "transfer", "cash"),
        _choice("status", "pending", "succeeded", "failed", "refunded"),
        CheckConstraint("amount > 0", name="amount"),
        Index(None, "booking_id"),
        Index(None, "user_id"),
        Index(None, "status"),
        Index(None, "created_at"),
        Index(None, "status", "created_at"),
        Index(None, "user_id", "status"),
    )

    id: Mapped[Key]
    booking_id: Mapped[BookingKey]
    user_id: Mapped[UserKey]
    kind: Mapped[Text]
    method: Mapped[Text]
    amount: Mapped[Money]
    status: Mapped[Text] = mapped_column(server_default="pending")
    created_at: Mapped[Stamp]


class Notification(Base):
    """A message to a user, to be sent when its time has come."""

    __tablename__ = "notifications"
    __table_args__ = (
        _choice("type", "booking_confirmation", "arrival_reminder", "cancellation"),
        _choice("channel", "email", "sms"),
        _choice("status", "pending", "sent", "failed"),
        CheckConstraint("(status = 'sent') = (sent_at IS NOT NULL)", name="sent_at"),
        Index(None, "user_id"),
        Index(None, "status"),
        Index(None, "scheduled_at"),
        Index(None, "status", "scheduled_at"),
        Index(None, "user_id", "type", "status"),
    )

    id: Mapped[Key]
    user_id: Mapped[UserKey]
    type: Mapped[Text]
    channel: Mapped[Text]
    status: Mapped[Text] = mapped_column(server_default="pending")
    message: Mapped[Text]
    scheduled_at: Mapped[Moment]
    sent_at: Mapped[Moment | None]
    created_at: Mapped[Stamp]


class Waitlist(Base):
    """A guest who would like a room type that was sold out."""

    __tablename__ = "waitlist"
    __table_args__ = (
        _choice("status", "waiting", "offered", "converted", "expired"),
        CheckConstraint("start_date < end_date", name="stay"),
        CheckConstraint("rooms > 0", name="rooms"),
        Index(None, "status", "start_date", "end_date"),
        Index(None, "room_type_id", "status", "created_at"),
    )

    id: Mapped[Key]
    user_id: Mapped[UserKey]
    room_type_id: Mapped[RoomTypeKey]
    start_date: Mapped[dt.date]
    end_date: Mapped[dt.date]
    rooms: Mapped[int]
    status: Mapped[Text] = mapped_column(server_default="waiting")
    created_at: Mapped[Stamp]


class BookingRule(Base):
    """How long and how far ahead a room type may be booked during a season; no room type means all of them."""

    __tablename__ = "booking_rules"
    __table_args__ = (
        CheckConstraint("start_date < end_date", name="season"),
        CheckConstraint("min_nights BETWEEN 1 AND max_nights", name="nights"),
        CheckConstraint("max_days_ahead >= 0", name="max_days_ahead"),
    )

    id: Mapped[Key]
    room_type_id: Mapped[int | None] = mapped_column(ForeignKey("room_types.id"))
    name: Mapped[Text]
    start_date: Mapped[dt.date]
    end_date: Mapped[dt.date]
    min_nights: Mapped[int]
    max_nights: Mapped[int]
    max_days_ahead: Mapped[int]
    created_at: Mapped[Stamp]


class DepositPolicy(Base):
    """What share of the price is due at booking, and until when it is given back."""

    __tablename__ = "deposit_policies"
    __table_args__ = (
        UniqueConstraint("room_type_id"),
        CheckConstraint("percent BETWEEN 0 AND 100", name="percent"),
        CheckConstraint("refundable_until_days >= 0", name="refundable_until_days"),
    )

    id: Mapped[Key]
    room_type_id: Mapped[RoomTypeKey]
    percent: Mapped[int]
    refundable_until_days: Mapped[int]
    created_at: Mapped[Stamp]


class SpecialDay(Base):
    """Days on which the house asks another price."""

    __tablename__ = "special_days"
    __table_args__ = (
        CheckConstraint("start_date < end_date", name="days"),
        CheckConstraint("price_factor > 0", name="price_factor"),
    )

    id: Mapped[Key]
    name: Mapped[Text]
    start_date: Mapped[dt.date]
    end_date: Mapped[dt.date]
    price_factor: Mapped[Decimal] = mapped_column(Numeric(4, 2))
    created_at: Mapped[Stamp]
