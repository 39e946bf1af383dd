"""A database's address can be shown to anyone: its password is nowhere in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.postgres.dsn import Dsn

if TYPE_CHECKING:
    from include.stack.postgres import PostgresServer

DSN = Dsn(
    host="db.example", port=5433, dbname="hotel", user="porter", password="s3cret", options={"sslmode": "require"}
)


def test_no_form_of_it_shows_the_password() -> None:
    for shown in (repr(DSN), str(DSN), repr(DSN.parameters()), repr(DSN.with_dbname("other"))):
        assert "s3cret" not in shown


def test_its_short_form_names_role_server_and_database() -> None:
    assert str(DSN) == "porter@db.example:5433/hotel"


def test_its_options_stand_over_the_defaults_but_never_over_the_address() -> None:
    shown = DSN.parameters()
    assert (shown["host"], shown["port"], shown["dbname"], shown["user"]) == ("db.example", "5433", "hotel", "porter")
    assert (shown["sslmode"], shown["application_name"], shown["connect_timeout"]) == ("require", "night-porter", "10")
    stubborn = Dsn(host="a", port=1, dbname="b", user="c", options={"connect_timeout": "3", "host": "x", "dbname": "y"})
    assert stubborn.parameters()["connect_timeout"] == "3"
    assert (stubborn.parameters()["host"], stubborn.parameters()["dbname"]) == ("a", "b")


def test_another_database_on_the_same_server_keeps_everything_else() -> None:
    other = DSN.with_dbname("other")
    assert (other.dbname, other.host, other.password, other.options) == ("other", "db.example", "s3cret", DSN.options)


def test_a_session_is_known_by_its_name_on_the_server(pg17: PostgresServer) -> None:
    with pg17.superuser().connect() as session:
        assert session.execute("SHOW application_name").fetchone() == ("night-porter",)
        assert session.autocommit
