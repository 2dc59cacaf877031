"""What one job may take: time and memory, in the main thread of its worker, and nothing of it afterwards."""

from __future__ import annotations

import resource
import signal
import threading
import time

import numpy as np
import pytest

from flows.causes import JobTimeError, classify
from flows.job_limits import Limits, limited
from flows.schemas import FailureCause

SHORT = Limits(seconds=0.05)


def test_a_job_ends_when_its_time_is_over() -> None:
    begin = time.monotonic()
    with pytest.raises(JobTimeError, match=r"used up its 0\.05 s"), limited(SHORT):
        time.sleep(5)
    assert time.monotonic() - begin < 1


def test_what_a_library_makes_of_the_end_does_not_hide_its_cause() -> None:
    with pytest.raises(JobTimeError) as caught, limited(SHORT):
        try:
            time.sleep(5)
        except Exception as error:
            raise ValueError("no symmetry is found") from error
    assert classify(caught.value) == FailureCause.WALLTIME


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="flat"), limited(Limits(seconds=60.0)):
        raise ValueError("flat")


def test_memory_beyond_the_limit_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(MemoryError), limited(Limits(memory_gb=0.001)):
        np.zeros(200_000_000)


def test_nothing_is_left_of_limits_afterwards() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)
    with limited(Limits(seconds=60.0, memory_gb=100.0)):
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] <= 100 * 10**9
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
    assert (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_other_threads_run_without_limits() -> None:
    ended = []

    def work() -> None:
        with limited(SHORT):
            time.sleep(0.1)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
