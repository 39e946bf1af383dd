"""Runs the revisions over the connection it is handed; `include.hotel.migrate` is what calls it."""

from __future__ import annotations

from alembic import context

from include.hotel.migrate import VERSION_SCHEMA, VERSION_TABLE
from include.hotel.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    # Airflow's own metadata database has an alembic_version in public: the two must never be taken for each other.
    version_table_schema=VERSION_SCHEMA,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
