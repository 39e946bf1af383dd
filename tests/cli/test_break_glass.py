"""The worst night: Airflow cannot even be imported, nothing is configured; a store's address and a server will do."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pyrage import x25519

from include.backup.catalog import read_catalog
from include.backup.stores.s3 import S3Store
from tests.backup.dump_world import dump, run_sql
from tests.cli.cli_world import address, connection, kept, password, rooms
from tests.cli.conftest import ROOMS, databases_of
from tests.objectstores import ACCESS_KEY, REGION, SECRET_KEY, rclone_server, s3_client

if TYPE_CHECKING:
    from pathlib import Path

    from include.backup.stores.base import Store
    from include.backup.stores.local import LocalStore
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.cli.cli_world import DarkShell
    from tests.conftest import FreshDatabase


def test_the_backups_of_all_databases_in_the_store_are_listed(dark: DarkShell, store: LocalStore, source: Dsn) -> None:
    made = {kept(store, source, database=name).id for name in ("hotel", "spa")}
    assert {each["id"] for each in dark.as_json("backups", "--store", store.url)} == made
    (one,) = dark.as_json("backups", "--store", store.url, "spa")
    assert (one["database"], one["verified"], one["proof"]) == ("spa", "yes", None)
    listed = dark.run("backups", "--store", store.url)
    assert (listed.returncode, listed.stdout.count("hotel_20"), listed.stdout.count("spa_20")) == (0, 1, 1)


def test_a_backup_is_verified(dark: DarkShell, store: LocalStore, source: Dsn) -> None:
    manifest = dump(source, store, database="hotel")
    (verified,) = dark.as_json("verify", "--store", store.url)
    assert (verified["id"], verified["verified"]) == (manifest.id, "yes")


def test_a_backup_is_proved_and_the_list_says_so(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn, tmp_path: Path
) -> None:
    manifest = kept(store, source)
    before = databases_of(ground)
    (proof,) = dark.as_json("prove", "--store", store.url, "--dsn", address(ground), **password(ground))
    assert (proof["backup"], proof["verdict"]) == (manifest.id, "proved")
    assert databases_of(ground) == before
    assert ground.password is not None
    assert ground.password not in str(proof)
    (listed,) = dark.as_json("backups", "--store", store.url)
    assert listed["proof"]["verdict"] == "proved"
    assert listed["proof"]["rto_seconds"] == pytest.approx(proof["fetch_seconds"] + proof["restore_seconds"])
    table = dark.run("backups", "--store", store.url).stdout
    assert proof["proved_at"][:10] in table
    assert "from the store to a usable database in" in table


def test_a_proof_for_people_names_every_check_and_the_time_it_took(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn
) -> None:
    manifest = kept(store, source, fingerprints="counts")
    arguments = ("prove", manifest.id, "--store", store.url, "--dsn", address(ground))
    answer = dark.run(*arguments, **password(ground))
    assert answer.returncode == 0, answer.stderr
    assert f"{manifest.id}: PROVED, rows counted only" in answer.stdout
    for words in ("row hashes", "left out", "sequences", "from the store to a usable database in"):
        assert words in answer.stdout
    assert "counts only" in dark.run("backups", "--store", store.url).stdout


def test_a_damaged_backup_is_not_proved(dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn) -> None:
    manifest = kept(store, source)
    archive = dark.folder / "store" / f"{manifest.id}.dump"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    answer = dark.run("prove", "--store", store.url, "--dsn", address(ground), **password(ground))
    assert answer.returncode == 1
    assert "FAILED" in answer.stdout
    assert "sha256" in answer.stdout
    assert "Traceback" not in answer.stderr
    assert "FAILED" in dark.run("backups", "--store", store.url).stdout


def test_only_the_newest_backup_of_the_named_database_is_proved(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn
) -> None:
    for name in ("hotel", "spa"):
        kept(store, source, database=name)
    arguments = ("prove", "spa", "--store", store.url, "--dsn", address(ground))
    (proof,) = dark.as_json(*arguments, **password(ground))
    assert proof["backup"].startswith("spa/")
    nothing = dark.run("prove", "gym", "--store", store.url, "--dsn", address(ground))
    assert nothing.returncode == 1
    assert "there is no backup of gym" in nothing.stderr


def test_nothing_is_proved_on_a_server_that_a_backup_in_the_store_came_from(
    dark: DarkShell,
    store: LocalStore,
    source: Dsn,
    pg17: PostgresServer,
    ground17: PostgresServer,
    fresh_database: FreshDatabase,
) -> None:
    # The backup to be proved came from elsewhere; only the other database's manifest tells that this is production.
    kept(store, source, database="hotel")
    kept(store, fresh_database(ground17), database="spa")
    production = pg17.superuser()
    before = databases_of(production)
    arguments = ("prove", "spa", "--store", store.url, "--dsn", address(production))
    answer = dark.run(*arguments, **password(production))
    assert answer.returncode == 1
    assert "hotel" in answer.stderr
    assert databases_of(production) == before
    assert all(entry.proof is None for entry in read_catalog(store, "spa").entries)


def test_a_database_comes_back_under_a_new_name(dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn) -> None:
    manifest = kept(store, source)
    arguments = ("restore", "--backup", manifest.id, "--to", "hotel_again", "--store", store.url)
    server = ("--dsn", address(ground))
    unasked = dark.run(*arguments, *server, **password(ground))
    assert unasked.returncode == 2
    assert "hotel_again" in unasked.stdout
    assert "hotel_again" not in databases_of(ground)
    done = dark.as_json(*arguments, *server, "--yes", **password(ground))
    assert (done["name"], done["old_name"], done["verdict"]) == ("hotel_again", None, "proved")
    assert rooms(ground, "hotel_again") == ROOMS
    again = dark.run(*arguments, *server, "--yes", **password(ground))
    assert again.returncode == 1
    assert "hotel_again" in again.stderr


def test_a_lost_database_is_swapped_for_its_backup_and_back_by_the_printed_sql(
    dark: DarkShell, store: LocalStore, source: Dsn, pg17: PostgresServer
) -> None:
    kept(store, source)
    server = pg17.superuser()
    run_sql(source, "DELETE FROM rooms")
    arguments = ("restore", "hotel", "--store", store.url, "--dsn", address(server), "--yes")
    proved = kept_id(store)
    mistyped = dark.run(*arguments, "--backup", proved, "--swap", "hotl", **password(server))
    assert mistyped.returncode == 1
    assert "hotl" in mistyped.stderr
    assert rooms(server, source.dbname) == 0
    answer = dark.run(*arguments, "--backup", proved, "--swap", source.dbname, **password(server))
    assert answer.returncode == 0, answer.stderr
    assert rooms(server, source.dbname) == ROOMS
    (old,) = (name for name in databases_of(server) if name.startswith(f"{source.dbname}_before"))
    assert old in answer.stdout
    assert "to go back:" in answer.stdout
    go_back = answer.stdout.split("to go back:\n")[1]
    run_sql(server, *(line.strip() for line in go_back.splitlines() if line.strip()))
    assert rooms(server, source.dbname) == 0
    for name in databases_of(server):
        if name.startswith(source.dbname) and name != source.dbname:
            run_sql(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def kept_id(store: Store) -> str:
    return read_catalog(store, "hotel").entries[-1].manifest.id


def test_an_s3_store_needs_the_machines_keys_alone(dark: DarkShell, source: Dsn, ground: Dsn, tmp_path: Path) -> None:
    buckets = tmp_path / "buckets"
    (buckets / "bucket").mkdir(parents=True)
    with rclone_server(buckets, tmp_path / "log") as server:
        client = s3_client(server.endpoint)
        manifest = kept(S3Store(client, bucket="bucket", prefix="night"), source)
        client.close()
        keys = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": server.endpoint,
        }
        arguments = ("prove", "--store", "s3://bucket/night", "--dsn", address(ground))
        (proof,) = dark.as_json(*arguments, **keys, **password(ground))
        assert (proof["backup"], proof["verdict"]) == (manifest.id, "proved")
        refused = dark.run("backups", "--store", "s3://bucket/night", **{**keys, "AWS_SECRET_ACCESS_KEY": "n0t-it"})
    assert refused.returncode == 1
    assert "AWS_ACCESS_KEY_ID" in refused.stderr
    assert "n0t-it" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_encrypted_backup_is_proved_with_the_key_in_a_file(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn, tmp_path: Path
) -> None:
    key = x25519.Identity.generate()
    file = tmp_path / "key.txt"
    file.write_text(f"# created: tonight\n# public key: {key.to_public()}\n{key}\n", encoding="utf-8")
    kept(store, source, encryption_recipients=[str(key.to_public())])
    arguments = ("prove", "--store", store.url, "--dsn", address(ground))
    without = dark.run(*arguments, **password(ground))
    assert without.returncode == 1
    assert "age private key" in without.stderr
    (tmp_path / "no-key").write_text("not a key\n", encoding="utf-8")
    assert dark.run(*arguments, "--identity", str(tmp_path / "no-key"), **password(ground)).returncode == 2
    answer = dark.run(*arguments, "--identity", str(file), **password(ground))
    assert answer.returncode == 0, answer.stderr
    assert "PROVED" in answer.stdout
    assert str(key) not in answer.stdout + answer.stderr


@pytest.mark.parametrize("ailment", ["a broken airflow.cfg", "a lost database", "connections that are not there"])
def test_an_airflow_that_is_broken_stops_nothing(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn, tmp_path: Path, ailment: str
) -> None:
    kept(store, source)
    home = tmp_path / "airflow"
    home.mkdir()
    if ailment == "a broken airflow.cfg":
        (home / "airflow.cfg").write_text("[core\nthis is no configuration\n")
    (tmp_path / "maintenance.yaml").write_text(
        f"store: {{url: '{store.url}'}}\ndatabases: {{hotel: {{connection: hotel_db}}}}\n"
    )
    variables = {
        "PYTHONPATH": "",
        "AIRFLOW_HOME": str(home),
        "NIGHT_PORTER_CONFIG": str(tmp_path / "maintenance.yaml"),
        **(
            {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql+psycopg2://a@127.0.0.1:1/a"}
            if "lost" in ailment
            else {}
        ),
    }
    answer = dark.run("prove", "--store", store.url, "--dsn", address(ground), **variables, **password(ground))
    assert answer.returncode == 0, answer.stderr
    assert ("the configured servers are not known" in answer.stderr) == (ailment == "a broken airflow.cfg")
    assert "Traceback" not in answer.stderr


def test_a_configured_production_server_is_refused_by_its_address_too(
    dark: DarkShell, store: LocalStore, source: Dsn, ground: Dsn, tmp_path: Path
) -> None:
    kept(store, source)
    (tmp_path / "maintenance.yaml").write_text(
        f"store: {{url: '{store.url}'}}\ndatabases: {{other: {{connection: other_db}}}}\n"
    )
    variables = {
        "PYTHONPATH": "",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "NIGHT_PORTER_CONFIG": str(tmp_path / "maintenance.yaml"),
        "AIRFLOW_CONN_OTHER_DB": connection(ground),
    }
    answer = dark.run("prove", "--store", store.url, "--dsn", address(ground), **variables, **password(ground))
    assert answer.returncode == 1
    assert "other" in answer.stderr


def test_it_starts_quickly_and_loads_nothing_that_it_does_not_need() -> None:
    program = (
        "import sys, include.cli.app\n"
        "slow = {'airflow', 'psycopg', 'boto3', 'google.cloud.storage', 'pyrage', 'sqlalchemy', 'rich.progress'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
