"""What the commands share: where they work, for which databases, and how a failure is told without ending the rest."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from include.backup.model import BackupId, CatalogEntry
from include.backup.stores.base import StoreError
from include.cli.output import err
from include.config import settings as configuration
from include.config.settings import DatabaseSettings, StoreSettings
from include.errors import MaintenanceError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from include.backup.stores.base import Store
    from include.config.settings import Settings

# Connections that were made in Airflow's UI stand in its database; outside a task the SDK looks there only for what
# calls itself a server process. Where that database is down, environment and secrets backends still answer.
os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")

Databases = Annotated[list[str] | None, typer.Argument(help="Configured names; all of them by default.")]
DatabasesInStore = Annotated[
    list[str] | None,
    typer.Argument(help="Names; by default all that are configured, or with --store all in the store."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts; sizes in bytes, times in UTC.")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="file:///…, s3://bucket/prefix or gs://bucket/prefix, in place of the configured store. Credentials are "
        "the machine's own then (AWS_…, GOOGLE_…): neither Airflow nor a configuration is needed.",
    ),
]
# What applies to a database that no configuration names; the connection's name is never looked up.
_UNCONFIGURED = DatabaseSettings(connection="none")


@dataclass(frozen=True)
class Scope:
    """Where a command works, and for which databases.

    Args:
        settings: the configuration; None where there is none, which is no error where the store was named.
        where: the store's address where the person gave one, else the configured store.
        wanted: the databases; none means all that are in the store.
    """

    settings: Settings | None
    where: str | StoreSettings
    wanted: tuple[str, ...]

    def open_store(self) -> Store:
        """The store that the person named, or else the configured one.

        Raises:
            MaintenanceError: it cannot be opened.
        """
        if isinstance(self.where, str):
            from include.backup.stores.opening import open_url

            return open_url(self.where)
        from include.runtime.connections import open_store

        return open_store(self.where)

    def names(self, store: Store) -> tuple[str, ...]:
        """The databases: those that are wanted, or all that are in the store.

        Raises:
            MaintenanceError: the store cannot be read.
        """
        if self.wanted:
            return self.wanted
        from include.backup.catalog import databases

        return databases(store)

    def options(self, database: str) -> DatabaseSettings:
        """What is configured for a database, or the defaults where nothing is."""
        configured = self.settings.databases if self.settings is not None else {}
        return configured.get(database, _UNCONFIGURED)


def configured(databases: Collection[str] | None) -> tuple[Settings, tuple[str, ...]]:
    """The configuration, and the databases that the person named or else all; ends with status 2 where one is wrong."""
    try:
        settings = configuration.load()
    except configuration.ConfigError as error:
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    unknown = [name for name in databases or () if name not in settings.databases]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not configured; allowed: {', '.join(settings.databases)}")
    return settings, tuple(databases or settings.databases)


def scope(databases: Collection[str] | None, store_url: str | None) -> Scope:
    """What the person asked for, checked as far as nothing has to be opened; ends with status 2 where it is wrong."""
    if store_url is not None:
        return Scope(_settings_at_hand(), _known_store(store_url), tuple(databases or ()))
    settings, names = configured(databases)
    return Scope(settings, settings.store, names)


def _settings_at_hand() -> Settings | None:
    try:
        return configuration.load()
    except configuration.ConfigError as error:
        err.print(
            f"no configuration is used, defaults apply: {str(error).splitlines()[0]}",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
        return None


def _known_store(url: str) -> str:
    from include.backup.stores.url import parse_url

    try:
        parse_url(url)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--store") from None
    return url


def parsed(text: str) -> BackupId:
    """The backup that a person named; ends with status 2 where that is no id."""
    try:
        return BackupId.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def read_entries(store: Store, names: Collection[str], *, only: Collection[str] | None = None) -> list[CatalogEntry]:
    """The catalogs of several databases, each oldest first; what cannot be understood is named on stderr.

    Args:
        store: where they are.
        names: the databases.
        only: ids, where not all are wanted.

    Raises:
        MaintenanceError: the store cannot be read.
    """
    from include.backup.catalog import read_catalog

    found: list[CatalogEntry] = []
    for name in names:
        catalog = read_catalog(store, name)
        for key, reason in catalog.unreadable:
            err.print(f"{key} is left out: {reason}", style="yellow", markup=False, soft_wrap=True)
        found += [entry for entry in catalog.entries if only is None or entry.manifest.id in only]
    return found


@contextmanager
def failure_shown(here: Scope | None = None) -> Iterator[list[MaintenanceError]]:
    """Print a failure instead of ending, so that other databases still get their turn; the list holds it then."""
    failures: list[MaintenanceError] = []
    try:
        yield failures
    except MaintenanceError as error:
        failures.append(error)
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        if here is not None and isinstance(here.where, str) and isinstance(error, StoreError):
            from include.backup.stores.opening import CREDENTIALS

            err.print(f"  with --store: {CREDENTIALS}", style="red", markup=False, soft_wrap=True)
