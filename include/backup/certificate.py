"""The certificate of a restore: what was compared with what the dump's own snapshot held, and what that showed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, Field, model_validator

from include.backup.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

Verdict = Literal["proved", "failed", "incomplete"]


class Check(Record):
    """One thing that was compared.

    Args:
        name: e.g. `rows`, `row hashes`, `sequences`, `constraints`.
        outcome: `held`; `differs` (then `findings` says exactly what); `not checked` (it should have been, and
            `findings` says why it could not); `left out` (by the operator's own setting).
        detail: what was compared, with figures, in words.
        findings: the differences, or the reasons.
    """

    name: str
    outcome: Literal["held", "differs", "not checked", "left out"]
    detail: str
    findings: tuple[str, ...] = ()


def conclude(checks: Iterable[Check]) -> Verdict:
    """Never more than was shown: one difference fails, one thing that could not be checked makes it incomplete."""
    outcomes = {check.outcome for check in checks}
    if "differs" in outcomes:
        return "failed"
    return "incomplete" if "not checked" in outcomes or not outcomes else "proved"


class Proof(Record):
    """What restoring one backup showed.

    Args:
        backup: the backup's id.
        sha256: of the archive that was restored.
        manifest_sha256: `Manifest.digest` of the manifest that it was compared with.
        proved_at: when the last check ended, UTC.
        verdict: `proved`, `failed` or `incomplete`; what `conclude` makes of the checks.
        checks: in the order they were made.
        fetch_seconds: bringing the archive from the store to disk, decryption and sha256 included.
        restore_seconds: from an empty server to a database that can be used, VACUUM ANALYZE included where it was made.
        check_seconds: all comparisons.
        rto_limit_seconds: what the operator wants of fetch and restore together, or None.
        server_version: of the server it was restored on.
        pg_restore: version of the tool that restored.
    """

    schema_version: Literal[1] = 1
    backup: str
    sha256: str
    manifest_sha256: str
    proved_at: AwareDatetime
    verdict: Verdict
    checks: tuple[Check, ...] = Field(min_length=1)
    fetch_seconds: float
    restore_seconds: float
    check_seconds: float
    rto_limit_seconds: float | None = None
    server_version: str
    pg_restore: str

    @model_validator(mode="after")
    def _says_what_was_shown(self) -> Proof:
        if self.verdict != conclude(self.checks):
            raise ValueError(f"the verdict is {self.verdict!r}, but the checks say {conclude(self.checks)!r}")
        return self

    @property
    def rto_seconds(self) -> float:
        """The measured recovery time: fetch and restore."""
        return self.fetch_seconds + self.restore_seconds

    @property
    def counts_only(self) -> bool:
        """Whether rows were counted but, by setting, not hashed."""
        return any(check.name == "row hashes" and check.outcome == "left out" for check in self.checks)
