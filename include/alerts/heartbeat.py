"""The heartbeat: a sign of life to an address outside, which raises the alarm when it stays away.

It is the only alarm that works when this machine is off, Airflow is stopped or the network is gone.
"""

from __future__ import annotations

import http.client
import logging
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT_SECONDS = 10.0

log = logging.getLogger(__name__)


def beat(url: str, *, timeout: float = TIMEOUT_SECONDS) -> bool:
    """Ask for the address once. A receiver that does not answer well is a warning in the log, never an error.

    Its path is a secret: whoever knows it can keep the alarm quiet. So neither the address nor the text of an error,
    which may hold it, is logged.

    Args:
        url: `https://…` or `http://…`.
        timeout: seconds without an answer.

    Returns:
        Whether the receiver took it.

    Raises:
        ValueError: it is no such address.
    """
    if urllib.parse.urlsplit(url).scheme not in {"https", "http"}:
        raise ValueError("the heartbeat's address does not begin with https:// or http://")
    request = urllib.request.Request(url, headers={"User-Agent": "night-porter"})  # noqa: S310 - looked at above
    try:
        with urllib.request.urlopen(request, timeout=timeout):  # noqa: S310 - looked at above
            return True
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"it answered {error.code}"
    except urllib.error.URLError as error:
        reason = f"it cannot be reached ({type(error.reason).__name__})"
    except (http.client.HTTPException, OSError) as error:
        reason = f"it cannot be reached ({type(error).__name__})"
    log.warning("the heartbeat was not taken: %s; the receiver will miss it", reason)
    return False
