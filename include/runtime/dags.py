"""What the DAG files share: tasks' defaults, fields of forms, the assets by which a backup starts its proof."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.sdk import Asset, AssetAlias, Param

from include.runtime.alerts import task_failed
from include.runtime.retry import RetryTransient

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_ARGS = {
    "owner": "night-porter",
    "retries": 2,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 3.0,
    "retry_policy": RetryTransient(),
    "on_failure_callback": task_failed,
}
# Names the rows of mapped tasks in the UI.
DATABASE_NAME = "{{ task.op_kwargs['name'] }}"
# The one outlet of a task that is mapped over databases: each of its instances says which asset it was.
VERIFIED_BACKUPS = AssetAlias("verified backups")


def backups_of(database: str) -> Asset:
    """The asset that changes whenever a backup of this database has been verified.

    Args:
        database: its configured name. An event's `extra` has the backup's id as `backup` and its tier as `tier`.
    """
    # A private `x-` scheme: for any other Airflow would import every provider, a second for each file with an asset.
    return Asset(f"backup/{database}", f"x-night-porter://backup/{database}")


def databases_field(databases: Sequence[str], description: str) -> Param:
    """The field of a form that asks for some of the configured databases, all of them by default."""
    return Param(
        list(databases),
        type="array",
        title="Databases",
        description=description,
        items={"type": "string", "enum": list(databases)},
        examples=list(databases),
        minItems=1,
    )


def optional_text(title: str, description: str) -> Param:
    """A field of a form that may stay empty."""
    # An empty string would count as missing, and the form could not be sent.
    return Param(None, type=["null", "string"], title=title, description=description, maxLength=500)
