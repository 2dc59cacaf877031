"""Pools whose blocks are too short: each task has a block to itself, which ends some seconds after the task began."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from campaign.parallel.pooling import site_sizes
from campaign.parallel.pools import ProcessPools
from flows.job_limits import BLOCK_ENDS, BLOCK_GRACE

GRACE_S = 10.0


def in_a_block(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """Run a task as the only one of a block in which jobs may run for so long."""
    importlib.import_module("flows.engines.ase_maker")  # seconds that a block of real length does not feel
    os.environ |= {BLOCK_ENDS: repr(time.time() + seconds + GRACE_S), BLOCK_GRACE: repr(GRACE_S)}
    try:
        return function(*args)
    finally:
        del os.environ[BLOCK_ENDS], os.environ[BLOCK_GRACE]


class ShortBlocks(ProcessPools):
    """Plain processes whose tasks in some pools have little time."""

    def __init__(self, sizes: Any, lengths_s: dict[str, float], **options: Any) -> None:
        super().__init__(sizes, **options)
        self._lengths_s = lengths_s
        self.expected: list[tuple[str, float | None]] = []
        """Pool and expected time of each task that was submitted [s]."""

    def submit(
        self, pool: str, function: Callable[..., Any], /, *args: Any, expected_s: float | None = None
    ) -> Future[Any]:
        self.expected.append((pool, expected_s))
        if pool in self._lengths_s:
            return super().submit(pool, in_a_block, self._lengths_s[pool], function, *args)
        return super().submit(pool, function, *args)


def opener(opened: list[ShortBlocks], **lengths_s: float) -> Callable[..., ShortBlocks]:
    """Return what stands in for `open_pools`; the pools that it opens are added to `opened`."""

    def open_pools(site: Any, *_: Any) -> ShortBlocks:
        opened.append(ShortBlocks(site_sizes(site), lengths_s, environment=site.environment))
        return opened[-1]

    return open_pools
