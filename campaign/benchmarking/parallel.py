"""Plain tasks over a few processes, or in this one."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

ONE_THREAD = {**dict.fromkeys(THREADS, "1"), "SPGLIB_WARNING": "OFF"}
"""Variables of workers: each has one core."""

TOLD_FROM = 10
"""With so many tasks or more, their progress is told."""


def mapped(
    function: Callable[[Any], Result], tasks: Sequence[Any], workers: int, what: str = ""
) -> Iterator[Result]:
    """Yield the results of tasks, in their order.

    Args:
        function: A top-level function.
        tasks: What it gets, plain.
        workers: Processes; 1: this one.
        what: What is being worked at, for the progress.
    """
    if workers == 1 or len(tasks) < 2:
        yield from _told((function(task) for task in tasks), len(tasks), what)
        return
    from campaign.parallel.processes import start_worker

    # Not forked: a fork copies the locks of this process's threads in whatever state they are.
    executor = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=partial(start_worker, ONE_THREAD),
    )
    try:
        yield from _told(executor.map(function, tasks), len(tasks), what)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def say(line: str) -> None:
    """Tell the progress, beside what a command prints."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _told(results: Iterator[Result], number: int, what: str) -> Iterator[Result]:
    for place, result in enumerate(results, start=1):
        if what and number >= TOLD_FROM and place % max(1, number // 10) == 0:
            say(f"{what}: {place} of {number}")
        yield result
