"""The age private keys that open an encrypted backup: its archive and its inventory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.errors import MaintenanceError

if TYPE_CHECKING:
    from include.backup.model import Manifest


def private_keys(manifest: Manifest, identity: str | None) -> list[Any]:
    """The keys, of which at least one is a recipient's. No message repeats any part of a key.

    Args:
        manifest: of the encrypted backup.
        identity: one key a line, as `age-keygen` writes them, comments included.

    Raises:
        MaintenanceError: there is no key, what was given is none, or it is nobody's for whom this was encrypted.
    """
    import pyrage

    if not identity:
        raise _unusable(manifest, f"the backup {manifest.id} is encrypted, and no private key was given")
    lines = [line.strip() for line in identity.splitlines()]
    try:
        keys = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except pyrage.IdentityError:
        raise _unusable(manifest, "what was given as the private key is none: AGE-SECRET-KEY-1… is expected") from None
    public = [str(key.to_public()) for key in keys]
    if not set(public) & set(manifest.encryption_recipients):
        given = ", ".join(public) or "nobody"
        raise _unusable(manifest, f"the backup {manifest.id} is encrypted; the private key given is that of {given}")
    return keys


def _unusable(manifest: Manifest, what: str) -> MaintenanceError:
    return MaintenanceError(
        what,
        database=manifest.database,
        untouched="the backup stays as it is in the store; nothing was created on any server",
        remedy=f"give the age private key of one of its recipients ({', '.join(manifest.encryption_recipients)}): in "
        "Airflow the password of the connection that `identity_connection` names, in the shell --identity FILE",
    )
