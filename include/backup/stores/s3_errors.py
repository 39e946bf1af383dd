"""What an S3 service's refusals mean to an operator."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)

from include.backup.stores.base import AlreadyExistsError, MissingObjectError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

UNTOUCHED = "every object already in the store"
_KEYS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "InvalidToken", "ExpiredToken", "InvalidSecurity",
    "NotSignedUp", "TokenRefreshRequired", "UnrecognizedClientException", "InvalidSignature", "401", "Unauthorized",
}  # fmt: skip
_PERMISSION = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403"}
_REGION = {
    "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion", "301",
}  # fmt: skip
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_BUSY = {
    "SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException", "InternalError",
    "ServiceUnavailable", "RequestLimitExceeded", "BandwidthLimitExceeded", "TooManyRequests",
}  # fmt: skip
_FULL = {"QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "StorageFull", "XMinioStorageFull", "507"}
_GONE = {"NoSuchKey", "NotFound", "404"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_REMEDIES = (
    (_CLOCK, "Set this machine's clock: the service refuses requests whose time is minutes off."),
    (
        _KEYS,
        "Put the right access key and secret into the Airflow connection `backup_store`; renew temporary keys.",
    ),
    ({"NoSuchBucket"}, "Create the bucket, or correct its name in the configuration's store address."),
    (
        _PERMISSION,
        "Allow the action {action} on this bucket and prefix to the key in the Airflow connection `backup_store`.",
    ),
    (_REGION, "Put the bucket's own region (`region_name`) into the Airflow connection `backup_store`."),
    (_FULL, "Raise the store's quota, or make room (`prune` shows what the retention rules would remove)."),
    (_GONE, "List the backups again: this object was deleted, or never was."),
    (_TAKEN, "Nothing, if another run made this backup; else look at the object's date."),
)


def error_code(error: ClientError) -> str:
    """The service's own word for what happened, or the HTTP status where it gave none."""
    return str(error.response.get("Error", {}).get("Code", "")) or str(_status(error))


def is_missing(error: ClientError) -> bool:
    """Whether there is no such object."""
    return error_code(error) in _GONE


def is_taken(error: ClientError | BotoCoreError) -> bool:
    """Whether the key was taken when the object was to be created."""
    return isinstance(error, ClientError) and error_code(error) in _TAKEN


def refuses_condition(error: ClientError) -> bool:
    """Whether the service does not know `If-None-Match` on what is written."""
    return _status(error) == 501 or error_code(error) in {"NotImplemented", "InvalidArgument"}


@contextmanager
def s3_errors(doing: str, *, action: str) -> Iterator[None]:
    """Tell the service's refusal in an operator's words.

    Args:
        doing: what is being done, to which object, as a phrase: `deleting s3://b/k`.
        action: the permission that it takes, e.g. `s3:DeleteObject`.

    Raises:
        StoreError: in the place of botocore's errors.
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise s3_error(error, doing=doing, action=action) from error


def s3_error(error: ClientError | BotoCoreError, *, doing: str, action: str) -> StoreError:
    """The same as a value."""
    if isinstance(error, ClientError):
        code = error_code(error)
        message = error.response.get("Error", {}).get("Message")
        cause = f"{code}: {message}" if message else code
    else:
        code, cause = "", str(error)
    kind: type[StoreError] = StoreError
    if code in _GONE:
        kind = MissingObjectError
    elif code in _TAKEN:
        kind = AlreadyExistsError
    transient = _is_transient(error)
    remedy = _client_remedy(error) if not code else _remedy(code, action=action, transient=transient)
    return kind(f"{doing} failed: {cause}", untouched=UNTOUCHED, remedy=remedy, transient=transient)


def _is_transient(error: ClientError | BotoCoreError) -> bool:
    if isinstance(error, ClientError):
        status = _status(error)
        return error_code(error) in _BUSY or status == 429 or (status >= 500 and status not in {501, 507})
    return isinstance(error, (ConnectionError, HTTPClientError)) and not isinstance(error, SSLError)


def _remedy(code: str, *, action: str, transient: bool) -> str:
    for codes, remedy in _REMEDIES:
        if code in codes:
            return remedy.format(action=action)
    if transient:
        return "Run again later; if it persists, look at the service's status page."
    return "Look the code up in the service's documentation; the connection used is `backup_store`."


def _client_remedy(error: ClientError | BotoCoreError) -> str:
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, NoAuthTokenError)):
        return "Put an access key and its secret into the Airflow connection `backup_store`."
    if isinstance(error, SSLError):
        return "Check the endpoint's certificate and the `verify` setting of the connection `backup_store`."
    if isinstance(error, (ConnectionError, HTTPClientError)):
        return "Check that the `endpoint_url` of the connection `backup_store` can be reached, then run again."
    return "Check the settings in the Airflow connection `backup_store`."


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
