"""From a restored database under a temporary name to one that people use: owner, settings, grants and the name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from include.backup.schema_objects_rights import NOT_IN_ARCHIVE
from include.proving.recover_words import quoted
from include.proving.session import server_error

if TYPE_CHECKING:
    from include.backup.inventory import Inventory
    from include.postgres.dsn import Dsn

# What every new database has, and a working one has not, so that nobody looks into it before it is compared.
_USUAL_GRANT = "GRANT CONNECT, TEMPORARY ON DATABASE :database TO PUBLIC"


def statements(inventory: Inventory | None, *, owner: str | None) -> tuple[str, ...]:
    """What makes a database's own properties those of the one backed up, with `:database` for its name; pure.

    Args:
        inventory: of the backup, or None where it was made without.
        owner: who is to own it; None: who owned the one backed up, as far as that is known.
    """
    kept = [item for item in (inventory.objects if inventory else ()) if item.kind in NOT_IN_ARCHIVE]
    # Grants are made by the owner, so the owner comes first.
    owners = [item.definition for item in kept if item.kind == "database owner"]
    if owner is not None:
        owners = [f"ALTER DATABASE :database OWNER TO {quoted(owner)}"]
    return (*owners, _USUAL_GRANT, *(item.definition for item in kept if item.kind != "database owner"))


def give_name(
    dsn: Dsn,
    working_name: str,
    new_name: str,
    *,
    owner: str | None,
    inventory: Inventory | None,
    final_name: str,
    database: str,
) -> tuple[str, ...]:
    """Give a complete database its owner, settings, grants and name, and take its marker away, in one transaction.

    Args:
        dsn: another database of the server.
        working_name: what it is called.
        new_name: what it will be called.
        owner: who is to own it; None: who owned the one backed up.
        inventory: of the backup.
        final_name: what it will be called in the end, for the SQL that is left to do.
        database: the configured name, for messages.

    Returns:
        SQL of what the role was not allowed to do, or the server does not know (a role that is missing).

    Raises:
        MaintenanceError: the server refused the name, or failed; nothing has changed then.
    """
    by_hand = []
    try:
        with dsn.connect() as connection, connection.transaction():
            for statement in statements(inventory, owner=owner):
                try:
                    with connection.transaction():
                        connection.execute(_for(statement, working_name).encode())
                except psycopg.Error:
                    if connection.closed or connection.broken:
                        raise
                    by_hand.append(f"{_for(statement, final_name)};")
            name = sql.Identifier(working_name)
            connection.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(name))
            connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(name, sql.Identifier(new_name)))
    except psycopg.Error as error:
        raise server_error(f"{working_name} could not be renamed to {new_name!r}", error, database=database) from error
    return tuple(by_hand)


def _for(statement: str, name: str) -> str:
    return statement.replace(":database", quoted(name), 1)
