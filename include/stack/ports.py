"""Free TCP ports on the loopback address."""

from __future__ import annotations

import random
import socket

# Below Linux's ephemeral range, so that no outgoing connection takes a port while its server is down.
_LOWEST, _HIGHEST = 20_000, 32_000
_ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port in TIME_WAIT is free, one with a listener is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None) -> int:
    """The preferred port where it is free, else any other free one.

    Raises:
        OSError: none of many tried ports was free.
    """
    if preferred is not None and is_free(preferred):
        return preferred
    generator = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        candidate = generator.randint(_LOWEST, _HIGHEST)
        if is_free(candidate):
            return candidate
    raise OSError(f"no free port found between {_LOWEST} and {_HIGHEST} on 127.0.0.1")
