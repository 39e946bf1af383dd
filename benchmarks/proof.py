"""What a proof costs beside its dump: `python -m benchmarks.proof [DATA …]`.

The data are those of benchmarks.backup. Each round backs up into a folder, with row counts only and with row hashes,
and proves the latter on a second PostgreSQL 17 set up as docs/deployment.md advises for a proving ground. The machines
are noisy, so the median round's ratios are what counts.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.backup import LOADERS
from include.backup.dump import back_up
from include.backup.model import Tier
from include.backup.options import DumpOptions
from include.backup.stores.local import LocalStore
from include.proving.ground import Production, open_ground
from include.proving.options import ProofOptions
from include.proving.prove import prove, require_proved
from include.stack.postgres import PostgresServer, installations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from include.postgres.dsn import Dsn
    from include.proving.ground import Ground

SOURCE = {"max_wal_size": "4GB", "shared_buffers": "512MB", "fsync": "off"}
GROUND = {
    "max_wal_size": "8GB",
    "shared_buffers": "512MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
LIMIT = 3.0
FIGURES = ("dump, hashes", "dump, counts", "fetch", "restore", "compare", "proof", "proof / dump")


def seconds_later() -> Iterator[datetime]:
    """A clock for names: no two backups of a run may meet in one second."""
    start = datetime.now(UTC).replace(microsecond=0)
    number = 0
    while True:
        yield start + timedelta(seconds=number)
        number += 1


def measure(source: Dsn, ground: Ground, folder: Path, clock: Iterator[datetime]) -> dict[str, float]:
    """One round: two backups, one proof."""
    store = LocalStore(folder)
    seconds: dict[str, float] = {}
    for fingerprints in ("counts", "hashes"):
        manifest = back_up(
            source,
            store,
            database="benchmark",
            tier=Tier.DAILY,
            options=DumpOptions.model_validate({"fingerprints": fingerprints}),
            run_id="benchmark",
            now=lambda: next(clock),
        )
        seconds[f"dump, {fingerprints}"] = manifest.dump_seconds
    proof = prove(
        ground,
        store,
        manifest.backup_id,
        options=ProofOptions(),
        staging=folder.parent,
    )
    require_proved(proof)
    whole = proof.rto_seconds + proof.check_seconds
    return {
        **seconds,
        "fetch": proof.fetch_seconds,
        "restore": proof.restore_seconds,
        "compare": proof.check_seconds,
        "proof": whole,
        "proof / dump": whole / seconds["dump, hashes"],
    }


def run(sets: list[str], rounds: int) -> None:
    """Load, measure, print."""
    console = Console(width=110)
    table = Table(title=f"Median of {rounds} rounds, seconds", box=SIMPLE_HEAD)
    for heading in ("data", "MB on disk", *FIGURES):
        table.add_column(heading, justify="left" if heading == "data" else "right")
    with tempfile.TemporaryDirectory(prefix="night-porter-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # open to the account that root's server runs under
        programs = installations()[17]
        source = PostgresServer(folder / "source", bin_dir=programs, settings=SOURCE)
        proving = PostgresServer(folder / "ground", bin_dir=programs, settings=GROUND)
        try:
            source.start(die_with_parent=True)
            proving.start(die_with_parent=True)
            ground = open_ground(proving.superuser(), Production({}, {}))
            clock = seconds_later()
            for each in sets:
                size = load(source, each)
                all_rounds = []
                for number in range(1, rounds + 1):
                    figures = measure(source.superuser("benchmark"), ground, folder / "store", clock)
                    told = ", ".join(f"{what} {figures[what]:.2f}" for what in FIGURES)
                    console.print(f"{each}, round {number} of {rounds}: {told}")
                    all_rounds.append(figures)
                middle = sorted(all_rounds, key=lambda found: found["proof / dump"])[rounds // 2]
                table.add_row(each, f"{size / 1e6:,.0f}", *(f"{middle[what]:.2f}" for what in FIGURES))
                with source.superuser().connect() as session:
                    session.execute("DROP DATABASE benchmark WITH (FORCE)")
        finally:
            for server in (source, proving):
                server.kill()
                server.remove()
    console.print(table)
    console.print(
        f"proof / dump is to be at most {LIMIT:g}. What the dump with hashes takes longer than the one with counts is "
        "the row hashes' cost on the source: `fingerprints: counts` saves it, and the certificate then says so."
    )


def load(server: PostgresServer, name: str) -> int:
    """A new database with one set of data; its size on disk in bytes."""
    with server.superuser().connect() as session:
        session.execute("CREATE DATABASE benchmark")
    kind, _, amount = name.partition(":")
    dsn = server.superuser("benchmark")
    LOADERS[kind](dsn, float(amount))
    with dsn.connect() as session:
        session.execute("VACUUM ANALYZE")
        row = session.execute("SELECT pg_database_size('benchmark')").fetchone()
    return int(row[0]) if row else 0


def main() -> None:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", default=["tokens:7000000", "hotel:100"], help="hotel:SCALE or tokens:ROWS")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    run(options.data, options.rounds)


if __name__ == "__main__":
    main()
