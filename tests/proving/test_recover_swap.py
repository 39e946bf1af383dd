"""A swap changes both names at once or neither, however busy the live database is."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from include.proving import recover_swap
from include.proving.recover_swap import SwapFailedError, swap
from include.proving.recover_words import go_back_sql
from tests.backup.dump_world import run_sql, soon
from tests.proving.recover_world import ask, names, porter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase


@pytest.fixture
def pair(pg17: PostgresServer, fresh_database: FreshDatabase) -> Iterator[tuple[Dsn, Dsn, str]]:
    """A live database, a role with the rights of its owner and a restored database of that role's."""
    live = fresh_database(pg17)
    role = porter(pg17, live.user)
    restored = f"{live.dbname}_restored"
    with role.connect() as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(restored)))
    for name in (live.dbname, restored):
        with pg17.superuser(name).connect() as session:
            session.execute("CREATE TABLE public.which AS SELECT %s::text AS name", (name,))
            session.execute("GRANT SELECT ON public.which TO PUBLIC")
    yield live, role, restored
    run_sql(
        pg17.superuser(),
        *(
            f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'
            for name in (live.dbname, restored, f"{live.dbname}_before")
        ),
        f'DROP OWNED BY "{role.user}"',
        f'DROP ROLE "{role.user}"',
    )


def swapped(role: Dsn, live: str, restored: str) -> None:
    swap(role, live=live, old_name=f"{live}_before", restored=restored, database="app")


class Client(threading.Thread):
    """An application that signs in again whenever it is thrown out."""

    def __init__(self, dsn: Dsn) -> None:
        super().__init__()
        self.dsn = dsn
        self.seen: list[tuple[float, str]] = []
        self.enough = threading.Event()

    def run(self) -> None:
        while not self.enough.is_set():
            try:
                with self.dsn.connect() as session:
                    while not self.enough.is_set():
                        row = session.execute("SELECT name FROM public.which").fetchone()
                        self.seen.append((time.monotonic(), row[0] if row else ""))
            except psycopg.OperationalError:
                self.seen.append((time.monotonic(), "thrown out"))

    def saw(self, what: str) -> bool:
        return any(name == what for _, name in self.seen)


def test_five_busy_clients_end_up_on_the_restored_database_within_a_second(pair: tuple[Dsn, Dsn, str]) -> None:
    live, role, restored = pair
    clients = [Client(live) for _ in range(5)]
    for client in clients:
        client.start()
    try:
        assert soon(lambda: all(client.saw(live.dbname) for client in clients), seconds=20)
        started = time.monotonic()
        swapped(role, live.dbname, restored)
        took = time.monotonic() - started
        assert soon(lambda: all(client.saw(restored) for client in clients), seconds=20)
    finally:
        for client in clients:
            client.enough.set()
            client.join()
    for client in clients:
        last_old = max(at for at, name in client.seen if name == live.dbname)
        first_new = min(at for at, name in client.seen if name == restored)
        assert first_new - last_old < 1.5
        assert last_old < started + took
    assert ask(replace(role, dbname=f"{live.dbname}_before"), "SELECT name FROM public.which") == live.dbname


def test_whoever_looks_at_the_restored_database_already_does_not_stop_the_swap(pair: tuple[Dsn, Dsn, str]) -> None:
    live, role, restored = pair
    with replace(live, dbname=restored).connect():
        swapped(role, live.dbname, restored)
    assert ask(live, "SELECT name FROM public.which") == restored


def test_the_way_back_that_is_told_leads_back(pg17: PostgresServer, pair: tuple[Dsn, Dsn, str]) -> None:
    live, role, restored = pair
    before = names(pg17)
    swapped(role, live.dbname, restored)
    with live.connect():
        run_sql(role, *go_back_sql(live.dbname, old_name=f"{live.dbname}_before", set_aside=restored))
    assert names(pg17) == before
    assert ask(live, "SELECT name FROM public.which") == live.dbname
    assert ask(replace(role, dbname=restored), "SELECT name FROM public.which") == restored


def test_a_session_that_may_not_be_ended_leaves_both_names_and_is_named(
    pg17: PostgresServer, pair: tuple[Dsn, Dsn, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, role, restored = pair
    before = names(pg17)
    monkeypatch.setattr(recover_swap, "ATTEMPTS", 1)
    with pg17.superuser(live.dbname).connect() as stubborn:
        pid = stubborn.info.backend_pid
        with pytest.raises(SwapFailedError) as failure:
            swapped(role, live.dbname, restored)
    assert f"process {pid} of role postgres" in failure.value.what
    assert f"complete and compared, as '{restored}'" in failure.value.untouched
    assert names(pg17) == before
    assert ask(live, "SELECT name FROM public.which") == live.dbname


def test_where_the_second_rename_fails_the_first_is_undone(
    pg17: PostgresServer, pair: tuple[Dsn, Dsn, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, role, restored = pair
    before = names(pg17)
    monkeypatch.setattr(recover_swap, "ATTEMPTS", 1)
    with pg17.superuser(restored).connect(), pytest.raises(SwapFailedError, match=f'"{restored}" is being accessed'):
        swapped(role, live.dbname, restored)
    assert names(pg17) == before
    assert ask(live, "SELECT name FROM public.which") == live.dbname


def test_a_prepared_transaction_stops_the_swap_cleanly_and_is_told(
    pg17: PostgresServer, pair: tuple[Dsn, Dsn, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, role, restored = pair
    before = names(pg17)
    monkeypatch.setattr(recover_swap, "ATTEMPTS", 1)
    run_sql(live, "BEGIN", "CREATE TABLE pending ()", "PREPARE TRANSACTION 'pending'")
    with pytest.raises(SwapFailedError, match="1 prepared transaction"):
        swapped(role, live.dbname, restored)
    assert names(pg17) == before
    run_sql(live, "ROLLBACK PREPARED 'pending'")
    swapped(role, live.dbname, restored)
    assert ask(live, "SELECT name FROM public.which") == restored


def test_no_session_is_ended_while_the_rename_has_not_even_its_lock(
    pg17: PostgresServer, pair: tuple[Dsn, Dsn, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live, role, restored = pair
    monkeypatch.setattr(recover_swap, "ATTEMPTS", 1)
    monkeypatch.setattr(recover_swap, "_SETTINGS", ("SET lock_timeout = '500ms'",))
    with live.connect() as application, pg17.superuser().connect(autocommit=False) as other:
        other.execute(sql.SQL("COMMENT ON DATABASE {} IS 'locked'").format(sql.Identifier(live.dbname)))
        with pytest.raises(SwapFailedError, match="lock timeout"):
            swapped(role, live.dbname, restored)
        assert application.execute("SELECT name FROM public.which").fetchone() == (live.dbname,)


def test_a_second_attempt_succeeds_where_the_first_came_too_early(
    pg17: PostgresServer, pair: tuple[Dsn, Dsn, str]
) -> None:
    live, role, restored = pair
    stubborn = pg17.superuser(live.dbname).connect()
    attempts = []
    original = recover_swap._rename_both

    def watched(*arguments: object, **names: str) -> None:
        attempts.append(1)
        if len(attempts) == 2:
            stubborn.close()
        original(*arguments, **names)  # type: ignore[arg-type]  # handed on as it came

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover_swap, "_rename_both", watched)
        swapped(role, live.dbname, restored)
    assert len(attempts) == 2
    assert ask(live, "SELECT name FROM public.which") == restored


def test_a_commit_whose_answer_is_lost_is_still_known_to_have_happened(pair: tuple[Dsn, Dsn, str]) -> None:
    live, role, restored = pair
    original = recover_swap._rename_both

    def cut(*arguments: object, **names: str) -> None:
        original(*arguments, **names)  # type: ignore[arg-type]  # handed on as it came
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recover_swap, "_rename_both", cut)
        swapped(role, live.dbname, restored)
    assert ask(live, "SELECT name FROM public.which") == restored
