"""How a store is named in the configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from include.backup.stores.keys import is_key

_SHAPE = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,15})://(?P<authority>[^/]*)(?P<path>/.*)?\Z", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}\Z")
ALLOWED = "file:///absolute/path, s3://bucket/prefix or gs://bucket/prefix (the prefix may be empty)"


@dataclass(frozen=True)
class StoreUrl:
    """Where backups are kept.

    Args:
        scheme: `file`, `s3` or `gs`.
        bucket: its name; empty for `file`.
        prefix: below the bucket, without `/` at either end, perhaps empty; for `file` the absolute path.
    """

    scheme: Literal["file", "s3", "gs"]
    bucket: str
    prefix: str

    @property
    def path(self) -> Path:
        """The folder of a `file` store."""
        return Path(self.prefix)

    def __str__(self) -> str:
        if self.scheme == "file":
            return self.path.as_uri()
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")


def parse_url(url: str) -> StoreUrl:
    """Take a store's address apart.

    No message repeats the address, since one that is refused may hold a password.

    Raises:
        ValueError: it names no store that is known here; the message says what is allowed.
    """
    shape = _SHAPE.match(url)
    if shape is None:
        raise ValueError(f"a store is given as {ALLOWED}")
    scheme, authority, path = shape["scheme"], shape["authority"], shape["path"] or ""
    if "@" in url or ":" in authority or "?" in url or "#" in url:
        raise ValueError(
            "a store's address holds no user, password, port, query or fragment: keys, region and endpoint belong "
            f"in the Airflow connection `backup_store`; allowed is {ALLOWED}"
        )
    if scheme == "file":
        parts = unquote(path).strip("/")
        if authority or not parts or ".." in parts.split("/") or "\x00" in parts:
            raise ValueError(
                "a folder is given as file:///absolute/path: three slashes, no host, no '..', not the root itself"
            )
        return StoreUrl("file", "", f"/{parts}")
    if scheme not in {"s3", "gs"}:
        raise ValueError(f"{scheme}:// is no store known here; allowed is {ALLOWED}")
    prefix = path.strip("/")
    if not _BUCKET.match(authority):
        raise ValueError(
            f"{scheme}:// needs a bucket's name of letters, digits, '.', '_' and '-': {scheme}://bucket/prefix"
        )
    if prefix and not is_key(prefix):
        raise ValueError("a store's prefix has no empty parts and none that begins with a dot")
    return StoreUrl("s3" if scheme == "s3" else "gs", authority, prefix)
