"""Limits of one job within its worker: time and memory, so that one crystal cannot take a node down.

A job's time ends with its own limit, or shortly before the walltime of the block that its worker belongs to: what it
has reached is then saved while there is time to save it. A block says when it ends by variables of its workers:

    CAMPAIGN_BLOCK_ENDS    when its walltime is over [s since 1970]; without it, no block ends
    CAMPAIGN_BLOCK_GRACE   how long before that its jobs end [s]; `GRACE_S` where left out

They hold in the main thread of a process alone, which is where workers of pools run their tasks: a signal reaches no
other thread, and memory belongs to the whole process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flows.causes import BlockEndedError, JobTimeError, WorkerEndedError

GB = 10**9
BLOCK_ENDS = "CAMPAIGN_BLOCK_ENDS"
BLOCK_GRACE = "CAMPAIGN_BLOCK_GRACE"
GRACE_S = 30.0
"""What ending a code, saving a geometry and sending the result back may take [s]."""
GIVE_BACK_S = 5.0
"""How long a worker waits before it gives work back that it has no time for [s]."""


@dataclass(frozen=True)
class Limits:
    """What a job may take."""

    seconds: float | None = None
    """Wall time [s]; None: any."""
    memory_gb: float | None = None
    """Memory of the worker's process with the job in it [GB]; None: any."""


def block_seconds_left() -> float | None:
    """Return how long a job may run before this worker's block has to save what is left [s], 0 if it is time.

    None where no block ends.
    """
    ends, grace = _number(BLOCK_ENDS), _number(BLOCK_GRACE)
    if ends is None:
        return None
    return max(0.0, ends - (GRACE_S if grace is None else grace) - time.time())


def no_time_left() -> BlockEndedError | None:
    """Return what to give work back with that this worker's block has no time for; None if it may begin.

    The answer comes late: a worker that gives work back at once would get the same again, many times a second.
    """
    if block_seconds_left() != 0.0:
        return None
    time.sleep(GIVE_BACK_S)
    return BlockEndedError("the block has no time left; the work begins in another one")


@contextlib.contextmanager
def until_block_ends() -> Iterator[None]:
    """Hold the code inside to the time of this worker's block alone.

    Raises:
        BlockEndedError: It is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _time(None):
        yield


@contextlib.contextmanager
def limited(limits: Limits) -> Iterator[None]:
    """Hold the code inside to limits, to the time of this worker's block, and to SIGTERM.

    More memory than allowed gives a `MemoryError` where it is asked for; a code that runs as a process of its own
    inherits the limit for itself.

    Raises:
        JobTimeError: The time is over; raised wherever the code inside happens to be, and in place of what that code
            makes of it.
        BlockEndedError: Likewise where it is the block's time.
        WorkerEndedError: Likewise where the worker was told to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _memory(limits.memory_gb), _told_to_end(), _time(limits.seconds):
        yield


@contextlib.contextmanager
def _time(seconds: float | None) -> Iterator[None]:
    left = block_seconds_left()
    if seconds is None and left is None:
        yield
        return
    told: JobTimeError
    if left is not None and (seconds is None or left < seconds):
        told = BlockEndedError(f"the block ended after {left:.0f} s of the job; it goes on in another one")
        seconds = left
    else:
        told = JobTimeError(f"the job used up its {seconds:g} s")
    if not seconds:
        raise told
    with _interrupted(signal.SIGALRM, told):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Let SIGTERM, on which Python dies where it stands, interrupt the code inside instead."""
    if signal.getsignal(signal.SIGTERM) in (signal.SIG_IGN, None):
        yield
        return
    with _interrupted(signal.SIGTERM, WorkerEndedError("the worker was told to end (SIGTERM)")):
        yield


@contextlib.contextmanager
def _interrupted(number: signal.Signals, told: Exception) -> Iterator[None]:
    """Raise `told` at a signal, and again at the end where a library has made another error of it."""
    come = False

    def interrupt(_number: int, _frame: Any) -> None:
        nonlocal come
        if not come:  # not once more, while what was reached is being saved
            come = True
            raise told

    before: Callable[..., Any] | int | None = signal.signal(number, interrupt)
    try:
        yield
    except Exception as error:
        # libraries catch whatever comes where it comes, and raise errors of their own
        if come and error is not told:
            raise told from error
        raise
    finally:
        signal.signal(number, before)


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


def _number(variable: str) -> float | None:
    """Return an environment variable that is a number; None where it is not set, or is none."""
    try:
        return float(os.environ[variable])
    except (KeyError, ValueError):
        return None
