"""A proof: one backup becomes a database again, is compared with what was dumped, and gets a certificate."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pydantic import ValidationError

from include.backup.catalog import NoSuchBackupError, read_manifest
from include.backup.certificate import Check, Proof, conclude
from include.backup.inventory import read_inventory
from include.backup.stores.base import MissingObjectError
from include.backup.verify import BackupDamagedError
from include.errors import MaintenanceError
from include.proving.checks import checks_of
from include.proving.compare import judged
from include.proving.copies import empty_database, restored_copy
from include.proving.restore import RestoreFailedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from include.backup.model import BackupId, Manifest
    from include.backup.stores.base import Store
    from include.proving.archive_run import Progress
    from include.proving.copies import Copy
    from include.proving.ground import Ground
    from include.proving.options import ProofOptions

_FINDINGS_IN_A_MESSAGE = 3


class NotProvedError(MaintenanceError):
    """Restoring a backup showed that it is not what was dumped, or not all of it could be compared."""


def prove(
    ground: Ground,
    store: Store,
    backup: BackupId,
    *,
    options: ProofOptions,
    jobs: int = 2,
    staging: Path | None = None,
    identity: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Progress = lambda _what, _done, _total: None,
) -> Proof:
    """Restore one backup on the proving ground, compare it with what was dumped, and put the certificate beside it.

    A verdict of `proved` or `failed` replaces an earlier certificate, `incomplete` only one that says no more. A
    backup that was pruned meanwhile gets none.

    Args:
        ground: where.
        store: where the backup is.
        backup: which one.
        options: smoke queries and the wanted recovery time.
        jobs: parallel workers of pg_restore, and sessions that read the copy.
        staging: folder with room for the archive; the system's temporary one by default.
        identity: age private key of an encrypted backup.
        now: clock, UTC.
        progress: told what is counted (`bytes`, `tables`, `indexes`, `tables compared`), how much is done, of how much.

    Returns:
        The proof, whatever its verdict: see `require_proved`.

    Raises:
        MaintenanceError: the backup could not be judged (store or ground gone, a role or extension missing there);
            nothing was written.
    """
    manifest = read_manifest(store, backup)
    started = time.monotonic()
    certificate = partial(
        Proof,
        backup=manifest.id,
        sha256=manifest.sha256,
        manifest_sha256=manifest.digest,
        rto_limit_seconds=None if options.rto_minutes is None else options.rto_minutes * 60,
        server_version=ground.version,
    )
    try:
        inventory = read_inventory(store, manifest, identity=identity) if manifest.inventory else None
        with restored_copy(
            ground, store, manifest, jobs=jobs, staging=staging, identity=identity, progress=progress
        ) as copy:
            comparing = time.monotonic()
            checks = (
                judged("archive", f"{manifest.bytes:,} bytes with the sha256 that was written, read to the end"),
                judged("restore", f"pg_restore {copy.tools.version} ended without an error"),
                *checks_of(
                    copy,
                    inventory,
                    empty_database=partial(empty_database, ground.dsn, manifest),
                    options=options,
                    jobs=jobs,
                    progress=progress,
                ),
                _recovery_time(copy, options),
            )
            proof = certificate(
                proved_at=now(),
                verdict=conclude(checks),
                checks=checks,
                fetch_seconds=round(copy.fetch_seconds, 3),
                restore_seconds=round(copy.restore_seconds, 3),
                check_seconds=round(time.monotonic() - comparing, 3),
                pg_restore=copy.tools.version,
            )
    except (BackupDamagedError, RestoreFailedError) as error:
        check = judged(
            "restore" if isinstance(error, RestoreFailedError) else "archive",
            "the backup could not be restored",
            differs=[error.what],
        )
        damaged_after = round(time.monotonic() - started, 3)
        proof = certificate(
            proved_at=now(),
            verdict=conclude([check]),
            checks=(check,),
            fetch_seconds=damaged_after,  # until it was known; how it divides means nothing any more
            restore_seconds=0,
            check_seconds=0,
            pg_restore="",
        )
    _record(store, manifest, proof)
    return proof


def _recovery_time(copy: Copy, options: ProofOptions) -> Check:
    """The measured time. It always holds: a slow restore says nothing against what was restored."""
    seconds = copy.fetch_seconds + copy.restore_seconds
    detail = f"fetched in {copy.fetch_seconds:.1f} s, restored in {copy.restore_seconds:.1f} s"
    too_slow = options.rto_minutes is not None and seconds > options.rto_minutes * 60
    return Check(
        name="recovery time measured",
        outcome="held",
        detail=detail if options.rto_minutes is None else f"{detail}; at most {options.rto_minutes:g} minutes wanted",
        findings=(f"{seconds / 60:.1f} minutes are more than the {options.rto_minutes:g} wanted",) if too_slow else (),
    )


def _record(store: Store, manifest: Manifest, proof: Proof) -> None:
    """Write the certificate, unless the backup is gone or another by now, or an earlier one says more."""
    backup = manifest.backup_id
    try:
        if read_manifest(store, backup).digest != manifest.digest:
            return
    except NoSuchBackupError:
        return
    if proof.verdict == "incomplete":
        try:
            earlier = Proof.model_validate_json(store.get(backup.proof_key))
        except (MissingObjectError, ValidationError):
            pass
        else:
            same = (earlier.backup, earlier.sha256, earlier.manifest_sha256) == (
                proof.backup,
                proof.sha256,
                proof.manifest_sha256,
            )
            if same and earlier.verdict != "incomplete":
                return
    store.put(backup.proof_key, proof.model_dump_json(indent=2).encode(), replace=True)


def require_proved(proof: Proof) -> None:
    """Insist on a proof.

    Raises:
        NotProvedError: the verdict is `failed` or `incomplete`; the text has the first findings.
    """
    if proof.verdict == "proved":
        return
    decisive = "differs" if proof.verdict == "failed" else "not checked"
    findings = [
        f"{check.name}: {finding}" for check in proof.checks if check.outcome == decisive for finding in check.findings
    ]
    shown = "; ".join(findings[:_FINDINGS_IN_A_MESSAGE])
    more = f" (and {rest} more)" if (rest := len(findings) - _FINDINGS_IN_A_MESSAGE) > 0 else ""
    if proof.verdict == "failed":
        raise NotProvedError(
            f"restoring {proof.backup} did not give what was dumped: {shown}{more}",
            database=proof.backup.partition("/")[0],
            untouched="the backup stays where it is and is listed as failed; the copy is gone",
            remedy="run the backup again now and prove it; until a proof succeeds nothing of this database is pruned",
        )
    raise NotProvedError(
        f"{proof.backup} was restored, but not all of it could be compared: {shown}{more}",
        database=proof.backup.partition("/")[0],
        untouched="the backup and an earlier certificate that says more stay as they were; the copy is gone",
        remedy="give the proving ground what the findings name, then prove it again",
    )
