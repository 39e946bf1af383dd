"""What is missing is named at once; what goes wrong is put down to the backup only where it is the backup's fault."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from include.backup.model import DatabaseLocale
from include.errors import MaintenanceError
from include.postgres import tools as client
from include.proving import archive_run
from include.proving.copies import empty_database
from include.proving.fetch import fetch
from include.proving.requirements import MissingRequirementsError, require, requirements
from include.proving.restore import (
    RestoreFailedError,
    create_database,
    restore_into,
    tools_for,
)
from tests.backup.dump_world import dump, options, run_sql
from tests.proving.conftest import copies_on, mounted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.backup.model import Manifest
    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.proving.ground import Ground
    from include.stack.postgres import PostgresServer
    from tests.proving.conftest import ReadyFor

UTF8 = DatabaseLocale(encoding="UTF8", provider="libc", collate="C", ctype="C", locale=None)


@pytest.fixture
def backup(source: Dsn, folder_store: LocalStore) -> Manifest:
    return dump(source, folder_store)


def missing(ground: Ground, manifest: Manifest, **changes: object) -> dict[str, str]:
    with ground.dsn.connect() as session:
        return {item.what: item.remedy for item in requirements(session, manifest.model_copy(update=changes))}


def test_a_ground_that_has_everything_lacks_nothing(ground: Ground, ready_for: ReadyFor, backup: Manifest) -> None:
    ready_for(backup)
    assert missing(ground, backup) == {}


def test_everything_that_is_missing_is_named_at_once_with_what_mends_it(
    ground: Ground, backup: Manifest, source: Dsn
) -> None:
    unhappy = backup.model_copy(
        update={
            "roles": ("pg_monitor", 'a "reader"', source.user),
            "owners": (source.user,),
            "extensions": {"plpgsql": "1.0", "hstore": "1.8", "nowhere": "2.0", "pg_stat_statements": "1.11"},
            "locale": replace_locale(collate="xx_XX.utf8"),
            "server": backup.server.model_copy(update={"major": 99}),
        }
    )
    with ground.dsn.connect() as session, pytest.raises(MissingRequirementsError) as raised:
        require(session, unhappy)
    told, remedy = raised.value.what, raised.value.remedy
    for part in (
        "lacks 6 thing(s)",
        "PostgreSQL 99 or later",
        'role "a ""reader"""',
        f'role "{source.user}"',
        "extension nowhere (the source had 2.0)",
        "create extension pg_stat_statements",
        "locale xx_XX.utf8",
    ):
        assert part in told
    assert "hstore" not in told
    assert 'CREATE ROLE "a ""reader""" NOLOGIN;' in remedy
    assert f'CREATE ROLE "{source.user}" NOLOGIN; GRANT "{source.user}" TO "{ground.role}";' in remedy
    assert 'GRANT "a ""' not in remedy, "who only holds privileges need not be played by us"
    assert copies_on(ground) == []


def replace_locale(**changes: object) -> DatabaseLocale:
    return UTF8.model_copy(update=changes)


def test_an_owner_that_the_role_cannot_become_is_named(
    ground: Ground, backup: Manifest, source: Dsn, ground17: PostgresServer
) -> None:
    run_sql(ground17.superuser(), f"CREATE ROLE {source.user}")
    try:
        for grant in (None, "WITH SET FALSE", "WITH INHERIT FALSE"):
            if grant:
                run_sql(ground17.superuser(), f"GRANT {source.user} TO {ground.role} {grant}")
            assert missing(ground, backup) == {
                f'membership of {ground.role} in role "{source.user}", which owns objects': (
                    f'GRANT "{source.user}" TO "{ground.role}";'
                )
            }
            run_sql(ground17.superuser(), f"REVOKE {source.user} FROM {ground.role}")
        run_sql(ground17.superuser(), f"GRANT {source.user} TO {ground.role}")
        assert missing(ground, backup) == {}
    finally:
        run_sql(ground17.superuser(), f"DROP ROLE {source.user}")


def test_what_the_remedy_says_is_enough(ground: Ground, backup: Manifest, ground17: PostgresServer) -> None:
    statements = " ".join(missing(ground, backup).values()).split(";")
    run_sql(ground17.superuser(), *[statement for statement in statements if statement.strip()])
    try:
        assert missing(ground, backup) == {}
    finally:
        run_sql(ground17.superuser(), *[f"DROP ROLE {role}" for role in backup.owners])


@pytest.mark.parametrize(
    ("locale", "unknown"),
    [
        (UTF8, []),
        (replace_locale(collate="C.UTF-8", ctype="C.UTF-8"), []),
        (replace_locale(provider="builtin", locale="C.UTF-8"), []),
        (replace_locale(collate="xx_XX.utf8", ctype="yy_YY.utf8"), ["xx_XX.utf8", "yy_YY.utf8"]),
        (replace_locale(provider="builtin", locale="X"), ["X (builtin)"]),
        (replace_locale(provider="icu", locale="de-DE"), ["de-DE (icu)"]),  # this server was built without
        (None, []),
    ],
)
def test_a_locale_that_the_server_does_not_know_is_named_and_one_that_it_knows_is_taken(
    ground: Ground, ready_for: ReadyFor, backup: Manifest, locale: DatabaseLocale | None, unknown: list[str]
) -> None:
    ready_for(backup)
    manifest = backup.model_copy(update={"locale": locale})
    assert [what.split(" (")[0].removeprefix("locale ") for what in missing(ground, manifest)] == [
        name.split(" (")[0] for name in unknown
    ]
    if not unknown:
        wanted = locale or UTF8
        with empty_database(ground.dsn, manifest) as dsn, dsn.connect() as session:
            assert session.execute(
                "SELECT pg_encoding_to_char(encoding), datlocprovider, datcollate, datctype, datlocale "
                "FROM pg_database WHERE datname = current_database()"
            ).fetchone() == (
                wanted.encoding,
                wanted.provider[0].replace("l", "c"),
                wanted.collate,
                wanted.ctype,
                wanted.locale,
            )


def test_client_tools_that_are_missing_are_told(backup: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.postgres.tools.installed", lambda: ())
    with pytest.raises(MaintenanceError, match="none installed"):
        tools_for(17, backup)


def test_tools_of_the_archives_version_do_where_there_are_none_of_the_servers(backup: Manifest) -> None:
    assert tools_for(99, backup).major == 17
    assert tools_for(15, backup).major == 17


def test_a_name_that_is_taken_is_left_as_it_is(ground: Ground, backup: Manifest) -> None:
    run_sql(ground.dsn, "CREATE DATABASE np_taken", "COMMENT ON DATABASE np_taken IS 'mine'")
    with ground.dsn.connect() as session, pytest.raises(MaintenanceError, match="already exists"):
        create_database(session, "np_taken", backup, comment="ours")
    with ground.dsn.with_dbname("np_taken").connect() as session:
        assert session.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'np_taken'"
        ).fetchone() == ("mine",)


# What is in an archive and cannot be made a database again.


def test_rows_that_break_the_schemas_own_rules_are_the_backups_fault(
    source: Dsn, pg17: PostgresServer, ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, tmp_path: Path
) -> None:
    # A superuser can put orphans past a foreign key that calls itself valid.
    run_sql(
        replace(pg17.superuser(source.dbname), options={"options": "-c session_replication_role=replica"}),
        "INSERT INTO desk.stay VALUES (999999, 999999, 1)",
    )
    manifest = dump(source, folder_store)
    ready_for(manifest)
    archive = fetch(folder_store, manifest, tmp_path, identity=None)
    with (
        empty_database(ground.dsn, manifest) as dsn,
        pytest.raises(RestoreFailedError, match="violates foreign key constraint") as raised,
    ):
        restore_into(dsn, archive, manifest)
    assert not raised.value.transient
    assert "new backup" in raised.value.remedy


@pytest.mark.parametrize("compression", ["zstd:1", "gzip:1", "none"])
@pytest.mark.parametrize("place", [0.001, 0.5, 0.9])
def test_an_archive_that_cannot_be_decoded_is_the_backups_fault(
    source: Dsn,
    ground: Ground,
    ready_for: ReadyFor,
    folder_store: LocalStore,
    tmp_path: Path,
    compression: str,
    place: float,
) -> None:
    manifest = dump(source, folder_store, options(compression))
    ready_for(manifest)
    archive = fetch(folder_store, manifest, tmp_path, identity=None)
    os.truncate(archive, int(archive.stat().st_size * place))
    with empty_database(ground.dsn, manifest) as dsn, pytest.raises(RestoreFailedError):
        restore_into(dsn, archive, manifest)


# What says nothing about the backup.


@pytest.fixture
def fetched(backup: Manifest, ready_for: ReadyFor, folder_store: LocalStore, tmp_path: Path) -> Path:
    ready_for(backup)
    return fetch(folder_store, backup, tmp_path, identity=None)


def at(step: str, act: Callable[[], object]) -> Callable[[str, int, int], None]:
    done: list[str] = []

    def progress(what: str, _done: int, _total: int) -> None:
        if what == step and not done:
            done.append(what)
            act()

    return progress


def pg_restores(dsn: Dsn) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.name() == "pg_restore" and dsn.dbname in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def innocent(raised: pytest.ExceptionInfo[MaintenanceError], *, transient: bool) -> None:
    assert not isinstance(raised.value, RestoreFailedError)
    assert raised.value.transient is transient
    assert raised.value.untouched.startswith("the backup")


@pytest.fixture
def halted(
    source: Dsn, ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, tmp_path: Path
) -> Callable[[Callable[[Dsn, int], object]], None]:
    """Restores a backup of which one index waits for ever, and does something meanwhile."""
    run_sql(
        source,
        "CREATE FUNCTION wait(int) RETURNS int IMMUTABLE LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_advisory_lock_shared(4711); RETURN $1; END'",
        "CREATE INDEX ON desk.stay (wait(nights))",
    )
    manifest = dump(source, folder_store)
    ready_for(manifest)
    archive = fetch(folder_store, manifest, tmp_path, identity=None)

    def restore(act: Callable[[Dsn, int], object]) -> None:
        with empty_database(ground.dsn, manifest) as dsn, dsn.connect() as holder:
            holder.execute("SELECT pg_advisory_lock(4711)")
            restore_into(dsn, archive, manifest, progress=at("tables", lambda: act(dsn, holder.info.backend_pid)))

    return restore


def test_a_server_that_is_killed_says_nothing_about_the_backup(
    halted: Callable[[Callable[[Dsn, int], object]], None], ground17: PostgresServer
) -> None:
    try:
        with pytest.raises(MaintenanceError) as raised:
            halted(lambda _dsn, _holder: ground17.kill())
        innocent(raised, transient=True)
    finally:
        ground17.start(die_with_parent=True)


def test_a_session_that_an_operator_ends_says_nothing_about_the_backup(
    halted: Callable[[Callable[[Dsn, int], object]], None], ground17: PostgresServer
) -> None:
    def end(dsn: Dsn, holder: int) -> None:
        run_sql(
            ground17.superuser(),
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = '{dsn.dbname}' AND pid <> {holder}",
        )

    with pytest.raises(MaintenanceError) as raised:
        halted(end)
    innocent(raised, transient=True)


def test_a_pg_restore_that_is_killed_says_nothing_about_the_backup(
    halted: Callable[[Callable[[Dsn, int], object]], None],
) -> None:
    for which in (min, max):  # the one that gives out the work, then one of its workers

        def kill(dsn: Dsn, _holder: int, which: Callable[[list[int]], int] = which) -> None:
            os.kill(which(pg_restores(dsn)), signal.SIGKILL)

        with pytest.raises(MaintenanceError) as raised:
            halted(kill)
        innocent(raised, transient=True)


def test_a_right_that_the_role_lacks_says_nothing_about_the_backup(
    ground: Ground, fetched: Path, backup: Manifest, ground17: PostgresServer, source: Dsn
) -> None:
    with empty_database(ground.dsn, backup) as dsn:
        run_sql(ground17.superuser(), f"REVOKE {source.user} FROM {ground.role}")
        with pytest.raises(MaintenanceError, match="SET ROLE") as raised:
            restore_into(dsn, fetched, backup)
    innocent(raised, transient=False)


def test_a_full_disk_of_the_server_says_nothing_about_the_backup(
    ground: Ground, ground17: PostgresServer, ready_for: ReadyFor, source: Dsn, folder_store: LocalStore, tmp_path: Path
) -> None:
    run_sql(source, "CREATE TABLE wide AS SELECT i, repeat(md5(i::text), 50) FROM generate_series(1, 20000) i")
    run_sql(source, "ALTER TABLE wide ALTER repeat SET STORAGE EXTERNAL")
    manifest = dump(source, folder_store)
    ready_for(manifest)
    archive = fetch(folder_store, manifest, tmp_path, identity=None)
    (data,) = {path.parent for path in ground17.home.glob("**/postgresql.conf")}
    small = data.parent / "small"
    small.mkdir()
    with mounted(small, "16m"):
        shutil.chown(small, data.owner(), data.group())
        run_sql(ground17.superuser(), f"CREATE TABLESPACE small OWNER {ground.role} LOCATION '{small}'")
        try:
            with empty_database(ground.dsn, manifest) as dsn:
                run_sql(ground.dsn, f"ALTER DATABASE {dsn.dbname} SET TABLESPACE small")
                with pytest.raises(MaintenanceError) as raised:
                    restore_into(dsn, archive, manifest)
            innocent(raised, transient=False)
            assert "No space left on device" in raised.value.what
        finally:
            run_sql(ground17.superuser(), "DROP TABLESPACE small")
    small.rmdir()


def test_progress_that_raises_stops_the_restore(ground: Ground, fetched: Path, backup: Manifest) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with empty_database(ground.dsn, backup) as dsn, pytest.raises(KeyboardInterrupt):
        restore_into(dsn, fetched, backup, progress=at("tables", stop))


@pytest.mark.parametrize("jobs", [1, 2])
def test_progress_is_told_in_tables_and_indexes(ground: Ground, fetched: Path, backup: Manifest, jobs: int) -> None:
    told: list[tuple[str, int, int]] = []
    with empty_database(ground.dsn, backup) as dsn:
        restore_into(dsn, fetched, backup, jobs=jobs, progress=lambda *step: told.append(step))
    assert [step for step in told if step[0] == "tables"] == [("tables", 1, 2), ("tables", 2, 2)]
    assert [step for step in told if step[0] == "indexes"] == [("indexes", n, 4) for n in (1, 2, 3, 4)]


def test_a_schema_alone_has_no_rows(ground: Ground, fetched: Path, backup: Manifest) -> None:
    with empty_database(ground.dsn, backup) as dsn:
        restore_into(dsn, fetched, backup, schema_only=True)
        with dsn.connect() as session:
            assert session.execute("SELECT count(*) FROM guest").fetchone() == (0,)


def test_a_superuser_restores_too(ground17: PostgresServer, fetched: Path, backup: Manifest, source: Dsn) -> None:
    with empty_database(ground17.superuser(), backup) as dsn:
        restore_into(dsn, fetched, backup)
        with dsn.connect() as session:
            assert session.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'stay'").fetchone() == (
                source.user,
            )


def test_a_manifest_of_the_first_version_which_names_no_owners_restores_too(
    ground: Ground, fetched: Path, backup: Manifest
) -> None:
    old = backup.model_copy(update={"owners": (), "locale": None})
    with empty_database(ground.dsn, old) as dsn:
        restore_into(dsn, fetched, old)


def test_tables_of_several_owners_in_one_schema_and_privileges_come_back_as_they_were(
    source: Dsn, pg17: PostgresServer, ground: Ground, ready_for: ReadyFor, folder_store: LocalStore, tmp_path: Path
) -> None:
    # An empty acl and the usual one, written out, mean the same.
    acl = (
        "SELECT nspname, nspowner::regrole::text, coalesce(nspacl, acldefault('n', nspowner))::text "
        "FROM pg_namespace WHERE nspname IN ('public', 'desk', 'closed')"
    )
    tables = (
        "SELECT relname, relowner::regrole::text, relacl::text FROM pg_class WHERE relname IN ('one', 'two', 'stay')"
    )
    owner = f"other_{source.user}"
    superuser = pg17.superuser(source.dbname)
    run_sql(
        superuser,
        f"CREATE ROLE {owner}",
        f"GRANT CREATE ON SCHEMA public TO {source.user}",
        "CREATE SCHEMA closed",
        "CREATE TABLE one (a int)",
        f"ALTER TABLE one OWNER TO {owner}",
        "CREATE TABLE closed.two (a int)",
        f"ALTER TABLE closed.two OWNER TO {owner}",
        f"ALTER SCHEMA closed OWNER TO {source.user}",
        f"GRANT SELECT ON one TO {source.user} WITH GRANT OPTION",
        f"REVOKE INSERT ON closed.two FROM {owner}",
    )
    try:
        manifest = dump(superuser, folder_store)
        ready_for(manifest)
        archive = fetch(folder_store, manifest, tmp_path, identity=None)
        with empty_database(ground.dsn, manifest) as dsn:
            restore_into(dsn, archive, manifest)
            for query in (acl, tables):
                with dsn.connect() as copy, superuser.connect() as original:
                    assert set(copy.execute(query.encode()).fetchall()) == set(
                        original.execute(query.encode()).fetchall()
                    )
    finally:
        run_sql(superuser, f"DROP OWNED BY {owner}", f"DROP ROLE {owner}")


def restored_by_a_later_version(
    pg15: PostgresServer, folder_store: LocalStore, tmp_path: Path, *statements: str
) -> tuple[PostgresServer, Manifest, Path]:
    """A backup of a PostgreSQL 15 that only the tools of a later version could compress, and so can restore."""
    run_sql(pg15.superuser(), "DROP DATABASE IF EXISTS later WITH (FORCE)", "CREATE DATABASE later")
    run_sql(pg15.superuser("later"), "CREATE TABLE t AS SELECT i FROM generate_series(1, 99) i", *statements)
    manifest = dump(pg15.superuser("later"), folder_store)
    assert manifest.tools["pg_dump"] >= "17"
    return pg15, manifest, fetch(folder_store, manifest, tmp_path, identity=None)


@pytest.mark.parametrize("jobs", [1, 2])
def test_tools_of_17_restore_into_an_older_server(
    pg15: PostgresServer, folder_store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, jobs: int
) -> None:
    server, manifest, archive = restored_by_a_later_version(
        pg15, folder_store, tmp_path, "CREATE INDEX ON t (i)", "CREATE TABLE u AS SELECT 1 AS a"
    )
    with empty_database(server.superuser(), manifest) as dsn:
        restore_into(dsn, archive, manifest, jobs=jobs)
        with dsn.connect() as session:
            assert session.execute("SELECT count(*), (SELECT a FROM u) FROM t").fetchone() == (99, 1)
    assert caplog.text == ""


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_other_error_ends_a_restore_into_an_older_server_too(
    pg15: PostgresServer, folder_store: LocalStore, tmp_path: Path, jobs: int
) -> None:
    server, manifest, archive = restored_by_a_later_version(
        pg15,
        folder_store,
        tmp_path,
        "CREATE TABLE parent (a int PRIMARY KEY)",
        "CREATE TABLE child (a int REFERENCES parent)",
        "SET session_replication_role = replica",
        "INSERT INTO child VALUES (1)",
    )
    with (
        empty_database(server.superuser(), manifest) as dsn,
        pytest.raises(RestoreFailedError, match="violates foreign key constraint"),
    ):
        restore_into(dsn, archive, manifest, jobs=jobs)


def test_warnings_of_a_successful_restore_are_logged(
    ground: Ground, fetched: Path, backup: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A pg_restore that says what the real one says, and complains once.
    (real,) = (tools for tools in client.installed() if tools.major == 17)
    program = tmp_path / "pg_restore"
    program.write_text(f'#!/bin/sh\n{real.path("pg_restore")} "$@" && echo "pg_restore: warning: a little thing" >&2\n')
    program.chmod(0o755)
    tools = client.ClientTools(tmp_path, real.version, real.major)
    contents = archive_run.contents(tools, fetched)
    assert isinstance(contents, archive_run.Contents)
    with empty_database(ground.dsn, backup) as dsn:
        assert (
            archive_run.run(
                tools,
                fetched,
                dsn,
                arguments=["--no-owner"],
                jobs=2,
                only=None,
                forgiving=False,
                total=contents,
                progress=lambda *_: None,
            )
            is None
        )
    assert "a little thing" in caplog.text
    assert "finished item" not in caplog.text


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ('could not execute query: ERROR:  relation "x" already exists', "archive"),
        ('COPY failed for table "t": ERROR:  invalid input syntax for type integer: "x"', "archive"),
        ("could not read from input file: end of file", "archive"),
        ("could not uncompress data: (null)", "archive"),
        ("input file does not appear to be a valid archive", "archive"),
        ("could not execute query: server closed the connection unexpectedly", "interrupted"),
        ('connection to server at "h" (::1), port 5432 failed: Connection refused', "interrupted"),
        ("could not execute query: ERROR:  canceling statement due to user request", "interrupted"),
        ("a worker process died unexpectedly", "interrupted"),
        ("pg_restore was killed by signal 9", "interrupted"),
        ('could not execute query: ERROR:  could not extend file "base/1/2": x', "server"),
        ("could not execute query: ERROR:  out of memory", "server"),
        ("could not execute query: ERROR:  permission denied for schema public", "server"),
        ('could not execute query: ERROR:  must be able to SET ROLE "x"', "server"),
        ('could not execute query: ERROR:  role "x" does not exist', "server"),
        (
            "from TOC entry 2; 3079 16385 EXTENSION cron (no owner)\n"
            "could not execute query: ERROR:  it can only be created in database postgres",
            "server",
        ),
        # A server that speaks another language cannot be judged by its words.
        ("could not execute query: FEHLER:  Relation »x« existiert bereits", "server"),
    ],
)
def test_a_failure_is_put_down_to_the_archive_only_where_nothing_else_explains_it(said: str, fault: str) -> None:
    assert archive_run.judge(said.splitlines()) == fault


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('CONTEXT:  COPY guests, line 7, column email: "a@b.c"', "CONTEXT:  COPY guests, line 7, column email"),
        ('CONTEXT:  COPY guests, line 7: "1,a@b.c"', "CONTEXT:  COPY guests, line 7"),
        ("DETAIL:  Key (email)=(a@b.c) is duplicated.", "DETAIL:  Key (email)=(…)"),
        ("DETAIL:  Failing row contains (1, a@b.c).", "DETAIL:  Failing row contains (…)"),
        ('ERROR:  invalid input syntax for type integer: "a@b.c"', "ERROR:  invalid input syntax for type integer"),
        ("ERROR:  could not create unique index", "ERROR:  could not create unique index"),
    ],
)
def test_what_stands_in_a_row_is_not_told(said: str, shown: str) -> None:
    assert archive_run.without_values(said) == shown
