"""A wrong setting is told by file, key, value and what is allowed; a secret in the wrong place is never repeated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyrage
import pytest
import yaml

from include.backup.model import Tier
from include.config.settings import CONFIG_VARIABLE, DEFAULT_CONFIG, ConfigError, load, read

if TYPE_CHECKING:
    from pathlib import Path

    from include.config.settings import Settings

PUBLIC = str(pyrage.x25519.Identity.generate().to_public())
SECRET = str(pyrage.x25519.Identity.generate())
STORE = {"url": "file:///var/backups"}


def settings(tmp_path: Path, document: Any) -> Settings:
    path = tmp_path / "maintenance.yaml"
    path.write_text(
        document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False), encoding="utf-8"
    )
    return read(path)


def wrong(tmp_path: Path, document: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        settings(tmp_path, document)
    text = str(raised.value)
    assert text.startswith(str(tmp_path / "maintenance.yaml"))
    return text


def hotel(**changes: Any) -> dict[str, Any]:
    return {"store": STORE, "databases": {"hotel": {"connection": "hotel_db", **changes}}}


def test_the_shortest_file_takes_every_default(tmp_path: Path) -> None:
    found = settings(tmp_path, hotel())
    assert (found.store.connection, found.store.max_parts) == ("backup_store", 10_000)
    kept = found.retention
    assert (kept.daily, kept.weekly, kept.monthly, kept.pre_migration) == (7, 4, 6, 5)
    one = found.databases["hotel"]
    assert one.tiers == (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)
    assert (one.archive.format, one.archive.compression, one.archive.jobs, one.archive.staging) == (
        "custom",
        "zstd:1",
        2,
        None,
    )
    assert (one.fingerprints, one.encryption_recipients) == ("hashes", ())
    assert one.revision_table == "dbmaint.schema_revision"
    assert (one.dump_timeout_minutes, one.lock_timeout_seconds) == (240, 60)


def test_every_setting_can_be_set(tmp_path: Path) -> None:
    document = {
        "store": {"url": "s3://bucket/prefix", "connection": "minio", "max_parts": 1000},
        "retention": {"daily": 1, "weekly": 1, "monthly": 1, "pre_migration": 1},
        "proving_ground": {"connection": "ground", "jobs": 4, "staging": "/var/room", "identity_connection": "age"},
        "databases": {
            "hotel": {
                "connection": "hotel_db",
                "tiers": ["daily", "pre-migration"],
                "archive": {"format": "directory", "compression": "lz4:12", "jobs": 8, "staging": "/var/room"},
                "fingerprints": "counts",
                "encryption_recipients": [PUBLIC],
                "revision_table": "public.alembic_version",
                "dump_timeout_minutes": 30,
                "lock_timeout_seconds": 5,
                "proof": {
                    "tiers": ["daily", "weekly"],
                    "rto_minutes": 30,
                    "smoke_queries": [{"name": "there are guests", "sql": "SELECT count(*) > 0 FROM guests"}],
                    "smoke_timeout_seconds": 5,
                },
                "monitor": {
                    "rpo_hours": 26,
                    "proof_rpo_hours": 50.5,
                    "table_rows_lost_percent": 30,
                    "table_rows_minimum": 10,
                    "dump_shrunk_percent": 60,
                    "volatile_tables": ["public.sessions"],
                },
            },
            "app-2": {"connection": "app"},
        },
    }
    found = settings(tmp_path, document)
    one = found.databases["hotel"]
    assert one.tiers == (Tier.DAILY, Tier.PRE_MIGRATION)
    assert (one.archive.jobs, one.archive.staging, one.encryption_recipients) == (8, "/var/room", (PUBLIC,))
    assert (one.proof.tiers, one.proof.smoke_queries[0].name) == ((Tier.DAILY, Tier.WEEKLY), "there are guests")
    assert (one.monitor.proof_rpo_hours, one.monitor.volatile_tables) == (50.5, ("public.sessions",))
    assert (found.proving_ground.jobs, found.databases["app-2"].proof.tiers) == (4, (Tier.DAILY,))
    assert found.in_tier(Tier.DAILY) == ("hotel", "app-2")
    assert found.in_tier(Tier.WEEKLY) == ("app-2",)
    assert found.in_tier(Tier.PRE_MIGRATION) == ("hotel",)


# What is changed -> what the message must say: the key, the value, what is allowed.
WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown key at the top": (
        {**hotel(), "stores": {}},
        ("stores: unknown key", "store, retention, proving_ground, databases"),
    ),
    "an unknown key of the store": (
        {**hotel(), "store": {**STORE, "bucket": "x"}},
        ("store.bucket: unknown key", "url, connection, max_parts"),
    ),
    "an unknown key of a smoke query": (
        hotel(proof={"smoke_queries": [{"name": "x", "sql": "SELECT true", "expect": 1}]}),
        ("databases.hotel.proof.smoke_queries.0.expect: unknown key", "allowed here: name, sql"),
    ),
    "an unknown key of the monitor": (
        hotel(monitor={"rpo": 1}),
        ("databases.hotel.monitor.rpo: unknown key", "rpo_hours, proof_rpo_hours"),
    ),
    "an unknown tier to prove": (hotel(proof={"tiers": ["hourly"]}), ("'hourly'", "daily, weekly")),
    "an unknown key of a database": (
        hotel(conection="x"),
        ("databases.hotel.conection: unknown key", "connection, tiers"),
    ),
    "an unknown key of the archive": (
        hotel(archive={"level": 3}),
        ("databases.hotel.archive.level: unknown key", "format, compression, jobs, staging"),
    ),
    "an unknown key of the retention": (
        {**hotel(), "retention": {"pre-migration": 3}},
        ("retention.pre-migration: unknown key", "pre_migration"),
    ),
    "no store": ({"databases": {"hotel": {"connection": "x"}}}, ("store", "Field required")),
    "no databases": ({"store": STORE}, ("databases", "Field required")),
    "an empty list of databases": ({"store": STORE, "databases": {}}, ("databases = {}", "at least 1")),
    "a database without connection": (
        {"store": STORE, "databases": {"hotel": {}}},
        ("databases.hotel.connection", "required"),
    ),
    "a name that cannot be one": (
        {"store": STORE, "databases": {"Hotel!": {"connection": "x"}}},
        ("databases: ", "'Hotel!'", "allowed: a-z"),
    ),
    "a tier that there is not": (
        hotel(tiers=["daily", "hourly"]),
        ("databases.hotel.tiers: ", "'hourly'", "daily, weekly, monthly, pre-migration"),
    ),
    "a retention of none": (
        {**hotel(), "retention": {"daily": 0}},
        ("retention.daily = 0", "greater than or equal to 1"),
    ),
    "a number in quotes": ({**hotel(), "retention": {"daily": "7"}}, ("retention.daily = '7'", "valid integer")),
    "a compression that there is not": (
        hotel(archive={"compression": "zip"}),
        ("databases.hotel.archive.compression = 'zip'", "zstd", "gzip", "lz4", "none"),
    ),
    "a level that there is not": (
        hotel(archive={"compression": "zstd:22"}),
        ("databases.hotel.archive.compression = 'zstd:22'", "zstd"),
    ),
    "a format that there is not": (
        hotel(archive={"format": "tar"}),
        ("databases.hotel.archive.format = 'tar'", "'custom' or 'directory'"),
    ),
    "a directory without staging": (hotel(archive={"format": "directory"}), ("databases.hotel.archive", "staging")),
    "staging without a directory": (hotel(archive={"staging": "/x"}), ("databases.hotel.archive", "staging")),
    "too many jobs": (
        hotel(archive={"format": "directory", "staging": "/x", "jobs": 65}),
        ("databases.hotel.archive.jobs = 65", "less than or equal to 64"),
    ),
    "fingerprints of another kind": (
        hotel(fingerprints="md5"),
        ("databases.hotel.fingerprints = 'md5'", "'hashes' or 'counts'"),
    ),
    "a revision table without schema": (
        hotel(revision_table="alembic_version"),
        ("databases.hotel.revision_table = 'alembic_version'", "pattern"),
    ),
    "no patience": (
        hotel(dump_timeout_minutes=0),
        ("databases.hotel.dump_timeout_minutes = 0", "greater than or equal to 1"),
    ),
    "too few parts": ({**hotel(), "store": {**STORE, "max_parts": 10}}, ("store.max_parts = 10", "equal to 100")),
    "a store of another kind": (
        {**hotel(), "store": {"url": "ftp://x/y"}},
        ("store.url: ", "ftp:// is no store", "s3://bucket/prefix"),
    ),
    "a relative folder": ({**hotel(), "store": {"url": "./backups"}}, ("store.url: ", "file:///absolute/path")),
    "a recipient that is none": (
        hotel(encryption_recipients=[PUBLIC, "age1nonsense"]),
        ("databases.hotel.encryption_recipients: ", "entry 2 is no age public key", "age1"),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_names_key_value_and_what_is_allowed(tmp_path: Path, what: str) -> None:
    document, expected = WRONG[what]
    text = wrong(tmp_path, document)
    for part in expected:
        assert part in text
    assert "1 wrong setting(s), nothing was started" in text


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    document = {"store": {"url": "x"}, "retention": {"daily": 0}, "databases": {"hotel": {"tiers": ["x"]}}}
    text = wrong(tmp_path, document)
    assert "4 wrong setting(s)" in text
    for key in ("store.url", "retention.daily", "databases.hotel.connection", "databases.hotel.tiers"):
        assert key in text


@pytest.mark.parametrize("document", ["", "[]", "just words", "databases: [hotel]\nstore: {url: 'file:///x'}"])
def test_a_file_of_another_shape_is_told(tmp_path: Path, document: str) -> None:
    assert "wrong setting(s)" in wrong(tmp_path, document)


def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in wrong(tmp_path, "store:\n\turl: x\n")


PLACES: dict[str, Any] = {
    "a private key among the recipients": hotel(encryption_recipients=[SECRET]),
    "a second private key among the recipients": hotel(encryption_recipients=[PUBLIC, SECRET]),
    "a password in the store's address": {**hotel(), "store": {"url": f"s3://key:{SECRET}@bucket/x"}},
    "a password in a folder's address": {**hotel(), "store": {"url": f"file://user:{SECRET}@host/x"}},
    "an unknown key": hotel(password=SECRET),
}
LEAKING: dict[str, Any] = {
    "a private key in place of the list": hotel(encryption_recipients=SECRET),
    "an address in place of a database": {
        "store": STORE,
        "databases": {"hotel": f"postgresql://u:{SECRET}@h/hotel"},
    },
    "an address in place of the store": {**hotel(), "store": f"s3://key:{SECRET}@bucket"},
}


@pytest.mark.parametrize("what", [*PLACES, *(pytest.param(name) for name in LEAKING)])
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, what: str) -> None:
    assert SECRET not in wrong(tmp_path, {**PLACES, **LEAKING}[what])


def test_an_address_in_place_of_a_connections_id_is_refused_without_repeating_it(tmp_path: Path) -> None:
    assert SECRET not in wrong(tmp_path, hotel(connection=f"postgresql://u:{SECRET}@h/hotel"))


def test_a_password_on_a_line_that_is_not_yaml_is_not_repeated(tmp_path: Path) -> None:
    assert "hunter2" not in wrong(tmp_path, "store:\n  url: s3://x\n  password: is: hunter2\n")


def test_the_file_that_the_environment_names_replaces_the_default(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump({"store": STORE, "databases": {"other": {"connection": "x"}}}))
    assert list(load({CONFIG_VARIABLE: str(path)}).databases) == ["other"]
    assert list(load({}).databases) == ["hotel"]
    assert list(load({CONFIG_VARIABLE: ""}).databases) == ["hotel"]


def test_a_missing_file_is_told_with_the_variable_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file .* NIGHT_PORTER_CONFIG"):
        load({CONFIG_VARIABLE: str(tmp_path / "nowhere.yaml")})


def test_the_file_that_is_shipped_is_valid_and_shows_the_defaults_as_they_are(tmp_path: Path) -> None:
    shipped = read(DEFAULT_CONFIG)
    assert shipped.retention == settings(tmp_path, hotel()).retention
    assert shipped.databases["hotel"].connection == "hotel_db"


def test_settings_cannot_be_changed_once_read(tmp_path: Path) -> None:
    found = settings(tmp_path, hotel())
    with pytest.raises(ValueError, match="frozen"):
        found.store.max_parts = 1
