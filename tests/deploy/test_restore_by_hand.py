"""The commands of docs/restore.md, taken from that page and run by stock tools on a real backup in each store."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import sql
from pyrage import x25519

from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import ArchiveOptions, DumpOptions
from include.backup.stores.gcs import GcsStore
from include.backup.stores.local import LocalStore
from include.backup.stores.s3 import S3Store
from include.hotel.data import generate
from include.hotel.migrate import upgrade
from tests.backup.stores.conftest import gcs_client
from tests.objectstores import ACCESS_KEY, REGION, SECRET_KEY, gcs_server, rclone_server, s3_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from include.backup.model import Manifest
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "restore.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Desk:
    """A person's shell, with the programs and the server that the page speaks of."""

    server: PostgresServer
    programs: Path
    folder: Path
    target: str

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run commands in one shell that stops at the first failure."""
        superuser = self.server.superuser()
        password_file = self.folder / "pgpass"
        password_file.touch(mode=0o600)
        password_file.write_text(f"*:*:*:*:{superuser.password}\n", encoding="utf-8")
        for name, value in {"PGPORT": str(self.server.port), "PGPASSFILE": str(password_file)}.items():
            script = re.sub(rf"{name}=\S+", f"{name}={value}", script)
        programs = [str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        return subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", script.replace("hotel_restored", self.target)],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={
                "HOME": str(self.folder), "PATH": os.pathsep.join(programs), "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": REGION, "no_proxy": "127.0.0.1",
                **environment,
            },
        )  # fmt: skip


def commands(heading: str, **variables: str) -> str:
    """The commands below a heading, with the values of the page's own variables replaced."""
    start = PAGE.index(f"{heading}\n")
    end = re.compile(r"^##+ ", re.MULTILINE).search(PAGE, start + len(heading))
    text = "".join(BLOCK.findall(PAGE[start : end.start() if end else None]))
    assert text, heading
    for name, value in variables.items():
        text, count = re.subn(rf"(^|\s){name}=\S+", rf"\g<1>{name}={value}", text)
        assert count == 1, name
    return text


@pytest.fixture(scope="module")
def desk(pg17: PostgresServer, pg18: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    if shutil.which("jq") is None:
        pytest.skip("NOT RUN: jq is not installed here")
    # Another server than the source's: none of its roles is there.
    return Desk(pg18, pg17.bin_dir, tmp_path_factory.mktemp("desk"), f"restored_{secrets.token_hex(4)}")


@pytest.fixture
def hotel(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    dsn = fresh_database(pg17, "hotel")
    upgrade(dsn)
    generate(dsn, scale=0.02)
    return dsn


def dumped(hotel: Dsn, store: Store, **options: object) -> Manifest:
    return back_up(
        hotel, store, database="hotel", tier=Tier.DAILY, options=DumpOptions.model_validate(options), run_id="by hand"
    )


@contextmanager
def restored(desk: Desk, manifest: Manifest, fetch: str, *, decrypt: str = "") -> Iterator[None]:
    """Follow the page from its first section to its last."""
    script = "".join(
        (
            commands("## 1. Choose the backup", id=manifest.id),
            fetch,
            commands("## 3. See that it is whole"),
            decrypt,
            commands("## 5. Make the server ready"),
            commands("## 6. Restore"),
            commands("## 7. Compare it with the manifest"),
        )
    )
    try:
        result = desk.run(script)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count(": OK") == len(manifest.files)
        # The last command prints nothing where every count is the manifest's.
        assert result.stdout.splitlines()[-1].startswith(("vacuumdb", "pg_restore"))
        yield
    finally:
        with desk.server.superuser().connect() as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(desk.target)))
            for role in set(manifest.roles) - {"postgres", "pg_database_owner"}:
                session.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def counted(desk: Desk) -> int:
    with desk.server.superuser(desk.target).connect() as session:
        row = session.execute("SELECT count(*) FROM bookings").fetchone()
    assert row is not None
    return int(row[0])


def rows(manifest: Manifest) -> int:
    return next(table.rows or 0 for table in manifest.tables if table.name == "bookings")


@pytest.mark.parametrize("archive", [{"format": "custom"}, {"format": "directory"}], ids=lambda each: each["format"])
def test_a_backup_in_a_folder_is_restored_by_the_pages_commands(
    desk: Desk, hotel: Dsn, tmp_path: Path, archive: dict[str, str]
) -> None:
    if archive["format"] == "directory":
        archive = {**archive, "staging": str(tmp_path)}
    manifest = dumped(hotel, LocalStore(tmp_path / "store"), archive=archive)
    with restored(desk, manifest, commands("### A folder (`file://`)", store=str(tmp_path / "store"))):
        assert counted(desk) == rows(manifest) > 0


@pytest.mark.parametrize("archive", ["custom", "directory"])
def test_an_encrypted_backup_is_restored_by_the_pages_commands(
    desk: Desk, hotel: Dsn, tmp_path: Path, archive: str
) -> None:
    if shutil.which("age") is None:
        pytest.skip("NOT RUN: age is not installed here")
    key = x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(f"{key}\n", encoding="utf-8")
    options = ArchiveOptions.model_validate(
        {"format": archive, "staging": str(tmp_path) if archive == "directory" else None}
    )
    manifest = dumped(
        hotel,
        LocalStore(tmp_path / "store"),
        encryption_recipients=[str(key.to_public())],
        archive=options.model_dump(),
    )
    fetch = commands("### A folder (`file://`)", store=str(tmp_path / "store"))
    decrypt = commands("## 4. Decrypt it", key=str(tmp_path / "key.txt"))
    with restored(desk, manifest, fetch, decrypt=decrypt):
        assert counted(desk) == rows(manifest) > 0


@pytest.mark.parametrize("tool", ["aws", "rclone"])
def test_a_backup_in_an_s3_store_is_restored_by_the_pages_commands(
    desk: Desk, hotel: Dsn, tmp_path: Path, tool: str
) -> None:
    if tool == "aws" and desk.run("aws --version").returncode != 0:
        pytest.skip("NOT RUN: the AWS command line is not installed here")
    buckets = tmp_path / "buckets"
    (buckets / "bucket").mkdir(parents=True)
    with rclone_server(buckets, tmp_path / "log") as server:
        client = s3_client(server.endpoint)
        manifest = dumped(hotel, S3Store(client, bucket="bucket", prefix="prefix"))
        client.close()
        by_aws, by_rclone = BLOCK.findall(_section("### S3 and what speaks its protocol"))
        fetch: Callable[[], str] = {
            "aws": lambda: re.sub(r"endpoint=\S+", f"endpoint={server.endpoint}", by_aws),
            "rclone": lambda: re.sub(r"ENDPOINT=\S+", f"ENDPOINT={server.endpoint}", by_rclone),
        }[tool]
        with restored(desk, manifest, fetch()):
            assert counted(desk) == rows(manifest) > 0


def test_a_backup_in_google_cloud_storage_is_restored_by_the_pages_commands(
    desk: Desk, hotel: Dsn, tmp_path: Path
) -> None:
    if desk.run("gcloud storage --help").returncode != 0:
        pytest.skip("NOT RUN: Google's command line is not installed here")
    with gcs_server(tmp_path / "buckets", tmp_path / "log") as server:
        client = gcs_client(server.endpoint)
        client.create_bucket("bucket")
        manifest = dumped(hotel, GcsStore(client, bucket="bucket", prefix="prefix"))
        client.close()
        fetch = (
            f"export CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE={server.endpoint}/storage/v1/\n"
            "export CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true CLOUDSDK_CORE_PROJECT=night-porter\n"
        )
        with restored(desk, manifest, fetch + commands("### Google Cloud Storage")):
            assert counted(desk) == rows(manifest) > 0


def test_a_backup_that_was_changed_in_the_store_is_found_out(desk: Desk, hotel: Dsn, tmp_path: Path) -> None:
    manifest = dumped(hotel, LocalStore(tmp_path / "store"))
    archive = tmp_path / "store" / f"{manifest.id}.dump"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.chmod(0o600)
    archive.write_bytes(data)
    result = desk.run(
        commands("## 1. Choose the backup", id=manifest.id)
        + commands("### A folder (`file://`)", store=str(tmp_path / "store"))
        + commands("## 3. See that it is whole")
    )
    assert result.returncode != 0
    assert "archive: FAILED" in result.stdout


def test_a_missing_row_is_found_by_the_pages_comparison(desk: Desk, hotel: Dsn, tmp_path: Path) -> None:
    manifest = dumped(hotel, LocalStore(tmp_path / "store"))
    with restored(desk, manifest, commands("### A folder (`file://`)", store=str(tmp_path / "store"))):
        with desk.server.superuser(desk.target).connect() as session:
            session.execute("DELETE FROM payments WHERE id = (SELECT min(id) FROM payments)")
        shutil.copy(tmp_path / "store" / f"{manifest.id}.json", desk.folder / "manifest.json")
        server = commands("## 5. Make the server ready").split("export ")[1].split("\n")[0]
        result = desk.run(f"export {server}\n" + commands("## 7. Compare it with the manifest"))
        assert result.returncode == 0, result.stderr
        (difference,) = result.stdout.splitlines()
        assert difference.startswith("public.payments|")


def _section(heading: str) -> str:
    start = PAGE.index(f"{heading}\n")
    end = re.compile(r"^##+ ", re.MULTILINE).search(PAGE, start + len(heading))
    return PAGE[start : end.start() if end else None]
