"""What Google Cloud Storage's refusals mean to an operator."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

from include.backup.stores.base import AlreadyExistsError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNTOUCHED = "every object already in the store"
BUSY = {408, 429, 500, 502, 503, 504}
GCS_ERRORS = (
    GoogleAPICallError,
    RetryError,
    GoogleAuthError,
    InvalidResponse,
    DataCorruption,
    requests.RequestException,
)
_REMEDIES = {
    400: "Check the settings in the Airflow connection `backup_store`.",
    401: "Put valid credentials into the Airflow connection `backup_store`, and check this machine's clock.",
    404: "Create the bucket, or correct its name in the configuration's store address.",
    412: "Nothing, if another run made this backup; else look at the object's date.",
}


@contextmanager
def gcs_errors(doing: str, *, permission: str) -> Iterator[None]:
    """Tell the service's refusal in an operator's words.

    Args:
        doing: what is being done, to which object, as a phrase: `deleting gs://b/k`.
        permission: that it takes, e.g. `storage.objects.delete`.

    Raises:
        StoreError: in the place of Google's errors.
    """
    try:
        yield
    except GCS_ERRORS as error:
        raise _translate(error, doing=doing, permission=permission) from error


def refusal(doing: str, *, status: int, cause: str, permission: str) -> StoreError:
    """The error for an HTTP status.

    Args:
        doing: see `gcs_errors`.
        status: HTTP status.
        cause: in the service's words.
        permission: see `gcs_errors`.
    """
    kind = AlreadyExistsError if status == 412 else StoreError
    remedy = _REMEDIES.get(status, "Look at the service's message; the connection used is `backup_store`.")
    if status in BUSY:
        remedy = "Run again later; if it persists, look at the service's status page."
    elif status == 403:
        remedy = f"Give the account of the connection `backup_store` the permission {permission} on this bucket."
    return kind(
        f"{doing} failed: {status} {cause}".rstrip(), untouched=UNTOUCHED, remedy=remedy, transient=status in BUSY
    )


def unreachable(doing: str, cause: str) -> StoreError:
    """The error for a service that does not answer."""
    return StoreError(
        f"{doing} failed: {cause}",
        untouched=UNTOUCHED,
        remedy="Check that the store can be reached from this machine, then run again.",
        transient=True,
    )


def cause_without_address(error: requests.RequestException) -> str:
    """What went wrong, without the address, which for an upload is as good as a key."""
    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", None)
    return f"{type(error).__name__} ({type(reason or inner).__name__})"


def _message(error: GoogleAPICallError) -> str:
    """The service's sentence, without the request's address, which comes first."""
    return str(error.errors[0].get("message", "")) if error.errors else type(error).__name__


def _translate(error: Exception, *, doing: str, permission: str) -> StoreError:
    if isinstance(error, RetryError) and error.cause is not None:
        error = error.cause
    if isinstance(error, DataCorruption):
        return StoreError(
            f"{doing} failed: the checksum of what arrived is not that of what was sent",
            untouched=UNTOUCHED,
            remedy="Run again; if it happens twice, suspect this machine's memory or a proxy on the way.",
        )
    if isinstance(error, requests.RequestException):
        return unreachable(doing, cause_without_address(error))
    status, cause = None, type(error).__name__
    if isinstance(error, GoogleAPICallError) and error.code is not None:
        status, cause = int(error.code), _message(error)
    elif isinstance(error, InvalidResponse):
        status, cause = int(error.response.status_code), ""
    elif isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        status = 401
    if status is None:
        return unreachable(doing, cause)
    return refusal(doing, status=status, cause=cause, permission=permission)
