"""Processes of ours: which they are, whether they are gone, and how they end with us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

MARKER = "NIGHT_PORTER_HOME"


def seconds_after_boot(process: psutil.Process) -> float:
    """When a process started, on a clock that does not move when somebody sets the time."""
    return float(process.create_time()) - psutil.boot_time()


def began_at(process: psutil.Process, started: float) -> bool:
    """Whether a process is the one that started so many seconds after boot, not a later owner of its id."""
    return abs(seconds_after_boot(process) - started) < 2


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that waits to be reaped by its parent does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_same(process: psutil.Process, started: float) -> bool:
    """Whether a process is alive and the one that started so many seconds after boot."""
    return is_alive(process) and began_at(process, started)


def wait_gone(processes: Iterable[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Wait until processes have ended; those that are left after `seconds`."""
    # Not psutil.wait_procs: an orphan's entry stays until init reaps it, which can take seconds.
    deadline = time.monotonic() + seconds
    left = [process for process in processes if is_alive(process)]
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = [process for process in left if is_alive(process)]
    return left


def members(home: Path, sessions: Collection[int]) -> list[psutil.Process]:
    """Processes that belong to the service in `home`, also when the one that started them is gone.

    Args:
        home: the service's folder: the value of `MARKER` in the environment it started with.
        sessions: session ids it was started in. Programs that rename themselves overwrite the environment that
            others see, so a process in one of these sessions that works inside `home` counts too.
    """
    ourselves = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
            if process.pid in ourselves:
                continue
            in_session = os.getsid(process.pid) in sessions and process.cwd() == str(home)
            if in_session or process.environ().get(MARKER) == str(home):
                found.append(process)
    return found


def death_signal(sent: signal.Signals) -> Callable[[], None] | None:
    """What a child has to call before exec so that it gets this signal when our thread ends (Linux only)."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork, where loading is safe

    def ask() -> None:
        pr_set_pdeathsig = 1
        libc.prctl(pr_set_pdeathsig, int(sent))
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(1)

    return ask
