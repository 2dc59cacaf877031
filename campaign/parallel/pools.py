"""Pools: where tasks run. One interface over threads, plain processes, Parsl, and for labels FireWorks.

A pool takes top-level functions of plain documents and gives `concurrent.futures.Future`s. Nothing is
retried in here: the driver's own list of attempts decides, because only it knows what a second try costs.
What must not be lost is the cause, so every broken worker, node or pool comes back as an exception that
`classify_exception` names.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import (
    BrokenExecutor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from functools import partial
from pathlib import Path
from typing import Any, Literal

from campaign.parallel.fireworks_config import FireworksPoolConfig
from campaign.parallel.pooling import Block, Pools, site_sizes, worker_environment
from campaign.parallel.processes import MARKER, end_carrying, new_marker, start_worker
from campaign.site import Site
from campaign.site_sizes import PoolSize

PoolKind = Literal["parsl", "processes", "threads"]

PoolMaker = Callable[[Site], Pools]
"""What starts pools of another kind: those of `campaign benchmark` have an oracle among their workers."""

_NODE_LOST = {
    "BrokenProcessPool", "BrokenExecutor", "WorkerLost", "ManagerLost", "PoolLostError", "BadStateException",
    "VersionMismatch",
}  # fmt: skip
_OUT_OF_MEMORY = {"MemoryError", "OutOfMemoryError"}
_WALLTIME = {"AppTimeout", "TimeoutExpired", "WalltimeError"}
_MEMORY_WORDS = ("out of memory", "cannot allocate memory", "bad_alloc", "unable to allocate", "oom-kill")
_WALLTIME_WORDS = ("due to time limit", "exceeded walltime", "walltime limit")


def open_pools(site: Site, run_dir: Path, kind: PoolKind = "parsl", identity: str = "none") -> Pools:
    """Start the site's pools.

    Args:
        site: The site.
        run_dir: Folder for logs and scripts (created; made absolute).
        kind: `parsl` for campaigns; `processes` and `threads` for tests and very small machines.
        identity: Whose batch jobs they are: `campaign.parallel.queues.campaign_identity`.

    Raises:
        SiteError: A pool cannot be sized or does not start, or the LaunchPad of a pool does not answer.
    """
    if isinstance(site.pools.dft, FireworksPoolConfig):
        from campaign.parallel.fireworks_pool import FireworksPools

        return FireworksPools(site.pools.dft, partial(_open_workers, site, run_dir, kind, identity), run_dir)
    return _open_workers(site, run_dir, kind, identity)


def _open_workers(site: Site, run_dir: Path, kind: PoolKind, identity: str) -> Pools:
    """Start the pools that have workers of their own."""
    if kind == "parsl":
        from campaign.parallel.parsl_pools import ParslPools

        return ParslPools(site, run_dir, identity)
    sizes = site_sizes(site)
    return ThreadPools(sizes) if kind == "threads" else ProcessPools(sizes, environment=site.environment)


class ThreadPools:
    """Pools of threads in this process: for tests of the driver, and `--pools threads`.

    The working directory is common to all threads, so label flows, which change it, must run one at a time:
    the pool `dft` has one thread whatever the site says.
    """

    def __init__(self, sizes: Mapping[str, PoolSize]) -> None:
        self.slots: Mapping[str, int] = {n: 1 if n == "dft" else size.workers for n, size in sizes.items()}
        self._executors = {name: ThreadPoolExecutor(n, f"pool-{name}") for name, n in self.slots.items()}

    def submit(
        self,
        pool: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        expected_s: float | None = None,  # noqa: ARG002
    ) -> Future[Any]:
        """Run `function(*args)` in a thread of `pool`."""
        return self._executors[pool].submit(function, *args)

    def blocks(self) -> list[Block]:
        """Return one block for all threads; it has no marker, for they end with the driver."""
        return [Block("all", "0", str(os.getpid()), "local", platform.node(), "")]

    def close(self, cancel: bool) -> None:
        """End the pools; a thread cannot be stopped, so running tasks are waited for in any case."""
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=cancel)


class ProcessPools:
    """Pools of plain processes on this machine; one whose process died is replaced at the next submission."""

    def __init__(self, sizes: Mapping[str, PoolSize], environment: Mapping[str, str] | None = None) -> None:
        self.slots: Mapping[str, int] = {name: size.workers for name, size in sizes.items()}
        self._marker = new_marker()
        self._environments = {
            name: {**worker_environment(size, environment or {}), MARKER: self._marker}
            for name, size in sizes.items()
        }
        self._executors = {name: self._executor(name) for name in sizes}

    def _executor(self, pool: str) -> ProcessPoolExecutor:
        # Not forked: a fork copies the locks of this process's threads in whatever state they are.
        return ProcessPoolExecutor(
            self.slots[pool],
            mp_context=multiprocessing.get_context("spawn"),
            initializer=partial(start_worker, self._environments[pool]),
        )

    def submit(
        self,
        pool: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        expected_s: float | None = None,  # noqa: ARG002
    ) -> Future[Any]:
        """Run `function(*args)` in a process of `pool`."""
        try:
            return self._executors[pool].submit(function, *args)
        except BrokenExecutor:  # a worker died since; its tasks have the exception already
            self._executors[pool].shutdown(wait=False)
            self._executors[pool] = self._executor(pool)
            return self._executors[pool].submit(function, *args)

    def blocks(self) -> list[Block]:
        """Return one block for all processes of the pools."""
        return [Block("all", "0", "", "local", platform.node(), self._marker)]

    def close(self, cancel: bool) -> None:
        """End the pools, after all submitted tasks or at once."""
        for executor in self._executors.values():
            if cancel:
                # list(): the executor's own thread takes finished processes out meanwhile
                for process in list((executor._processes or {}).values()):
                    process.terminate()
            executor.shutdown(wait=True, cancel_futures=cancel)
        end_carrying(MARKER, self._marker, grace_s=1.0)


def classify_exception(error: BaseException) -> tuple[str, str]:
    """Say why a task ended without a result.

    Args:
        error: What its future raised.

    Returns:
        Cause, one of `flows`' failure causes as far as a pool can tell (`node_lost`, `out_of_memory`,
        `walltime`, `unknown`), and a message of one line.
    """
    seen: BaseException | None = error
    cause = "unknown"
    for _ in range(8):  # long enough for any honest chain of causes
        if seen is None or cause != "unknown":
            break
        cause = _cause(seen)
        seen = seen.__cause__
    return cause, _one_line(error)


def failure_cause(error: BaseException) -> str:
    """Return the cause alone; see `classify_exception`."""
    return classify_exception(error)[0]


def _cause(error: BaseException) -> str:
    # By name, so that neither parsl nor torch is imported for it.
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    if names & _OUT_OF_MEMORY or getattr(error, "errno", None) == errno.ENOMEM:
        return "out_of_memory"
    if any(word in text for word in _MEMORY_WORDS):
        return "out_of_memory"
    if names & _WALLTIME or any(word in text for word in _WALLTIME_WORDS):
        return "walltime"
    return "node_lost" if names & _NODE_LOST else "unknown"


def _one_line(error: BaseException) -> str:
    one_line = getattr(error, "one_line", None)
    text = one_line() if callable(one_line) else str(error)
    text = " ".join(str(text).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
