"""The typed settings behind maintenance.yaml: what may be set, and the error when something else is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator

from include.backup.model import DATABASE_NAME, Tier
from include.backup.options import DumpOptions, MonitorOptions, Section, tiers_by_name
from include.backup.stores.url import parse_url
from include.proving.options import GroundOptions, ProofOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_VARIABLE = "NIGHT_PORTER_CONFIG"
CONNECTION_ID = r"^[\w.-]{1,200}$"
_LONGEST_SHOWN = 40
DEFAULT_CONFIG = Path(__file__).with_name("maintenance.yaml")


class ConfigError(ValueError):
    """The configuration file is wrong; the text names key, value and what is allowed."""


def _known_store(url: str) -> str:
    parse_url(url)
    return url


class StoreSettings(Section):
    """Where backups go.

    Args:
        url: `file:///…`, `s3://bucket/prefix` or `gs://bucket/prefix`.
        connection: Airflow connection id with the credentials.
        max_parts: how many parts one S3 multipart upload may have; some compatible services allow 1,000 only.
    """

    url: Annotated[str, AfterValidator(_known_store)]
    connection: str = Field(default="backup_store", pattern=CONNECTION_ID)
    max_parts: int = Field(default=10_000, ge=100, le=10_000)


class RetentionSettings(Section):
    """How many backups each tier keeps, per database. At least one of each, so that no tier can be emptied."""

    daily: int = Field(default=7, ge=1)
    weekly: int = Field(default=4, ge=1)
    monthly: int = Field(default=6, ge=1)
    pre_migration: int = Field(default=5, ge=1)


class DatabaseSettings(DumpOptions):
    """One database that is looked after.

    Args:
        connection: Airflow connection id (type postgres).
        tiers: which scheduled backups it takes part in.
        proof: how its backups are proved.
        monitor: what the monitor expects of them.
    """

    connection: str = Field(pattern=CONNECTION_ID)
    tiers: tuple[Tier, ...] = (Tier.DAILY, Tier.WEEKLY, Tier.MONTHLY)
    proof: ProofOptions = ProofOptions()
    monitor: MonitorOptions = MonitorOptions()

    @field_validator("tiers", mode="before")
    @classmethod
    def _tiers(cls, value: Any) -> Any:
        return tiers_by_name(value)


class Settings(Section):
    """The whole file."""

    store: StoreSettings
    retention: RetentionSettings = RetentionSettings()
    proving_ground: GroundOptions = GroundOptions()
    databases: dict[str, DatabaseSettings] = Field(min_length=1)

    @field_validator("databases")
    @classmethod
    def _names(cls, value: dict[str, DatabaseSettings]) -> dict[str, DatabaseSettings]:
        for name in value:
            if not DATABASE_NAME.match(name):
                raise ValueError(f"{name!r} is no database name; allowed: a-z, then a-z, 0-9, _ and -")
        return value

    def in_tier(self, tier: Tier) -> tuple[str, ...]:
        """The configured databases that take part in a tier, in the file's order."""
        return tuple(name for name, database in self.databases.items() if tier in database.tiers)


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration file that applies.

    Raises:
        ConfigError: it is missing or not valid; the text names file, key, value and what is allowed.
    """
    return read(Path(environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG))


def read(path: Path) -> Settings:
    """Read and validate one file.

    Raises:
        ConfigError: as for `load`.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}. {CONFIG_VARIABLE} names the file.") from error
    except yaml.MarkedYAMLError as error:
        # Without the line itself, which may hold anything.
        place = f"line {error.problem_mark.line + 1}" if error.problem_mark else "somewhere"
        raise ConfigError(f"{path}: not YAML: {error.problem} in {place}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {type(error).__name__}") from None
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise ConfigError(_explain(path, error)) from error


def _explain(path: Path, error: ValidationError) -> str:
    lines = [f"{path}: {error.error_count()} wrong setting(s), nothing was started:"]
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "(the file)"
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(problem["loc"][:-1]))
            lines.append(f"  {key}: unknown key; allowed here: {allowed}")
        else:
            # A validator's own text names the value where that is safe.
            value = "" if problem["type"] == "value_error" else f" = {_shown(problem['input'])}"
            lines.append(f"  {key}{value}: {problem['msg']}")
    return "\n".join(lines)


def _shown(value: object) -> str:
    """A wrong value, unless it may hold a secret that was put into the wrong place."""
    if value and isinstance(value, dict | list):
        return "(a mapping)" if isinstance(value, dict) else "(a list)"
    text = repr(value)
    return "(not repeated here: it may hold a secret)" if len(text) > _LONGEST_SHOWN or "@" in text else text


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, int) or (section is Settings and part == "databases"):
            continue
        if part in section.model_fields:
            section = _section_within(section.model_fields[part].annotation) or section
        else:
            section = DatabaseSettings
    return list(section.model_fields)


def _section_within(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, by itself or as the items of a tuple."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
