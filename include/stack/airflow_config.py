"""What an embedded Airflow is told: one configuration file with everything in it, and one for connections.

Secrets go into these files (0600) only. An environment or an argument list would show them to `ps`, and
to every program that a task starts.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from include.stack.processes import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.postgres.dsn import Dsn

USERNAME = "admin"
# What a child needs of ours. The rest stays behind: a stray AIRFLOW__… would override the file.
_INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY",
              "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # fmt: skip


def new_secrets() -> dict[str, str]:
    """Fresh keys and the password of the one user, made once for an Airflow home."""
    return {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "secret_key": secrets.token_urlsafe(32),
        "jwt_secret": secrets.token_urlsafe(48),
        "password": secrets.token_urlsafe(12),
    }


def render_config(home: Path, *, root: Path, port: int, keys: Mapping[str, str]) -> str:
    """The text of airflow.cfg.

    Args:
        home: Airflow's home.
        root: the bundle's root: the folder with `dags/` and `plugins/`.
        port: port of the web UI and the API.
        keys: as `new_secrets` makes them.
    """
    url = f"http://127.0.0.1:{port}"
    sections: dict[str, dict[str, str]] = {
        "core": {
            "dags_folder": str(root),
            "plugins_folder": str(root / "plugins"),
            "load_examples": "False",
            # The nightly DAGs have catchup off: unpaused, they wait for their hour.
            "dags_are_paused_at_creation": "False",
            "executor": "LocalExecutor",
            "parallelism": str(max(2, os.cpu_count() or 2)),
            "fernet_key": keys["fernet_key"],
            "execution_api_server_url": f"{url}/execution/",
            "simple_auth_manager_users": f"{USERNAME}:admin",
            "simple_auth_manager_passwords_file": str(home / "passwords.json"),
        },
        "database": {
            "sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}",
            # The stack has just migrated it; four components need not look again.
            "check_migrations": "False",
        },
        "api": {"host": "127.0.0.1", "port": str(port), "base_url": url, "secret_key": keys["secret_key"]},
        "api_auth": {"jwt_secret": keys["jwt_secret"]},
        "scheduler": {"scheduler_idle_sleep_time": "0.5"},  # seconds a finished task waits for its successor
        "logging": {"base_log_folder": str(home / "logs"), "colored_console_log": "False"},
        "secrets": {
            "backend": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "backend_kwargs": json.dumps({"connections_file_path": str(home / "connections.json")}),
        },
    }
    lines = ["# Written at each start by include/stack/airflow_config.py.\n"]
    for section, options in sections.items():
        lines.append(f"\n[{section}]\n")
        # Airflow interpolates, so a per cent sign is doubled.
        lines += [f"{name} = {value.replace('%', '%%')}\n" for name, value in options.items()]
    return "".join(lines)


def postgres_connection(dsn: Dsn) -> dict[str, object]:
    """A database as Airflow's connection files name it."""
    return {
        "conn_type": "postgres",
        "host": dsn.host,
        "port": dsn.port,
        "schema": dsn.dbname,
        "login": dsn.user,
        "password": dsn.password,
    }


def environment(home: Path, *, root: Path, config_file: Path) -> dict[str, str]:
    """The whole environment of Airflow's processes; no secret is in it.

    Args:
        home: Airflow's home; also the marker that tells these processes from all others.
        root: the bundle's root; plugins import from it.
        config_file: the list of databases that the DAGs look after.
    """
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    loopback = "127.0.0.1,localhost"  # workers speak to the API server: never through a proxy
    return {
        **inherited,
        "no_proxy": loopback,
        "NO_PROXY": loopback,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(root),
        "PYTHONUNBUFFERED": "1",
        "NIGHT_PORTER_CONFIG": str(config_file),
        MARKER: str(home),
    }
