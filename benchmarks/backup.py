"""Our backup beside the usual ones, on databases of a GB or more: `python -m benchmarks.backup [DATA …]`.

The data are `hotel:SCALE`, the worked example, which repeats itself and so compresses to a tenth, and `tokens:ROWS`, a
table of ids, tokens and amounts, which compresses as poorly as many real databases do. gzip's cost depends on that.

Five ways in one run, several rounds, each on the same PostgreSQL 17: the raw ceiling (`pg_dump -Fc -Z zstd:1` to
nowhere), ours with row counts only into an S3 server on loopback (rclone, which shares the cores), the same into a
folder, ours with row hashes into S3, and the usual pipeline (`pg_dump -Fc`, which is gzip, into a managed upload). The
machines are noisy, so ratios of each way's median round are what counts. Memory is the peak above what the same process
holds before it begins.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import DumpOptions
from include.backup.stores.local import LocalStore
from include.backup.stores.part_sizes import MIB, base_part_bytes, part_bytes
from include.backup.stores.s3 import S3Store
from include.backup.verify import verify
from include.hotel import data, migrate
from include.postgres import tools as client
from include.postgres.dsn import Dsn
from include.stack.postgres import PostgresServer, installations
from tests.objectstores import rclone_server, s3_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.backup.stores.base import Store

BUCKET = "benchmark"
# The S3 server shares the cores with what is measured: it is to hash no more than it must.
CHEAP_SERVER = ("--etag-hash", "", "--no-checksum", "--no-modtime")
# Two parts on their way and one being filled: include/backup/stores/parted.py.
BUFFERS = 3


def ceiling(dsn: Dsn, endpoint: str) -> dict[str, float]:
    """What pg_dump alone takes."""
    del endpoint
    tools = client.choose(17, "zstd:1")
    with tempfile.TemporaryFile() as stderr:
        command = [tools.path("pg_dump"), "--format=custom", "--compress=zstd:1"]
        with client.running(command, dsn, stdout=subprocess.DEVNULL, stderr=stderr) as process:
            _require(client.outcome(process, stderr))
    return {}


def usual(dsn: Dsn, endpoint: str) -> dict[str, float]:
    """`pg_dump -Fc | upload`, all by default."""
    from boto3.s3.transfer import TransferConfig

    tools = client.choose(17, "zstd:1")
    with tempfile.TemporaryFile() as stderr:
        command = [tools.path("pg_dump"), "--format=custom"]
        with client.running(command, dsn, stdout=subprocess.PIPE, stderr=stderr) as process:
            if process.stdout is None:
                raise AssertionError("pg_dump was started without a pipe")
            s3_client(endpoint).upload_fileobj(process.stdout, BUCKET, "usual.dump", Config=TransferConfig())
            _require(client.outcome(process, stderr))
    return {}


def ours_with_counts(dsn: Dsn, endpoint: str) -> dict[str, float]:
    """Our backup with the cheapest fingerprints, then its verification."""
    return _ours(dsn, endpoint, DumpOptions(fingerprints="counts"))


def ours_in_a_folder(dsn: Dsn, endpoint: str) -> dict[str, float]:
    """The same into a local folder: what is left when no S3 server takes part."""
    del endpoint
    with tempfile.TemporaryDirectory() as folder:
        return _measured(dsn, LocalStore(Path(folder)), DumpOptions(fingerprints="counts"))


def ours_with_hashes(dsn: Dsn, endpoint: str) -> dict[str, float]:
    """Our backup as it comes."""
    return _ours(dsn, endpoint, DumpOptions())


WAYS: dict[str, Callable[[Dsn, str], dict[str, float]]] = {
    "ceiling": ceiling,
    "ours, counts": ours_with_counts,
    "ours, counts, folder": ours_in_a_folder,
    "ours, hashes": ours_with_hashes,
    "usual": usual,
}


def _ours(dsn: Dsn, endpoint: str, options: DumpOptions) -> dict[str, float]:
    return _measured(dsn, S3Store(s3_client(endpoint), bucket=BUCKET, prefix="night-porter"), options)


def _measured(dsn: Dsn, store: Store, options: DumpOptions) -> dict[str, float]:
    list(store.list())  # the client's own start is no part of a dump
    idle = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    started = time.monotonic()
    manifest = back_up(dsn, store, database="hotel", tier=Tier.DAILY, options=options, run_id="benchmark")
    dumped = time.monotonic()
    verify(store, manifest.backup_id)
    return {
        "seconds": dumped - started,
        "verify": time.monotonic() - dumped,
        "fingerprint": manifest.fingerprint_seconds,
        "memory": _resident("VmHWM") - idle,
        "bytes": manifest.bytes,
    }


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def _require(failure: str | None) -> None:
    if failure is not None:
        raise RuntimeError(failure)


def measure(way: str, dsn: Dsn, endpoint: str) -> dict[str, float]:
    """One way once, in a process of its own."""
    environment = {**os.environ, "BENCHMARK_DSN": json.dumps([dsn.host, dsn.port, dsn.dbname, dsn.user, dsn.password])}
    command = [sys.executable, "-m", "benchmarks.backup", "--child", way, "--endpoint", endpoint]
    started = time.monotonic()
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return {"seconds": time.monotonic() - started, **json.loads(answer.stdout)}


def load_hotel(dsn: Dsn, size: float) -> None:
    """The worked example at a scale."""
    migrate.upgrade(dsn)
    data.generate(dsn, scale=size)


def load_tokens(dsn: Dsn, size: float) -> None:
    """A table whose text hardly repeats."""
    with dsn.connect() as session:
        session.execute(
            """
            CREATE TABLE events AS
            SELECT n AS id, md5(n::text)::uuid AS token, md5(n || 'a') || md5(n || 'b') AS signature,
                   n * 7919 %% 1000000 / 100.0 AS amount,
                   timestamptz '2024-01-01 00:00Z' + n * interval '7 s' AS happened
            FROM generate_series(1, %s::bigint) AS n
            """,
            (size,),
        )
        session.execute("ALTER TABLE events ADD PRIMARY KEY (id)")


LOADERS: dict[str, Callable[[Dsn, float], None]] = {"hotel": load_hotel, "tokens": load_tokens}


def run(sets: list[str], rounds: int) -> None:
    """Load, measure, print."""
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="night-porter-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # open to the account that root's server runs under
        (folder / "s3" / BUCKET).mkdir(parents=True)
        server = PostgresServer(
            folder / "server",
            bin_dir=installations()[17],
            settings={"max_wal_size": "4GB", "shared_buffers": "512MB", "fsync": "off"},
        )
        server.start(die_with_parent=True)
        try:
            with rclone_server(folder / "s3", folder / "rclone.log", flags=CHEAP_SERVER) as s3:
                for each in sets:
                    _one_set(console, server, s3.endpoint, each, rounds=rounds)
        finally:
            server.kill()
            server.remove()
    _arithmetic(console)


def _one_set(console: Console, server: PostgresServer, endpoint: str, name: str, *, rounds: int) -> None:
    with server.superuser().connect() as session:
        session.execute("CREATE DATABASE hotel")
    dsn = server.superuser("hotel")
    kind, _, amount = name.partition(":")
    LOADERS[kind](dsn, float(amount))
    with dsn.connect() as session:
        session.execute("VACUUM")
        row = session.execute("SELECT pg_database_size('hotel')").fetchone()
    size = row[0] if row else 0
    all_rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(1, rounds + 1):
        for way in WAYS:
            figures = measure(way, dsn, endpoint)
            console.print(f"{name}, round {number} of {rounds}: {way}: {figures['seconds']:.1f} s")
            all_rounds[way].append(figures)
    middle = {way: sorted(found, key=lambda f: f["seconds"])[len(found) // 2] for way, found in all_rounds.items()}
    with server.superuser().connect() as session:
        session.execute("DROP DATABASE hotel WITH (FORCE)")
    table = Table(title=f"{name}: {size / 1e6:,.0f} MB on disk", box=SIMPLE_HEAD)
    for heading in (
        "way",
        "s to the finished upload",
        "x ceiling",
        "times faster than usual",
        "verify s",
        "memory MiB",
    ):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for way, figures in middle.items():
        memory = f"{figures['memory'] / MIB:.0f}" if "memory" in figures else ""
        table.add_row(
            way,
            f"{figures['seconds']:.1f}",
            f"{figures['seconds'] / middle['ceiling']['seconds']:.2f}",
            f"{middle['usual']['seconds'] / figures['seconds']:.1f}",
            f"{figures['verify']:.1f}" if "verify" in figures else "",
            memory,
        )
    console.print(table)
    hashes, counts = middle["ours, hashes"], middle["ours, counts"]
    console.print(
        f"dump {hashes['bytes'] / 1e6:,.0f} MB; row hashes took {hashes['fingerprint']:.1f} s beside the dump "
        f"(counts {counts['fingerprint']:.1f} s) and made it {hashes['seconds'] - counts['seconds']:.1f} s longer"
    )


def _arithmetic(console: Console) -> None:
    table = Table(title="Parts and buffers by size of the dump (S3, 10,000 parts)", box=SIMPLE_HEAD)
    for heading in ("dump", "estimate", "first part", "parts", "largest part", "buffers"):
        table.add_column(heading, justify="right")
    for dump, estimate in ((1e9, 1e9), (1e10, 1e10), (1e11, 1e11), (1e11, 1e10), (1e12, 1e12), (1e12, 3e11)):
        base = base_part_bytes(expected_bytes=int(estimate), max_parts=10_000)
        sent = parts = 0
        largest = base
        while sent < dump:
            parts += 1
            largest = part_bytes(parts, base=base, max_parts=10_000)
            sent += largest
        table.add_row(
            f"{dump / 1e9:,.0f} GB",
            f"{estimate / 1e9:,.0f} GB",
            f"{base // MIB} MiB",
            f"{parts:,}",
            f"{largest // MIB:,} MiB",
            f"{BUFFERS * largest // MIB:,} MiB",
        )
    console.print(table)


def main() -> None:
    """Parse the arguments; a child measures one way and prints its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = ["hotel:30", "hotel:100", "tokens:7000000"]
    parser.add_argument("data", nargs="*", default=default, help="hotel:SCALE or tokens:ROWS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        run(options.data, options.rounds)
        return
    host, port, dbname, user, password = json.loads(os.environ.pop("BENCHMARK_DSN"))
    dsn = Dsn(host=host, port=port, dbname=dbname, user=user, password=password)
    started = time.monotonic()
    figures = WAYS[options.child](dsn, options.endpoint)
    print(json.dumps({"seconds": time.monotonic() - started, **figures}))


if __name__ == "__main__":
    main()
