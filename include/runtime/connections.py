"""Airflow's connections turned into the plain things that the other rooms work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from include.backup.stores.url import parse_url
from include.errors import MaintenanceError
from include.postgres.dsn import Dsn

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from include.backup.stores.base import Store
    from include.config.settings import StoreSettings

HEARTBEAT_CONNECTION = "heartbeat"

# Extras that go on to libpq. None of them is a secret: they stand in pg_dump's argument list.
_LIBPQ = frozenset(
    {
        "application_name",
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "krbsrvname",
        "options",
        "require_auth",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslrootcert",
        "target_session_attrs",
        "tcp_user_timeout",
    }
)


def find(conn_id: str) -> Connection | None:
    """An Airflow connection, or None where it is not configured."""
    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None


def postgres_dsn(conn_id: str, *, database: str | None = None) -> Dsn:
    """What an Airflow connection of type postgres says.

    Args:
        conn_id: the connection.
        database: the configured name of the database it is for, for the error's sake.

    Raises:
        MaintenanceError: there is no such connection, or it lacks something.
    """
    connection = find(conn_id)
    if connection is None:
        raise _unusable(conn_id, "does not exist", database)
    missing = [name for name in ("host", "login", "schema") if not getattr(connection, name)]
    if missing:
        names = {"login": "login (the role)", "schema": "schema (the database's name)", "host": "host"}
        raise _unusable(conn_id, f"has no {', '.join(names[name] for name in missing)}", database)
    extras = {name: value for name, value in connection.extra_dejson.items() if value not in {None, ""}}
    if unknown := sorted(extras.keys() - _LIBPQ):
        allowed = ", ".join(sorted(_LIBPQ))
        raise _unusable(
            conn_id, f"has extras that cannot be used here: {', '.join(unknown)} (allowed: {allowed})", database
        )
    options = {name: str(value) for name, value in extras.items()}
    return Dsn(
        host=str(connection.host),
        port=connection.port or 5432,
        dbname=str(connection.schema),
        user=str(connection.login),
        password=connection.password,
        options=options,
    )


def _unusable(conn_id: str, problem: str, database: str | None) -> MaintenanceError:
    return MaintenanceError(
        f"the Airflow connection `{conn_id}` {problem}",
        database=database,
        untouched="nothing was read or written",
        remedy=f"set it under Admin > Connections (type Postgres) or as AIRFLOW_CONN_{conn_id.upper()}",
    )


def open_store(settings: StoreSettings) -> Store:
    """The store that the configuration names, with the credentials of its Airflow connection.

    Without that connection S3 and GCS use what the machine itself offers (instance role, environment).
    """
    url = parse_url(settings.url)
    if url.scheme == "file":
        from include.backup.stores.local import LocalStore

        return LocalStore(url.path)
    conn_id = settings.connection if find(settings.connection) is not None else None
    if url.scheme == "gs":
        from airflow.providers.google.cloud.hooks.gcs import GCSHook

        from include.backup.stores.gcs import GcsStore

        # The provider's own default is a connection that need not exist: an empty one means the machine's credentials.
        return GcsStore(GCSHook(gcp_conn_id=conn_id or "").get_conn(), bucket=url.bucket, prefix=url.prefix)
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from include.backup.stores.s3 import S3Store, client_config

    hook = S3Hook(aws_conn_id=conn_id)
    endpoint = hook.conn_config.get_service_endpoint_url("s3")
    ours = client_config(path_style=endpoint is not None)
    # What the operator put into the connection's config_kwargs stands over our defaults.
    config = ours.merge(hook.conn_config.botocore_config) if hook.conn_config.botocore_config else ours
    client = S3Hook(aws_conn_id=conn_id, config=config).get_conn()
    return S3Store(client, bucket=url.bucket, prefix=url.prefix, max_parts=settings.max_parts)


def heartbeat_url() -> str | None:
    """The address of the connection `heartbeat` (type http), a secret; None where it is not configured.

    It is `host` (a name, or the whole address up to the secret part), `schema` (https by default) and `port`, then
    the password, which is the path: Airflow shows a password nowhere and masks it in logs.

    Raises:
        MaintenanceError: that makes no address.
    """
    connection = find(HEARTBEAT_CONNECTION)
    if connection is None:
        return None
    base = str(connection.host or "")
    if "://" not in base:
        base = f"{connection.schema or 'https'}://{base}" + (f":{connection.port}" if connection.port else "")
    if not base.startswith(("https://", "http://")) or not connection.host:
        raise MaintenanceError(
            f"the Airflow connection `{HEARTBEAT_CONNECTION}` has no host, or a schema other than https and http",
            untouched="all backups; but nobody outside heard that all is well, so an alarm will be raised there",
            remedy=f"set it under Admin > Connections (type HTTP) or as AIRFLOW_CONN_{HEARTBEAT_CONNECTION.upper()}",
        )
    return f"{base.rstrip('/')}/{(connection.password or '').lstrip('/')}"
