"""Which failures a task tries again: only those where trying again unchanged can help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import RetryDecision, RetryPolicy

from include.errors import MaintenanceError

if TYPE_CHECKING:
    from airflow.sdk import Context


class RetryTransient(RetryPolicy):
    """A wrong password fails at once, a network that went away is tried again as often as the task's `retries` says."""

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Decide about one failure; see `airflow.sdk.RetryPolicy`."""
        del context
        if isinstance(exception, MaintenanceError) and not exception.transient:
            return RetryDecision.fail(reason="trying again unchanged cannot help")
        return RetryDecision.retry(reason=f"try {try_number} of {max_tries + 1} failed")

    def serialize(self) -> dict[str, Any]:
        """It has no settings."""
        return {}
