"""### Proof of backups: each becomes a running database

**What.** The backup is restored on the proving ground into a database of its own and compared with what the dump's own
snapshot held: rows and row hashes of every table, sequences, constraints, indexes, grants and all else, then the smoke
queries of the settings. The verdict and every comparison stand in a certificate beside the backup: *proved*, *failed*
with what differs, or *incomplete* with what could not be compared. Pruning follows, since proved backups fill the
slots first. The copy is dropped.

**When.** As soon as a backup has been verified (assets `backup/<database>`), for the tiers that `proof.tiers` names,
`daily` by default; each database by itself. By hand at any time with *Trigger*: the newest backup of the chosen
databases, or one backup by its id.

**If it fails.** Slack (connection `slack_maintenance`) hears of each failure once. Where the backup is at fault, take
another one now, and keep the failed one until it is understood: pruning of that database has stopped by itself. Where
the proving ground is at fault (down, full, a role missing), the message names what to do, the backup's record is as
it was; mend it and *Trigger* this DAG.

**Settings.** `proving_ground` and `databases.<name>.proof` in `include/config/maintenance.yaml`; connections
`proving_ground`, `backup_store`, and `backup_identity` where backups are encrypted. What the server needs:
docs/deployment.md.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import AssetAny, dag, task, task_group

from include.config.settings import load
from include.runtime.alerts import run_timed_out
from include.runtime.dags import DEFAULT_ARGS, backups_of, databases_field, optional_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Param

# Names the rows of mapped tasks in the UI.
BACKUP_NAME = "{{ task.op_kwargs['chosen']['backup'] }}"


def form(databases: Sequence[str]) -> dict[str, Param]:
    """What the UI asks for when a proof is started by hand."""
    return {
        "databases": databases_field(
            databases, "The newest backup of each of these is proved. All of them by default."
        ),
        "backup": optional_text(
            "Backup",
            "One backup by its id, in place of the newest ones: database/tier/name, as "
            "`python -m include.cli backups` lists them.",
        ),
    }


settings = load()
proved = [backups_of(name) for name, options in settings.databases.items() if options.proof.tiers]


@dag(
    dag_id="backup_prove",
    dag_display_name="Backup, proof",
    description="Restores each verified backup on the proving ground and compares it with what was dumped.",
    doc_md=__doc__,
    schedule=AssetAny(*proved) if proved else None,
    catchup=False,
    max_active_runs=1,
    # One restore at a time, so that the time it takes is what a recovery would take.
    max_active_tasks=1,
    dagrun_timeout=timedelta(hours=20),
    default_args=DEFAULT_ARGS,
    on_failure_callback=run_timed_out,
    params=form(list(settings.databases)),
    tags=["backup", "proof"],
)
def build() -> None:
    """Wire the tasks."""

    @task
    def choose(
        dag_run: Any = None, triggering_asset_events: Any = None, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        from include.runtime import proving

        by_backups = dag_run.run_type == "asset_triggered"
        chosen = proving.choose(started_by_backups=by_backups, events=triggering_asset_events, params=params or {})
        return [dict(each) for each in chosen]

    @task(map_index_template=BACKUP_NAME)
    def prove(chosen: dict[str, Any]) -> dict[str, Any]:
        from include.runtime import proving

        return dict(proving.prove(chosen["backup"]))

    @task(map_index_template=BACKUP_NAME)
    def prune(chosen: dict[str, Any]) -> dict[str, Any]:
        from include.runtime import backup

        return dict(backup.prune_backups(chosen["name"]))

    @task_group
    def backup(chosen: dict[str, Any]) -> None:
        prove(chosen=chosen) >> prune(chosen=chosen)

    @task(trigger_rule="all_done", retries=0)
    def report(ti: Any = None) -> dict[str, str]:
        from include.runtime import proving

        return proving.report(ti, ti.xcom_pull(task_ids="choose"))

    chosen = choose()
    backup.expand(chosen=chosen) >> report()


backup_prove = build()
