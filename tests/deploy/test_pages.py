"""What docs/ promises about settings, permissions and roles, held against the code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from include.backup import sweep
from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import ArchiveOptions, DumpOptions, MonitorOptions
from include.backup.preflight import preflight
from include.backup.stores.local import LocalStore
from include.backup.stores.part_sizes import MIB, base_part_bytes
from include.backup.stores.s3 import S3Store
from include.backup.verify import verify
from include.config.settings import DatabaseSettings, RetentionSettings, Settings, StoreSettings
from include.hotel.migrate import upgrade
from include.postgres.dsn import Dsn
from include.proving import recover
from include.proving.ground import Production, open_ground
from include.proving.options import GroundOptions, ProofOptions
from include.proving.prove import prove
from include.runtime import connections
from tests.deploy.composefile import ROOT
from tests.objectstores import moto_server, s3_client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

DOCS = ROOT / "docs"
NOWHERE = Production(identifiers={}, addresses={})
# The permission that Amazon asks for each operation; a multipart upload is writing.
ACTIONS = {
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}


def page(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.MULTILINE | re.DOTALL)


def test_the_example_of_a_configuration_is_valid_and_shows_every_key() -> None:
    (text,) = blocks("configuration", "yaml")
    document = yaml.safe_load(text)
    Settings.model_validate(document)
    hotel, ledger = document["databases"]["hotel"], document["databases"]["ledger"]
    assert document.keys() == Settings.model_fields.keys()
    assert document["store"].keys() == StoreSettings.model_fields.keys()
    assert document["retention"].keys() == RetentionSettings.model_fields.keys()
    assert document["proving_ground"].keys() == GroundOptions.model_fields.keys()
    assert {**hotel, **ledger}.keys() == DatabaseSettings.model_fields.keys()
    assert ledger["archive"].keys() == ArchiveOptions.model_fields.keys()
    assert hotel["proof"].keys() == ProofOptions.model_fields.keys()
    assert hotel["monitor"].keys() == MonitorOptions.model_fields.keys()


def test_the_table_of_keys_has_the_codes_defaults() -> None:
    table = page("configuration")
    defaults: dict[str, Any] = {f"….{name}": field.default for name, field in DumpOptions.model_fields.items()}
    defaults |= {f"….archive.{name}": field.default for name, field in ArchiveOptions.model_fields.items()}
    defaults |= {f"….monitor.{name}": field.default for name, field in MonitorOptions.model_fields.items()}
    for key, default in defaults.items():
        if key in {"….archive", "….archive.staging", "….encryption_recipients", "….monitor.volatile_tables"}:
            continue
        assert re.search(rf"^\| `{re.escape(key)}` \| `?{re.escape(str(default))}`? \|", table, re.MULTILINE), key


def test_every_extra_of_a_postgres_connection_is_named() -> None:
    sentence = page("configuration").split("Allowed extras: ")[1].split("Others")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == connections._LIBPQ


@pytest.mark.parametrize("name", ["configuration", "stores"])
def test_every_example_in_json_is_json(name: str) -> None:
    assert all(json.loads(text) for text in blocks(name, "json"))


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[S3Store, set[str]]]:
    """A store in a bucket, and the operations that it asked the service for."""
    with moto_server(tmp_path / "log") as server:
        client = s3_client(server.endpoint)
        client.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        asked: set[str] = set()
        client.meta.events.register("before-call.s3", lambda model, **_: asked.add(model.name))
        yield S3Store(client, bucket="bucket", prefix="prefix"), asked
        client.close()


def test_the_policy_for_amazon_allows_what_the_code_does_and_nothing_else(
    recorded: tuple[S3Store, set[str]],
) -> None:
    store, asked = recorded
    store.check_writable()
    with store.upload("big", expected_bytes=None) as upload:
        upload.write(bytes(17 * MIB))
        upload.commit()
    with store.upload("never committed") as upload:
        upload.write(bytes(33 * MIB))
    store.put("record", b"1", replace=True)
    assert sum(map(len, store.read("big"))) == 17 * MIB
    sweep.sweep(store, "hotel", now=datetime.now(UTC), dry_run=False)
    for item in list(store.list()):
        store.delete(item.key)

    policy = json.loads(blocks("stores", "json")[0])
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert {ACTIONS[operation] for operation in asked} == allowed
    objects = {action for action in allowed if not action.startswith("s3:List")}
    for statement in policy["Statement"]:
        assert (set(statement["Action"]) <= objects) == statement["Resource"].endswith("/*")


def test_the_table_of_part_sizes_is_the_codes() -> None:
    rows = re.findall(
        r"^\| (?:up to )?(\d+) (GiB|TiB) \| (\S+) (\w+), .* \| (\S+) (\w+), ", page("stores"), re.MULTILINE
    )
    assert len(rows) == 5
    unit = {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}
    for size, size_unit, *parts in rows:
        expected = int(size) * unit[size_unit] * MIB
        for max_parts, (part, part_unit) in zip((10_000, 1_000), (parts[:2], parts[2:]), strict=True):
            shown = float(part) * unit[part_unit]
            assert shown == pytest.approx(base_part_bytes(expected_bytes=expected, max_parts=max_parts) / MIB, rel=0.05)


def test_the_role_of_the_page_can_back_up_a_database_that_it_does_not_own(
    pg17: PostgresServer, fresh_database: FreshDatabase, tmp_path: Path
) -> None:
    hotel = fresh_database(pg17, "hotel")
    upgrade(hotel)
    (statements,) = blocks("operations", "sql")
    with pg17.superuser(hotel.dbname).connect() as session:
        session.execute(statements.encode())
        session.execute("ALTER ROLE night_porter PASSWORD 'for this test'")
    role = Dsn(host=hotel.host, port=hotel.port, dbname=hotel.dbname, user="night_porter", password="for this test")
    store = LocalStore(tmp_path)
    try:
        preflight(role, store, database="hotel", options=DumpOptions())
        manifest = back_up(role, store, database="hotel", tier=Tier.DAILY, options=DumpOptions(), run_id="page")
    finally:
        with pg17.superuser(hotel.dbname).connect() as session:
            session.execute("DROP OWNED BY night_porter")
            session.execute("DROP ROLE night_porter")
    assert manifest.server.system_identifier is not None
    assert manifest.schema_revision is not None


def test_the_roles_of_the_page_can_prove_and_restore_a_database_of_another_owner(
    pg17: PostgresServer, ground17: PostgresServer, tmp_path: Path
) -> None:
    on_ground, on_target = blocks("deployment", "sql")
    store = LocalStore(tmp_path)
    with pg17.superuser().connect() as production, ground17.superuser().connect() as ground:
        production.execute("CREATE ROLE hotel LOGIN PASSWORD 'for this test'")
        production.execute("CREATE DATABASE hotel OWNER hotel")
        production.execute(on_target.encode())
        ground.execute(on_ground.encode())
        for session, role in ((production, "hotel_restore"), (ground, "proving_ground")):
            session.execute(f"ALTER ROLE {role} PASSWORD 'for this test'")
        try:
            hotel = replace(pg17.superuser("hotel"), user="hotel", password="for this test")
            upgrade(hotel)
            options = DumpOptions()
            manifest = back_up(hotel, store, database="hotel", tier=Tier.DAILY, options=options, run_id="page")
            verify(store, manifest.backup_id)
            proof = prove(
                open_ground(replace(ground17.superuser(), user="proving_ground", password="for this test"), NOWHERE),
                store,
                manifest.backup_id,
                options=ProofOptions(),
            )
            assert proof.verdict == "proved", proof.checks
            target = replace(pg17.superuser(), user="hotel_restore", password="for this test")
            with hotel.connect():  # an application's session, which the swap has to end
                done = recover.execute(recover.plan(store, database="hotel", target=target, swap="hotel"), store)
            assert (done.name, done.verdict, done.by_hand) == ("hotel", "proved", ())
            production.execute(f'DROP DATABASE "{done.old_name}"')
        finally:
            production.execute("DROP DATABASE IF EXISTS hotel WITH (FORCE)")
            for session, roles in ((production, ("hotel_restore", "hotel")), (ground, ("proving_ground", "hotel"))):
                for role in roles:
                    session.execute(f"DROP OWNED BY {role}")
                    session.execute(f"DROP ROLE {role}")


def test_no_page_links_to_a_page_that_is_not_there() -> None:
    named = {name for path in DOCS.glob("*.md") for name in re.findall(r"\b([a-z-]+\.md)\b", path.read_text("utf-8"))}
    there = {path.name for path in DOCS.glob("*.md")} | {path.name.lower() for path in ROOT.glob("*.md")}
    # docs/dags.md is made from the DAGs, README.md and the like by hand.
    assert named - there <= {"dags.md", "readme.md", "changelog.md"}
