"""The inventory as an object in the store: written before the manifest, encrypted like the archive, read back whole."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyrage
import pytest

from include.backup.inventory import Inventory, read_inventory
from include.backup.model import DatabaseLocale, StoredFile
from include.backup.stores.base import StoreError
from include.backup.stores.local import LocalStore
from include.backup.verify import BackupDamagedError, verify
from include.errors import MaintenanceError
from tests.backup.dump_world import dump, options, run_sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.backup.model import Manifest
    from include.postgres.dsn import Dsn
    from include.stack.postgres import PostgresServer
    from tests.conftest import FreshDatabase

KEY, OTHER_KEY = (pyrage.x25519.Identity.generate() for _ in range(2))


@pytest.fixture
def dsn(pg17: PostgresServer, fresh_database: FreshDatabase) -> Dsn:
    dsn = fresh_database(pg17)
    run_sql(dsn, "CREATE TABLE secret_plans (a int)")
    return dsn


def damage(store: LocalStore, manifest: Manifest, change: Callable[[bytes], bytes | None]) -> None:
    key = manifest.backup_id.inventory_key
    changed = change(store.get(key))
    store.delete(key)
    if changed is not None:
        store.put(key, changed)


def test_it_stands_beside_the_archive_and_the_manifest_names_it(dsn: Dsn, folder_store: LocalStore) -> None:
    manifest = dump(dsn, folder_store)
    stored = folder_store.get(f"{manifest.id}.inventory.json")
    assert manifest.inventory == StoredFile(
        suffix=".inventory.json", bytes=len(stored), sha256=hashlib.sha256(stored).hexdigest()
    )
    inventory = read_inventory(folder_store, manifest, identity=None)
    assert (inventory.backup, inventory.server_major) == (manifest.id, 17)
    assert inventory == Inventory.model_validate_json(stored)


def test_it_is_encrypted_like_the_archive_and_opens_with_the_private_key_alone(
    dsn: Dsn, folder_store: LocalStore
) -> None:
    manifest = dump(dsn, folder_store, options(encryption_recipients=(str(KEY.to_public()),)))
    stored = folder_store.get(manifest.backup_id.inventory_key)
    assert stored.startswith(b"age-encryption.org/v1\n")
    assert b"secret_plans" not in stored
    inventory = read_inventory(folder_store, manifest, identity=str(KEY))
    assert "public.secret_plans" in {one.name for one in inventory.objects}
    for wrong in (None, "", str(OTHER_KEY), "AGE-SECRET-KEY-NONSENSE"):
        with pytest.raises(MaintenanceError, match="private key") as raised:
            read_inventory(folder_store, manifest, identity=wrong)
        assert not isinstance(raised.value, BackupDamagedError)
        assert str(KEY.to_public()) in raised.value.remedy
        if wrong:
            assert wrong not in str(raised.value)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data[:-1] + bytes([data[-1] ^ 1]), id="one bit"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: data + b"\n", id="longer"),
        pytest.param(lambda _: None, id="missing"),
    ],
)
def test_one_that_is_not_what_was_written_is_damage_to_reader_and_verification(
    dsn: Dsn, folder_store: LocalStore, change: Callable[[bytes], bytes | None], encrypted: bool
) -> None:
    recipients = (str(KEY.to_public()),) if encrypted else ()
    manifest = dump(dsn, folder_store, options(encryption_recipients=recipients))
    assert verify(folder_store, manifest.backup_id).failure is None
    damage(folder_store, manifest, change)
    with pytest.raises(BackupDamagedError, match="inventory"):
        read_inventory(folder_store, manifest, identity=str(KEY))
    with pytest.raises(BackupDamagedError, match=r"inventory\.json"):
        verify(folder_store, manifest.backup_id)


def test_that_of_another_backup_is_refused_though_the_manifest_was_made_to_fit(
    dsn: Dsn, folder_store: LocalStore
) -> None:
    mine, other = dump(dsn, folder_store), dump(dsn, folder_store, database="other")
    damage(folder_store, mine, lambda _: folder_store.get(other.backup_id.inventory_key))
    with pytest.raises(BackupDamagedError, match=f"it is that of {other.id}"):
        read_inventory(folder_store, mine.model_copy(update={"inventory": other.inventory}), identity=None)


def test_one_that_cannot_be_written_leaves_no_backup(dsn: Dsn, folder_store: LocalStore) -> None:
    class Full(LocalStore):
        def put(self, key: str, data: bytes, *, replace: bool = False) -> None:
            raise StoreError(f"no room for {key}", untouched="all", remedy="make room")

    store = Full(folder_store._root)
    with pytest.raises(StoreError, match=r"inventory\.json"):
        dump(dsn, store)
    assert not [item for item in store.list() if item.key.endswith(".json")]


def test_the_manifest_tells_the_locale_that_the_database_was_made_with(
    pg15: PostgresServer, pg17: PostgresServer, dsn: Dsn, fresh_database: FreshDatabase, folder_store: LocalStore
) -> None:
    assert dump(dsn, folder_store).locale == DatabaseLocale(
        encoding="UTF8", provider="builtin", collate="C", ctype="C", locale="C.UTF-8"
    )
    old = fresh_database(pg15)
    assert dump(old, folder_store, options("gzip:1"), database="old").locale == DatabaseLocale(
        encoding="UTF8", provider="libc", collate="C", ctype="C", locale=None
    )
    name = f"{old.dbname}_icu"
    run_sql(pg15.superuser(), f"CREATE DATABASE {name} LOCALE_PROVIDER icu ICU_LOCALE 'de' TEMPLATE template0")
    try:
        manifest = dump(pg15.superuser(name), folder_store, options("gzip:1"), database="icu")
    finally:
        run_sql(pg15.superuser(), f"DROP DATABASE {name}")
    assert manifest.locale == DatabaseLocale(encoding="UTF8", provider="icu", collate="C", ctype="C", locale="de")


def test_a_table_below_hash_partitioning_names_the_topmost_table(dsn: Dsn, folder_store: LocalStore) -> None:
    run_sql(
        dsn,
        "CREATE SCHEMA s",
        "CREATE TABLE s.top (a int, b int) PARTITION BY RANGE (a)",
        "CREATE TABLE s.plain PARTITION OF s.top FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE s.middle PARTITION OF s.top FOR VALUES FROM (10) TO (20) PARTITION BY HASH (b)",
        "CREATE TABLE s.leaf PARTITION OF s.middle FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TABLE child () INHERITS (secret_plans)",
    )
    found = {table.name: table.hash_partition_of for table in dump(dsn, folder_store).tables}
    assert found == {"plain": None, "leaf": "s.top", "child": None, "secret_plans": None}
