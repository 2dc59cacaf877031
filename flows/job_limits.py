"""Limits of one job within its worker: time and memory, so that one crystal cannot take a node down.

They hold in the main thread of a process alone, which is where workers of pools run their tasks: a signal reaches no
other thread, and memory belongs to the whole process.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.causes import JobTimeError

GB = 10**9


@dataclass(frozen=True)
class Limits:
    """What a job may take."""

    seconds: float | None = None
    """Wall time [s]; None: any."""
    memory_gb: float | None = None
    """Memory of the worker's process with the job in it [GB]; None: any."""


@contextlib.contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Hold the code inside to limits.

    More memory than allowed gives a `MemoryError` where it is asked for; a code that runs as a process of its own
    inherits the limit for itself.

    Raises:
        JobTimeError: The time is over; raised wherever the code inside happens to be, and in place of what that code
            makes of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _memory(limits.memory_gb), _time(limits.seconds):
        yield


@contextlib.contextmanager
def _time(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return

    told = JobTimeError(f"the job used up its {seconds:g} s")
    ended = False

    def over(_number: int, _frame: Any) -> None:
        nonlocal ended
        ended = True
        raise told

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except Exception as error:
        # libraries catch whatever comes where it comes, and raise errors of their own
        if ended and error is not told:
            raise told from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _memory(gigabytes: float | None) -> Iterator[None]:
    if gigabytes is None:
        yield
        return
    # RLIMIT_DATA counts what is written to, unlike RLIMIT_AS, which counts every library that is only mapped.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(gigabytes * GB)
    allowed = [one for one in (wanted, soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
