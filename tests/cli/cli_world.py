"""What the tests of the command line share: a shell without Airflow, and answers taken apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from typer.testing import CliRunner

from include.backup.verify import verify
from tests.backup.dump_world import dump, options

if TYPE_CHECKING:
    from typer.testing import Result

    from include.backup.model import Manifest
    from include.backup.stores.base import Store
    from include.postgres.dsn import Dsn

ROOT = Path(__file__).parents[2]
_PROGRAM = [sys.executable, "-m", "include.cli"]


@dataclass
class DarkShell:
    """A shell on the worst night: importing Airflow fails, there is no configuration and no Airflow home."""

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def environment(self, **variables: str) -> dict[str, str]:
        sitecustomize = self.folder / "dark" / "sitecustomize.py"
        sitecustomize.parent.mkdir(exist_ok=True)
        sitecustomize.write_text("import sys\nsys.modules['airflow'] = None\n", encoding="utf-8")
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(sitecustomize.parent),
            "NIGHT_PORTER_CONFIG": str(self.folder / "nowhere" / "maintenance.yaml"),
            "no_proxy": "127.0.0.1",
            **self.variables,
            **variables,
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_PROGRAM, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            env=self.environment(**variables),
        )

    def as_json(self, *arguments: str, status: int = 0, **variables: str) -> Any:
        """The JSON document that is all of stdout."""
        answer = self.run(*arguments, "--json", **variables)
        assert answer.returncode == status, answer.stderr
        return json.loads(answer.stdout)

    @property
    def command(self) -> list[str]:
        return list(_PROGRAM)


def address(dsn: Dsn, **options: str) -> str:
    """As --dsn takes it: no password."""
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"postgresql://{dsn.user}@{dsn.host}:{dsn.port}/{dsn.dbname}{'?' if query else ''}{query}"


def connection(dsn: Dsn) -> str:
    """As AIRFLOW_CONN_… has it."""
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": dsn.host,
            "port": dsn.port,
            "login": dsn.user,
            "password": dsn.password,
            "schema": dsn.dbname,
        }
    )


def configure(home: Path, **databases: str) -> None:
    document = {
        "store": {"url": (home / "store").as_uri()},
        "databases": {name: {"connection": conn_id} for name, conn_id in databases.items()},
    }
    (home / "maintenance.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def run(*arguments: str) -> Result:
    from include.cli.app import app

    return CliRunner().invoke(app, arguments)


def as_json(result: Result) -> Any:
    """All of stdout is one JSON document."""
    return json.loads(result.stdout)


def kept(store: Store, source: Dsn, *, database: str = "hotel", **how: object) -> Manifest:
    """A backup that was verified when it was made."""
    manifest = dump(source, store, options(**how), database=database)  # type: ignore[arg-type] # of DumpOptions
    verify(store, manifest.backup_id)
    return manifest


def password(dsn: Dsn) -> dict[str, str]:
    assert dsn.password is not None
    return {"PGPASSWORD": dsn.password}


def rooms(server: Dsn, name: str) -> int:
    with server.with_dbname(name).connect() as session:
        row = session.execute("SELECT count(*) FROM rooms").fetchone()
    assert row is not None
    return int(row[0])
