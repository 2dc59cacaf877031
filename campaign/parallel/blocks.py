"""The blocks of one pool: looked at, decided upon (`campaign.parallel.scaling`), submitted and ended, recorded."""

from __future__ import annotations

import math
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from parsl.jobs.states import JobState, JobStatus

from campaign.parallel.htex import PoolExecutor
from campaign.parallel.placement import WHOLE
from campaign.parallel.pooling import Block
from campaign.parallel.providers import AllocationBlocks, QueueBlocks
from campaign.parallel.queues import one_line
from campaign.parallel.scaling import BlockView, Limits, decide
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize

_AWAY_S = 30.0  # between two submissions to a batch system that does not answer
_LATE_S = 60.0  # the log of a block that did not start may come so late on a shared disk
_REASON = 400  # characters of a log that tell why a block did not start


class BlockKeeper:
    """Keeps the blocks of one pool; `step` is called every second, by one thread at a time.

    Args:
        name: The pool's name.
        pool: The pool, as `campaign.site.pool_of` gives it.
        size: Its workers.
        executor: Its executor, started.
        marker: That of this driver's pools.
    """

    def __init__(
        self, name: str, pool: PoolConfig, size: PoolSize, executor: PoolExecutor, marker: str
    ) -> None:
        self.name, self.pool, self.executor, self.marker = name, pool, executor, marker
        local = pool.provider == "local"
        self.limits = Limits(
            workers_per_block=max(1, size.slots // size.max_blocks),
            min_blocks=1 if local else pool.min_blocks,
            max_blocks=1 if local else pool.max_blocks,
            idle_s=math.inf if local else 60.0 * pool.idle_minutes,
            failures=3,
            first_failure_ends=local,
        )
        provider = executor.provider
        self.ends = provider.allocation.ends if isinstance(provider, AllocationBlocks) else None
        """When all blocks end [s since 1970], if that does not depend on when they start."""
        self.cores_per_node = size.cores_per_node
        self.given_up = ""
        """Why the pool cannot work at all."""
        self._records: dict[str, Block] = {}
        self._refused: dict[str, str] = {}
        self._ended_views: dict[str, BlockView] = {}
        self._answered: set[str] = set()
        self._ending: set[str] = set()
        self._cancelled: set[str] = set()
        self._last_failure = self._not_before = -math.inf
        self._last_task = time.monotonic()
        self._lock = threading.Lock()

    def blocks(self) -> list[Block]:
        """Return every block that was submitted, oldest first."""
        return list(self._records.values())

    @property
    def usable_s(self) -> float:
        """How long a block that starts now takes tasks [s]."""
        if self.pool.provider == "local":
            return math.inf
        whole = self.pool.walltime if self.ends is None else self.ends - time.time()
        return max(0.0, whole - self.pool.grace)

    def step(self, tasks: Sequence[float | None]) -> None:
        """Look at the blocks and do what is to be done now.

        Args:
            tasks: How long each task takes that was submitted and is not done [s]; None where nobody knows.
        """
        with self._lock:
            self._step([None if task is None else min(task, WHOLE * self.usable_s) for task in tasks])

    def _step(self, tasks: Sequence[float | None]) -> None:
        now = time.monotonic()
        if tasks:
            self._last_task = now
        views = self._look()
        decision = decide(
            tasks, views, self.limits, quiet_s=now - self._last_task, since_failure_s=now - self._last_failure
        )
        self.given_up = decision.give_up
        for block_id in decision.end:
            self.executor._hold_block(block_id)
            self._ending.add(block_id)
        self._end_held(views)
        for _ in range(decision.submit if now >= self._not_before else 0):
            if not self._submit():
                break

    def _look(self) -> list[BlockView]:
        """Return all blocks as they are now, oldest first, and bring the records up to date."""
        managers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for manager in self.executor.connected_managers():
            managers[manager["block_id"]].append(manager)
            self._answered.add(manager["block_id"])
        self._answered.update(self.executor.connected_blocks())
        self._hold_ended(managers)
        statuses = dict(self.executor.status_facade)
        views = [BlockView(block_id, "ended", failed=why) for block_id, why in self._refused.items()]
        for block_id in list(self._records):
            view = self._ended_views.get(block_id)
            if view is None:
                status = statuses.get(block_id) or JobStatus(JobState.UNKNOWN)  # submitted a moment ago
                record = self._noted(block_id, status)
                view = self._view(record, managers[block_id], status)
                if record.ended is not None and (not view.failed or time.time() - record.ended >= _LATE_S):
                    self._ended_views[block_id] = view  # for good: its log is read no more
            views.append(view)
        return sorted(views, key=lambda view: int(view.block_id))

    def _hold_ended(self, managers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Hold managers whose job is over: they get no more tasks, and their silence is believed soon."""
        for block_id, ones in managers.items():
            record = self._records.get(block_id)
            if record is not None and record.state == "ended" and any(one["active"] for one in ones):
                self.executor._hold_block(block_id)

    def _noted(self, block_id: str, status: JobStatus) -> Block:
        """Return a block's record after it was brought up to date."""
        record = self._records[block_id]
        if record.state == "ended":
            return record
        provider, now = self.executor.provider, time.time()
        if isinstance(provider, QueueBlocks):
            job, _ = provider.job(record.job_id)
            record = replace(
                record, state=job.state, ended=job.ended, message=job.message,
                # told in whole seconds
                started=max(job.started, record.submitted or 0.0) if job.started else None,
            )  # fmt: skip
        elif status.terminal:
            record = replace(record, state="ended", ended=now, message=status.message or "")
        elif status.state == JobState.RUNNING:
            record = replace(record, state="running", started=record.started or now)
        if record.state == "ended" and block_id in self._cancelled:
            record = replace(record, message="not needed any more")
        self._records[block_id] = record
        return record

    def _view(self, record: Block, managers: Sequence[dict[str, Any]], status: JobStatus) -> BlockView:
        block_id = record.block_id
        if record.state == "ended":
            worked = block_id in self._answered or block_id in self._ending
            failed = "" if worked else self._reason(record, status)
            if failed and record.ended is not None:
                since = time.time() - record.ended
                self._last_failure = max(self._last_failure, time.monotonic() - since)
            return BlockView(block_id, "ended", failed=failed)
        state: Literal["queued", "starting", "running"]
        state = "queued" if record.state == "queued" else "running" if managers else "starting"
        taking = [manager for manager in managers if manager["active"] and not manager["draining"]]
        remaining = self.usable_s
        if self.ends is None and record.started is not None:
            remaining += record.started - time.time()
        return BlockView(
            block_id,
            state,
            workers=sum(manager["worker_count"] for manager in taking),
            busy=sum(manager["tasks"] for manager in managers),
            idle_s=min((manager["idle_duration"] for manager in managers), default=0.0),
            remaining_s=remaining,
            ending=block_id in self._ending,
        )

    def _reason(self, record: Block, status: JobStatus) -> str:
        words = [status.stderr_summary, status.stdout_summary, record.message, status.message]
        said = next((one_line(word[-_REASON:]) for word in words if word and word.strip()), "no message")
        return f"block {record.block_id} (job {record.job_id}): {said}"

    def _submit(self) -> bool:
        """Submit one block; tell whether it was taken."""
        submitted = time.time()
        provider = self.executor.provider
        taken = self.executor.scale_out_facade(1)
        for block_id in taken:
            waits = isinstance(provider, QueueBlocks)
            self._records[block_id] = Block(
                self.name, block_id, str(self.executor.blocks_to_job_id[block_id]), str(self.pool.provider),
                platform.node(), self.marker,
                nodes=0 if self.pool.provider == "local" else self.pool.nodes_per_block,
                cores_per_node=self.cores_per_node,
                state="queued" if waits else "running", submitted=submitted,
                started=None if waits else submitted,
            )  # fmt: skip
        if taken:
            return True
        refusal = getattr(provider, "refusal", None)
        passing = refusal is not None and refusal.passing
        if passing:
            self._not_before = time.monotonic() + _AWAY_S
        else:
            self._last_failure = time.monotonic()
        for block_id, status in list(self.executor._simulated_status.items()):
            if block_id not in self._refused and block_id not in self._records:
                words = str(refusal) if refusal else one_line(status.message or "refused")
                self._refused[block_id] = "" if passing else words
        return False

    def _end_held(self, views: Sequence[BlockView]) -> None:
        """Cancel the jobs of blocks that are to end and have no task any more."""
        for view in views:
            if view.block_id in self._ending - self._cancelled and view.state != "ended":
                now_busy = sum(
                    manager["tasks"]
                    for manager in self.executor.connected_managers()
                    if manager["block_id"] == view.block_id
                )
                if not now_busy and all(self.executor.provider.cancel([self._records[view.block_id].job_id])):
                    self._cancelled.add(view.block_id)
