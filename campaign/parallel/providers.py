"""What starts blocks, in the form that Parsl asks for: local processes, or jobs of a batch system.

Parsl has providers of its own for batch systems. Ours differ in what weeks of running need: job names that say
whose a job is, statuses from one listing for all pools, every job that left the listing counted as ended, times and
reasons of jobs kept for the record, folders that are ours alone, no shell between us and a folder's name.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from campaign.parallel.allocation import Allocation, on_nodes
from campaign.parallel.block_script import on_every_node, worker_init
from campaign.parallel.queues import (
    Job,
    Queue,
    QueueSilentError,
    SubmissionError,
    Watched,
    job_name,
    open_queue,
)
from campaign.site import Site, pool_of
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize

POLL_S = 1.0
"""How often local blocks are looked at [s]."""
_SETTLED_S = 10.0  # a job that is not listed so long after its submission has ended

log = logging.getLogger("parsl.campaign")  # beside Parsl's own lines


class LocalBlocks(LocalProvider):
    """Blocks on this machine: looked at every second, ended as a process group without needing `ps`."""

    beside_driver = True
    """Its workers run on the driver's machine, and see its process."""

    @property
    def status_polling_interval(self) -> float:
        """Seconds between two looks."""
        return POLL_S

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End the blocks' process groups: the warden in each ends what the block started."""
        for job_id in job_ids:
            block = self.resources[job_id]
            block["cancelled"] = True
            with contextlib.suppress(OSError):
                os.killpg(os.getpgid(block["remote_pid"]), signal.SIGTERM)
        return [True for _ in job_ids]


@dataclass
class _Submitted:
    """A job of ours, and what was last seen of it."""

    job: Job
    submitted: float
    output: Path


class AllocationBlocks(LocalBlocks):
    """Blocks on the nodes of the job that the driver runs in."""

    beside_driver = False

    def __init__(self, allocation: Allocation, pool: PoolConfig, size: PoolSize, init: str) -> None:
        super().__init__(
            worker_init=init, launcher=SimpleLauncher(), nodes_per_block=pool.nodes_per_block, init_blocks=0,
            min_blocks=pool.min_blocks, max_blocks=pool.max_blocks,
        )  # fmt: skip
        self.allocation, self.pool, self.size = allocation, pool, size
        self._nodes: dict[str, tuple[str, ...]] = {}

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Start a block on nodes that no other block has."""
        nodes = self.allocation.take(self.pool.nodes_per_block)
        started: str = super().submit(
            on_nodes(command, nodes, self.pool, self.size), tasks_per_node, job_name
        )
        self._nodes[started] = nodes
        return started

    def status(self, job_ids: Sequence[Any]) -> list[JobStatus]:
        """Return the states of blocks; those that ended give their nodes back."""
        statuses: list[JobStatus] = super().status(job_ids)
        for job_id, status in zip(job_ids, statuses, strict=True):
            if status.terminal and job_id in self._nodes:
                self.allocation.give_back(self._nodes.pop(job_id))
        return statuses


class QueueBlocks(ExecutionProvider):
    """Blocks that are jobs of a batch system.

    Args:
        queue: The batch system, shared by all pools that use it.
        name: Name of the jobs.
        pool: What a job asks for.
        size: Its workers.
        init: Shell lines before the workers start.
    """

    beside_driver = False

    def __init__(self, queue: Watched, name: str, pool: PoolConfig, size: PoolSize, init: str) -> None:
        self.queue, self.name, self.pool, self.size, self.init = queue, name, pool, size, init
        # What Parsl reads; how many blocks there are is decided in campaign.parallel.scaling.
        self.nodes_per_block = pool.nodes_per_block
        self.init_blocks, self.min_blocks, self.max_blocks = 0, pool.min_blocks, pool.max_blocks
        self.parallelism = 1.0
        self.script_dir: str | None = None
        self.refusal: SubmissionError | None = None
        """Why the last submission failed; None if it did not."""
        self._jobs: dict[str, _Submitted] = {}
        self._scripts = 0

    @property
    def label(self) -> str:
        """Name of the batch system."""
        return self.queue.queue.provider

    @property
    def status_polling_interval(self) -> float:
        """Seconds between two looks."""
        return self.queue.period_s

    def check(self, folder: Path) -> None:
        """Ask the batch system whether it would take a block.

        Raises:
            SubmissionError: It would not.
        """
        self.queue.queue.check(self._script("exit 0", folder / f"{self.name}.check"))

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> str:  # noqa: ARG002
        """Submit a block and return its job's id.

        Raises:
            SubmissionError: The batch system does not take it.
        """
        self._scripts += 1
        script = self._script(command, Path(str(self.script_dir)) / f"{self.name}.{self._scripts}")
        self.refusal = None
        submitted = time.time()
        try:
            job_id = self.queue.queue.submit(script, self.name)
        except SubmissionError as error:
            self.refusal = error
            raise
        self._jobs[job_id] = _Submitted(Job(job_id, self.name, "queued"), submitted, script)
        return job_id

    def _script(self, command: str, script: Path) -> Path:
        header = self.queue.queue.header(self.name, self.pool, self.size, script)
        script.write_text(
            "\n".join([header, "", self.init, "", on_every_node(command, self.pool, self.size), ""]),
            encoding="utf-8",
        )
        script.chmod(0o700)
        return script

    def status(self, job_ids: Sequence[Any]) -> list[JobStatus]:
        """Return the states of jobs; those that a silent batch system cannot tell stay as they were."""
        live = [job_id for job_id in job_ids if self._jobs[job_id].job.state != "ended"]
        if live:
            try:
                asked, listed = self.queue.look()
            except QueueSilentError as error:
                log.warning("%s", error)
            else:
                for job_id in live:
                    self._note(self._jobs[job_id], asked, listed.get(job_id))
        return [self._status(self._jobs[job_id]) for job_id in job_ids]

    def _note(self, ours: _Submitted, asked: float, listed: Job | None) -> None:
        if listed is not None:
            ended = (listed.ended or asked) if listed.state == "ended" else None
            started = listed.started or (ours.job.started if listed.state == "ended" else None)
            ours.job = replace(listed, started=started, ended=ended)
        elif asked > ours.submitted + _SETTLED_S:
            ours.job = replace(ours.job, state="ended", ended=asked, message="left the queue")

    def _status(self, ours: _Submitted) -> JobStatus:
        states = {"queued": JobState.PENDING, "running": JobState.RUNNING, "ended": JobState.COMPLETED}
        return JobStatus(
            states[ours.job.state], message=ours.job.message or None,
            stdout_path=f"{ours.output}.stdout", stderr_path=f"{ours.output}.stderr",
        )  # fmt: skip

    def job(self, job_id: str) -> tuple[Job, float]:
        """Return a job of ours as it was last seen, and when it was submitted."""
        return self._jobs[job_id].job, self._jobs[job_id].submitted

    def cancel(self, job_ids: Sequence[Any]) -> list[bool]:
        """End jobs."""
        live = [job_id for job_id in job_ids if self._jobs[job_id].job.state != "ended"]
        try:
            self.queue.queue.cancel(live)
        except QueueSilentError as error:
            log.warning("%s", error)
            return [False for _ in job_ids]
        return [True for _ in job_ids]

    def cancel_all(self) -> None:
        """End every job that has our name: also one whose submission was interrupted."""
        queue = self.queue.queue
        try:
            named = [job for job in queue.jobs().values() if job.name == self.name]
            queue.cancel([job.job_id for job in named if job.state != "ended" or queue.keeps_ended])
        except QueueSilentError as error:
            log.warning("jobs may be left: %s", error)


@dataclass
class Systems:
    """The batch systems that this driver's pools share."""

    site: Site
    queues: dict[str, Queue] = field(default_factory=dict)
    allocation: Allocation | None = None

    def watched(self, provider: str, period_s: float) -> Watched:
        """Return a batch system; pools that ask it equally often share one listing.

        Raises:
            SiteError: Its commands or package are not here.
        """
        key = f"{provider} {period_s:g}"
        if key not in self._watched:
            self.queues[provider] = self.queues.get(provider) or open_queue(provider, self.site)
            self._watched[key] = Watched(self.queues[provider], period_s)
        return self._watched[key]

    _watched: dict[str, Watched] = field(default_factory=dict)


def provider_of(
    name: str, systems: Systems, size: PoolSize, *, identity: str, marker: str
) -> LocalBlocks | QueueBlocks:
    """Return what starts a pool's blocks.

    Args:
        name: The pool's name.
        systems: The site's batch systems.
        size: The pool's size.
        identity: `campaign_identity` of the campaign.
        marker: That of this driver's pools.

    Raises:
        SiteError: A batch system's commands or package are not here, or the driver's own job is too small.
    """
    pool = pool_of(systems.site, name)
    init = worker_init(systems.site, pool, size, marker)
    if pool.provider == "local":
        return LocalBlocks(
            worker_init=init, launcher=SimpleLauncher(), init_blocks=0, min_blocks=1, max_blocks=1
        )
    if pool.provider == "allocation":
        systems.allocation = systems.allocation or Allocation.of_this_job(systems.site)
        return AllocationBlocks(systems.allocation, pool, size, init)
    queue = systems.watched(str(pool.provider), pool.poll_seconds)
    return QueueBlocks(queue, job_name(identity, name, marker), pool, size, init)
