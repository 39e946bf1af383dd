"""What the containers need once before they start; run again at each start, it changes nothing that is there.

Called by the service `init` of docker-compose.yaml after `airflow db migrate`: writes the password of Airflow's user
`admin`, creates the bucket for backups, and gives a new hotel database its schema and, where wanted, demo data.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from include.config import settings as configuration
from include.errors import MaintenanceError


def main() -> int:
    """Do all of it; the exit status is 0 only for success."""
    try:
        write_password(
            Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]), os.environ["AIRFLOW_ADMIN_PASSWORD"]
        )
        prepare_store(configuration.load().store)
        prepare_hotel(float(os.environ["HOTEL_DEMO_SCALE"]))
    except (MaintenanceError, configuration.ConfigError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def write_password(path: Path, password: str) -> None:
    """Tell Airflow's simple auth manager the password, in a file that only Airflow's user can read."""
    path.touch(mode=0o600)
    path.write_text(json.dumps({"admin": password}), encoding="utf-8")


def prepare_store(settings: configuration.StoreSettings) -> None:
    """Create the bucket where it is missing, and see that the store takes backups.

    Raises:
        MaintenanceError: it does not.
    """
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from botocore.exceptions import ClientError

    from include.backup.stores.s3 import client_config
    from include.backup.stores.s3_errors import s3_errors
    from include.backup.stores.url import parse_url
    from include.runtime.connections import open_store

    url = parse_url(settings.url)
    if url.scheme == "s3":
        client: Any = S3Hook(aws_conn_id=settings.connection, config=client_config(path_style=True)).get_conn()
        with s3_errors(f"creating the bucket {url.bucket}", action="s3:CreateBucket"):
            try:
                client.head_bucket(Bucket=url.bucket)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                client.create_bucket(Bucket=url.bucket)
                _tell(f"bucket {url.bucket} created")
    open_store(settings).check_writable()
    _tell(f"{settings.url} takes backups")


def prepare_hotel(scale: float) -> None:
    """Give a hotel database that was never touched its schema, and an empty one its demo data.

    Args:
        scale: 1 is 10,000 bookings, 0 none.

    Raises:
        MaintenanceError: the database's connection is not there.
    """
    from include.hotel.data import generate
    from include.hotel.migrate import current, upgrade
    from include.runtime.connections import postgres_dsn

    dsn = postgres_dsn("hotel_db", database="hotel")
    # Only ever a new database: later its schema is in the hands of `database_migrate`.
    if current(dsn) is None:
        upgrade(dsn)
        _tell("the hotel's schema created")
    with dsn.connect() as session:
        if not scale or session.execute("SELECT FROM bookings LIMIT 1").rowcount:
            return
    report = generate(dsn, scale=scale)
    _tell(f"the hotel's demo data loaded: {sum(report.rows.values()):,} rows in {report.seconds:.0f} s")


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
