"""What a recovery tells a person before it begins: point by point, with figures, what it will do and what not."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from humanize import naturalsize, precisedelta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime, timedelta

    from include.backup.model import CatalogEntry, Manifest
    from include.proving.recover_target import Live, TargetServer

_LISTED = 10


def rename_sql(old: str, new: str) -> str:
    """The statement that a person can paste."""
    return f"ALTER DATABASE {quoted(old)} RENAME TO {quoted(new)};"


def go_back_sql(live: str, *, old_name: str, set_aside: str) -> tuple[str, ...]:
    """What undoes a swap, to be run in another database of the server by the owner of both."""
    literal = "'{}'".format(live.replace("'", "''"))
    return (
        f"ALTER DATABASE {quoted(live)} WITH ALLOW_CONNECTIONS false;",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {literal};",  # noqa: S608 - shown, not run
        "BEGIN;",
        rename_sql(live, set_aside),
        rename_sql(old_name, live),
        "COMMIT;",
        f"ALTER DATABASE {quoted(set_aside)} WITH ALLOW_CONNECTIONS true;",
    )


def quoted(name: str) -> str:
    """An identifier as SQL needs it."""
    return '"{}"'.format(name.replace('"', '""'))


def age(of: timedelta) -> str:
    """A span of time to the minute, or to the second where it is short."""
    return precisedelta(of, minimum_unit="minutes" if of.total_seconds() >= 3600 else "seconds", format="%.0f")


def listing(entries: Iterable[CatalogEntry], now: datetime) -> str:
    """What there is to choose from, newest first."""
    newest = sorted(entries, key=lambda entry: entry.manifest.created_at, reverse=True)
    shown = [f"{entry.manifest.id} ({state(entry)}, {age(now - entry.manifest.created_at)} old)" for entry in newest]
    more = f"; and {len(shown) - _LISTED} older ones" if len(shown) > _LISTED else ""
    return "; ".join(shown[:_LISTED]) + more or "none at all"


def state(entry: CatalogEntry) -> str:
    """How far a backup is trusted, in a few words."""
    if entry.proved:
        return "proved, rows counted only" if entry.proof is not None and entry.proof.counts_only else "proved"
    if entry.verdict == "failed":
        return "its proof FAILED"
    if entry.verification is not None and entry.verification.failure is not None:
        return "its verification FAILED"
    if entry.good:
        return "verified, its proof is incomplete" if entry.verdict == "incomplete" else "verified, not proved"
    return "not verified"


def points(
    entry: CatalogEntry,
    *,
    others: Iterable[CatalogEntry],
    server: TargetServer,
    new_name: str,
    swap: str | None,
    old_name: str | None,
    now: datetime,
) -> tuple[str, ...]:
    """All that a person should know before saying yes; pure.

    Args:
        entry: the backup.
        others: all backups of the same database.
        server: what was found on the target server.
        new_name: of the restored database.
        swap: the live database to be replaced, or None.
        old_name: what that will be called, or None.
        now: UTC.
    """
    found = [
        *_backup(entry, others, now),
        *_time(entry, others),
        *_where(entry.manifest, server),
        *_room(entry.manifest, server.live),
        f"A new database {new_name!r} is made there, with the owner, settings and grants of the one backed up. What "
        f"{server.dsn.user} may not set is listed as SQL at the end. Until everything is restored and compared row by "
        "row with the backup's own records it has a temporary name (np_restoring_…); where that fails, nothing of the "
        "wanted name appears. No existing database is written to.",
    ]
    if swap is not None and old_name is not None and server.live is not None:
        found += _swap(swap, server.live, new_name=new_name, old_name=old_name)
    else:
        found.append("Nothing else is changed: applications go on with the database they use now.")
    if entry.manifest.inventory is None:
        found.append(
            "CAUTION: this backup was made without an inventory: of its schema, sequences and large objects nothing "
            "can be compared, and the database's own settings and grants are not known."
        )
    found.append(
        "Not in a backup, so not brought back: roles and their passwords, settings of roles, tablespaces, replication "
        "slots, the server's configuration. Subscriptions come back disabled."
    )
    return tuple(found)


def _backup(entry: CatalogEntry, others: Iterable[CatalogEntry], now: datetime) -> Iterator[str]:
    manifest = entry.manifest
    counted = [table.rows for table in manifest.tables if table.rows is not None]
    taken = manifest.created_at.astimezone(UTC)
    yield (
        f"Backup {manifest.id}: {manifest.tier}, {sum(counted):,} rows in {len(manifest.tables)} tables, "
        f"{naturalsize(manifest.bytes, binary=True)} in the store"
        f"{', encrypted: the age private key is needed' if manifest.encryption_recipients else ''}; of the database "
        f"{manifest.server.database!r} on PostgreSQL {manifest.server.version}, revision "
        f"{manifest.schema_revision or 'none'}."
    )
    if entry.proved and entry.proof is not None:
        yield (
            f"It was restored and {state(entry)} on {entry.proof.proved_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC "
            f"({len(entry.proof.checks)} checks)."
        )
    else:
        yield f"CAUTION: this backup is not proved ({state(entry)}). What it holds is seen only when it is restored."
    yield (
        f"LOST is everything that was written after {taken:%Y-%m-%d %H:%M:%S} UTC, {age(now - taken)} ago: it is not "
        "in this backup."
    )
    newer = [other for other in others if other.good and other.manifest.created_at > manifest.created_at]
    if newer:
        yield f"CAUTION: there are newer backups, which would lose less: {listing(newer, now)}."


def _time(entry: CatalogEntry, others: Iterable[CatalogEntry]) -> Iterator[str]:
    proofs = [other.proof for other in others if other.verdict in {"proved", "incomplete"} and other.proof is not None]
    own = entry.proof if entry.verdict in {"proved", "incomplete"} else None
    proof = own or max(proofs, key=lambda each: each.proved_at, default=None)
    if proof is None:
        yield "How long it will take is not known: no backup of this database was ever restored by Night Porter."
        return
    which = "this backup" if own is not None else f"an earlier one ({proof.backup})"
    yield (
        f"Measured recovery time of {which}: {proof.rto_seconds:,.1f} s (fetch {proof.fetch_seconds:,.1f} s, restore "
        f"{proof.restore_seconds:,.1f} s) on PostgreSQL {proof.server_version}; comparing took another "
        f"{proof.check_seconds:,.1f} s. Expect about {proof.rto_seconds + proof.check_seconds:,.0f} s here, on a "
        "server of the same strength."
    )


def _where(manifest: Manifest, server: TargetServer) -> Iterator[str]:
    identity = server.identity
    yield (
        f"Target: PostgreSQL {identity.version} at {server.dsn.host}:{server.dsn.port}, as role {server.dsn.user}, "
        f"with {len(server.databases)} databases."
    )
    if identity.system_identifier is None or manifest.server.system_identifier is None:
        yield "CAUTION: whether this is the server that the backup was taken from could not be found out."
    elif identity.system_identifier == manifest.server.system_identifier:
        yield "This is the very server that the backup was taken from."
    else:
        yield "This is another server than the one that the backup was taken from."
    if identity.major != manifest.server.major:
        yield (
            f"CAUTION: the backup is of PostgreSQL {manifest.server.major}, the target is {identity.major}. "
            "Definitions that the two write differently cannot be compared to the letter."
        )


def _room(manifest: Manifest, live: Live | None) -> Iterator[str]:
    now = f" The live database has {naturalsize(live.bytes, binary=True)} now." if live and live.bytes else ""
    yield (
        f"Room needed: {naturalsize(manifest.bytes, binary=True)} where this runs, for the archive; on the server the "
        f"whole database, commonly 3 to 12 times that, beside what is there.{now} A server cannot be asked for its "
        "free room through SQL: look before you begin."
    )


def _swap(swap: str, live: Live, *, new_name: str, old_name: str) -> Iterator[str]:
    count = sum(number for _, number, _ in live.sessions)
    yield (
        f"SWAP: when {new_name!r} is complete, {count} sessions on {swap!r} (as of now) are ended, and one transaction "
        f"renames {swap!r} to {old_name!r} and {new_name!r} to {swap!r}. New sessions wait meanwhile, usually for some "
        "tenths of a second, 5 s at most each time it is tried. Whatever applications write to the live database until "
        "then stays in the old one."
    )
    yield (
        f"The old database is kept as {old_name!r}, with everything in it. To go back, in another database of the "
        f"server: {' '.join(go_back_sql(swap, old_name=old_name, set_aside=new_name))}"
    )
    yield f"The database {swap!r} will belong to {live.owner}, as it does now."
    if stubborn := [f"{role} ({number})" for role, number, may_end in live.sessions if not may_end]:
        yield (
            f"CAUTION: the role may not end the sessions of {', '.join(stubborn)}. Stop them by hand before the swap, "
            "or GRANT pg_signal_backend (a superuser's can be ended by a superuser only); otherwise the swap fails and "
            f"the restored database stays {new_name!r}."
        )
    if live.prepared:
        yield (
            f"CAUTION: the live database has prepared transactions ({', '.join(live.prepared)}): while they are open "
            "the swap fails. COMMIT PREPARED or ROLLBACK PREPARED ends them."
        )
    if live.slots:
        yield f"CAUTION: the replication slots {', '.join(live.slots)} stay with the old database."
    if live.is_airflows is None:
        yield f"CAUTION: {swap!r} could not be looked into; that it is not Airflow's own database was not checked."
