"""The proving ground is never production, and what is dropped there is ours beyond doubt."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.errors import MaintenanceError
from include.proving.ground import Ground, GroundRefusedError, Production, clean, open_ground
from include.proving.marker import Found, Marker, copy_name, is_leftover, lock_number
from include.stack.ports import free_port
from include.stack.postgres import PostgresServer
from tests.backup.dump_world import run_sql
from tests.conftest import FAST
from tests.proving.conftest import NOBODY, copies_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.postgres.dsn import Dsn

NOW = datetime(2026, 5, 1, 4, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def maintenance(ground: Ground) -> Iterator[Dsn]:
    """Another maintenance database on the ground's server."""
    run_sql(ground.dsn, "CREATE DATABASE elsewhere TEMPLATE template0")
    yield ground.dsn.with_dbname("elsewhere")
    run_sql(ground.dsn, "DROP DATABASE elsewhere WITH (FORCE)")


def test_a_server_of_its_own_is_accepted(ground: Ground, ground17: PostgresServer, pg17: PostgresServer) -> None:
    others = Production({"7000000000000000001": "app"}, {("127.0.0.1", pg17.port): "app", ("db.example", 5432): "crm"})
    opened = open_ground(ground.dsn, others)
    assert opened == ground
    assert (opened.major, opened.version.split(".")[0]) == (17, "17")
    assert opened.role == opened.dsn.user


def test_production_is_refused_by_its_identifier_under_whatever_address(ground: Ground) -> None:
    production = Production({ground.system_identifier: "hotel"}, {})
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(GroundRefusedError, match="production database hotel") as raised:
            open_ground(replace(ground.dsn, host=host), production)
        assert not raised.value.transient
        assert "initdb" in raised.value.remedy


def test_production_is_refused_by_its_address_without_asking_it_anything(ground: Ground) -> None:
    port = free_port()  # nobody is there to be asked
    for configured, given in (("localhost", "127.0.0.1"), ("127.0.0.1", "localhost"), ("DB.example", "db.example")):
        production = Production({}, {(configured, port): "hotel"})
        with pytest.raises(GroundRefusedError, match="production database hotel"):
            open_ground(replace(ground.dsn, host=given, port=port), production)
    with pytest.raises(GroundRefusedError):
        open_ground(replace(ground.dsn, host="/run/pg"), Production({}, {("/run/pg", ground.dsn.port): "hotel"}))
    assert open_ground(ground.dsn, Production({}, {("localhost", port): "hotel"})) == ground, "another port"


def test_a_server_whose_identifier_cannot_be_read_is_refused(
    ground: Ground, maintenance: Dsn, ground17: PostgresServer
) -> None:
    run_sql(
        ground17.superuser(maintenance.dbname), "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC"
    )
    with pytest.raises(GroundRefusedError, match="cannot be shown that this server is not production") as raised:
        open_ground(maintenance, NOBODY)
    assert f'GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_system() TO "{ground.role}"' in raised.value.remedy


def test_a_standby_is_refused(ground17: PostgresServer) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        server = PostgresServer(Path(folder) / "server", bin_dir=ground17.bin_dir, settings=FAST)
        server.start(die_with_parent=True)
        try:
            server.stop()
            (data,) = {path.parent for path in server.home.glob("**/postgresql.conf")}
            (data / "standby.signal").touch()
            server.start(die_with_parent=True)
            with pytest.raises(GroundRefusedError, match="is a standby"):
                open_ground(server.superuser(), NOBODY)
        finally:
            server.kill()
            server.remove()


def test_a_role_that_may_not_create_databases_is_told_the_sql(ground: Ground, ground17: PostgresServer) -> None:
    run_sql(ground17.superuser(), f"ALTER ROLE {ground.role} NOCREATEDB")
    with pytest.raises(MaintenanceError, match="may not create databases") as raised:
        open_ground(ground.dsn, NOBODY)
    assert f'ALTER ROLE "{ground.role}" CREATEDB' in raised.value.remedy


def test_a_server_that_is_not_there_may_be_there_later(ground: Ground) -> None:
    with pytest.raises(MaintenanceError) as raised:
        open_ground(replace(ground.dsn, port=free_port()), NOBODY)
    assert raised.value.transient


def made(ground: Ground, *, comment: str | None, closed: bool = False) -> str:
    name = copy_name("app", NOW)
    run_sql(ground.dsn, f"CREATE DATABASE {name} TEMPLATE template0")
    if closed:
        run_sql(ground.dsn, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false CONNECTION LIMIT 0")
    if comment is not None:
        run_sql(ground.dsn, f"COMMENT ON DATABASE {name} IS '{comment}'")
    return name


def marker(keep_until: datetime | None = None) -> str:
    return Marker(backup="app/daily/x", created=NOW, keep_until=keep_until).model_dump_json()


def test_what_killed_runs_left_is_dropped_with_whoever_is_in_it(ground: Ground) -> None:
    left = [made(ground, comment=marker()), made(ground, comment=None, closed=True)]
    left.append(made(ground, comment=marker(keep_until=NOW)))
    with ground.dsn.with_dbname(left[0]).connect():
        assert set(clean(ground, now=NOW)) == set(left)
    assert copies_on(ground) == []
    assert clean(ground, now=NOW) == ()


def test_a_database_that_only_looks_like_a_copy_survives(
    ground: Ground, ground17: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = copy_name("app", NOW)
    ours = [
        made(ground, comment=None),
        made(ground, comment="somebody keeps this"),
        made(ground, comment='{"night_porter": "copy"}'),
        made(ground, comment=marker(keep_until=NOW + HOUR)),
        "np_of_somebody",
    ]
    run_sql(ground.dsn, "CREATE DATABASE np_of_somebody", f"COMMENT ON DATABASE np_of_somebody IS '{marker()}'")
    others = [name, "postgres"]
    run_sql(ground17.superuser(), f"CREATE DATABASE {name}", f"COMMENT ON DATABASE {name} IS '{marker()}'")
    try:
        assert clean(ground, now=NOW) == ()
        assert caplog.text == "", "nor was it tried"
        assert copies_on(ground) == sorted(ours)
        with ground.dsn.connect() as session:
            assert {row[0] for row in session.execute("SELECT datname FROM pg_database").fetchall()} >= {*others}
    finally:
        run_sql(ground17.superuser(), f"DROP DATABASE {name}")


def test_a_copy_whose_run_lives_survives_even_where_that_signed_in_to_another_database(
    ground: Ground, maintenance: Dsn
) -> None:
    name = made(ground, comment=marker())
    for database in (ground.dsn, maintenance):
        with database.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(%s)", [lock_number(name)])
            assert clean(ground, now=NOW + 99 * HOUR) == ()
    assert clean(ground, now=NOW) == (name,)


def test_a_leftover_that_cannot_be_dropped_does_not_stop_the_others(
    ground: Ground, ground17: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    names = sorted([made(ground, comment=marker()), made(ground, comment=marker())])
    with ground17.superuser(names[0]).connect():  # no session of ours, so not to be ended by us
        assert clean(ground, now=NOW) == (names[1],)
    assert names[0] in caplog.text
    assert clean(ground, now=NOW) == (names[0],)


def test_a_copys_name_is_short_enough_plain_and_new_each_time() -> None:
    for database in ("hotel", "a", "x" * 63, "my-shop_2"):
        names = {copy_name(database, NOW) for _ in range(200)}
        assert len(names) == 200
        for name in names:
            assert len(name.encode()) <= 63
            assert name.replace("_", "").isalnum()
            assert name == name.lower()
            assert is_leftover(Found(name=name, comment=marker(), shell=False, locked=False), NOW)
    assert copy_name("my-shop", NOW).startswith("np_my_shop_20260501t040000z_")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"locked": True}, False),
        ({"name": "hotel"}, False),
        ({"name": "np_app_20260501t040000z_0123456"}, False),
        ({"name": "np_app_20260501t040000z_01234567x"}, False),
        ({"comment": None}, False),
        ({"comment": None, "shell": True}, True),
        ({"comment": None, "shell": True, "locked": True}, False),
        ({"comment": "mine", "shell": True}, False),
        ({"comment": '{"backup": "b", "created": "2026-05-01T04:00:00Z", "surplus": 1}'}, False),
        (
            {"comment": '{"backup": "b", "created": "2026-05-01T04:00:00Z", "keep_until": "2026-05-01T04:00:01Z"}'},
            False,
        ),
    ],
)
def test_a_leftover_is_told_by_everything_together(change: dict[str, object], expected: bool) -> None:
    found = Found(name="np_app_20260501t040000z_01234567", comment=marker(), shell=False, locked=False)
    assert is_leftover(replace(found, **change), NOW) is expected  # type: ignore[arg-type]  # fields by name
