"""How long the hotel's data takes to load, on a PostgreSQL 17 of its own: `python -m benchmarks.generate [SCALE …]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from include.hotel import data, migrate
from include.stack.postgres import PostgresServer, installations


def measure(server: PostgresServer, scale: float) -> str:
    """Load one database and drop it again; a line of the table."""
    with server.superuser().connect() as session:
        session.execute("CREATE DATABASE benchmark")
    dsn = server.superuser("benchmark")
    migrate.upgrade(dsn)
    report = data.generate(dsn, scale=scale)
    with dsn.connect() as session:
        sizes = session.execute(
            """
            SELECT pg_database_size(current_database()) / 1000000, sum(pg_indexes_size(oid))::bigint / 1000000
            FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
            """
        ).fetchone()
    with server.superuser().connect() as session:
        session.execute("DROP DATABASE benchmark WITH (FORCE)")
    if sizes is None:
        raise RuntimeError("the server gave no sizes")
    rows = sum(report.rows.values())
    return (
        f"{scale:>6g} {report.rows['bookings']:>10,} {rows:>10,} {report.seconds:>8.1f} {rows / report.seconds:>8,.0f}"
        f" {sizes[0]:>8,} {sizes[1]:>8,}"
    )


def main(scales: list[float]) -> None:
    """Print the table, a line as soon as it is measured."""
    print(f"{'scale':>6} {'bookings':>10} {'rows':>10} {'seconds':>8} {'rows/s':>8} {'MB':>8} {'indexes':>8}")
    with tempfile.TemporaryDirectory(prefix="night-porter-benchmark-") as folder:
        # Open to the account that root's server runs under.
        Path(folder).chmod(0o711)
        server = PostgresServer(Path(folder) / "server", bin_dir=installations()[17], settings={"max_wal_size": "4GB"})
        server.start(die_with_parent=True)
        try:
            for scale in scales:
                print(measure(server, scale), flush=True)
        finally:
            server.kill()
            server.remove()


if __name__ == "__main__":
    main([float(scale) for scale in sys.argv[1:]] or [10, 100])
