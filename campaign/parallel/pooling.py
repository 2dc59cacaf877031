"""What every kind of pool shares: what it can do, sizes and variables of workers, futures that follow others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from campaign.site import Site, cores_available, gpus_visible, size_pools
from campaign.site_sizes import PoolSize


@dataclass(frozen=True)
class Block:
    """Workers that were started together: what a later driver finds them by, and what they have cost."""

    pool: str
    block_id: str
    """Number within the pool; all blocks of one set of pools carry one marker."""
    job_id: str
    """Of the batch system's job, or of a local process."""
    provider: str
    """What started it: `local`, `slurm`, ..."""
    host: str
    """The driver's; where local blocks run."""
    marker: str
    nodes: int = 0
    """Nodes that it holds by itself; 0 for blocks that share the driver's own."""
    cores_per_node: int | None = None
    state: Literal["queued", "running", "ended"] = "running"
    submitted: float | None = None
    """Seconds since 1970; also below."""
    started: float | None = None
    ended: float | None = None
    message: str = ""
    """Why it ended, where that is known."""

    def document(self) -> dict[str, Any]:
        """Return the block as a plain document."""
        return asdict(self)


class Pools(Protocol):
    """What the driver needs of an executor: named pools, each with a number of slots."""

    @property
    def slots(self) -> Mapping[str, int]:
        """Pool name -> tasks that run at a time, once every block that the site allows is there."""

    def submit(
        self, pool: str, function: Callable[..., Any], /, *args: Any, expected_s: float | None = None
    ) -> Future[Any]:
        """Run `function(*args)` in `pool`; function, arguments and result must pickle.

        Args:
            pool: The pool.
            function: A top-level function.
            *args: What it gets.
            expected_s: How long it is expected to take [s]: it is placed only where it fits before a block's
                walltime ends. None: it fits anywhere.
        """

    def blocks(self) -> list[Block]:
        """Return every block that was started, ended ones included."""

    def close(self, cancel: bool) -> None:
        """End the pools: after all submitted tasks, or at once with the tasks' futures cancelled."""


class PoolLostError(RuntimeError):
    """A pool broke down as a whole; the tasks it held did not fail by themselves."""


def site_sizes(site: Site) -> dict[str, PoolSize]:
    """Return the sizes of the site's pools on this machine; one on a LaunchPad is not among them."""
    return size_pools(site, cores_available(), gpus_visible(os.environ))


def worker_environment(size: PoolSize, site_environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a pool's workers: threads as cores, no GPU unless it has one, then the site's.

    Two OpenMP threads on one contended core are ten times slower than one.
    """
    threads = str(size.cores_per_worker)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
             "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS")  # fmt: skip
    environment = dict.fromkeys(names, threads)
    if not size.accelerators:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return {
        **environment,
        "PYTHONUNBUFFERED": "1",
        "SPT_NOENV": "1",
        "SPGLIB_WARNING": "OFF",
        **site_environment,
    }


def relay(
    source: Future[Any], target: Future[Any], translate: Callable[[BaseException], BaseException]
) -> None:
    """Give `target` what `source` comes to, its exception translated; a target that is done stays so."""

    def pass_on(done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            settle(target, done.result())
        else:
            settle(target, error=translate(error))

    source.add_done_callback(pass_on)


def settle(target: Future[Any], result: object = None, error: BaseException | None = None) -> None:
    """Give a future its result or error, unless it was cancelled or somebody was faster."""
    if target.done() and not target.cancelled():
        return
    try:
        if not target.set_running_or_notify_cancel():
            return
        if error is None:
            target.set_result(result)
        else:
            target.set_exception(error)
    except (InvalidStateError, RuntimeError):  # settled by another thread between the question and the answer
        return
