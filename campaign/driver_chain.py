"""The chain of batch jobs in which a campaign's driver runs: its record, and what of it Slurm knows.

Each job drives the campaign until its walltime ends and has submitted its successor before it begins. The record
`control/driver.json` names every job and says why there will be no further one. The jobs, `campaign launch --detach`
and `campaign stop` change it, one at a time under a lock, so that none submits what another has just ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from campaign.documents import now
from campaign.errors import SiteError
from campaign.parallel.queues import Job, QueueSilentError, one_line, run_command
from campaign.parallel.slurm import SlurmQueue, clock
from campaign.run_folder import RunFolder, write_atomic
from campaign.site_driver import DriverConfig
from campaign.storage.credentials import taken

VAIN_DRIVERS = 3
"""So many drivers in a row that died young, or ended before any task did, end the chain."""

STEADY_S = 60.0
"""A driver that lived for so long did not die young [s]."""

End = Literal["", "walltime", "interrupted", "crashed", "away", "over"]
"""How a driver ended; '' while it runs, and for ever if it was killed. `away`: it only waited for the store."""


class ChainJob(BaseModel):
    """One batch job of the chain."""

    model_config = ConfigDict(frozen=True)

    id: str
    submitted: str
    began: str | None = None
    steady: bool = False
    """It lived for `STEADY_S`."""
    end: End = ""
    tasks: int | None = None
    """Tasks that ended while it drove; None if it was killed, or the store did not tell."""

    @property
    def in_vain(self) -> bool:
        """Whether it died young, or ended before any task did."""
        young = not self.steady and self.end in ("", "crashed")
        return young or (self.tasks == 0 and self.end in ("walltime", "crashed"))


class Chain(BaseModel):
    """All batch jobs since the last `campaign launch --detach` or `campaign resume --detach`."""

    model_config = ConfigDict(frozen=True)

    retry: bool = False
    """The first job shall also try failed labels again."""
    jobs: tuple[ChainJob, ...] = ()
    ended: str | None = None
    """Why no further job is submitted; None while the chain goes on."""

    def with_job(self, job_id: str, **changes: object) -> Chain:
        """Return the chain with one job changed, or added."""
        known = {job.id: job for job in self.jobs}
        job = known.get(job_id) or ChainJob(id=job_id, submitted=now())
        known[job_id] = job.model_copy(update=changes)
        return self.model_copy(update={"jobs": tuple(known.values())})

    def before(self, job_id: str) -> tuple[ChainJob, ...]:
        """Return the jobs that came before one."""
        ids = [job.id for job in self.jobs]
        return self.jobs[: ids.index(job_id)] if job_id in ids else self.jobs

    def waited_since(self, job_id: str) -> str | None:
        """Return when the first of the drivers just before a job began that only waited for the store's server."""
        waited = list(itertools.takewhile(lambda job: job.end == "away", reversed(self.before(job_id))))
        return waited[-1].began if waited else None

    def after(self, job_id: str) -> tuple[ChainJob, ...]:
        """Return the jobs that come after one."""
        return self.jobs[len(self.before(job_id)) + 1 :]


def read_chain(folder: RunFolder) -> Chain | None:
    """Return the record of a campaign's chain, None if its driver never ran in batch jobs."""
    try:
        return Chain.model_validate_json(folder.chain_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def update_chain(folder: RunFolder, change: Callable[[Chain], Chain]) -> Chain:
    """Change the record while nobody else does, and return it."""
    with _locked(folder):
        chain = change(read_chain(folder) or Chain())
        write_atomic(folder.chain_file, chain.model_dump_json(indent=2) + "\n")
    return chain


@contextlib.contextmanager
def _locked(folder: RunFolder) -> Iterator[None]:
    folder.chain_file.parent.mkdir(parents=True, exist_ok=True)
    with folder.chain_file.with_suffix(".lock").open("a") as handle:
        with contextlib.suppress(OSError):  # a file system without locks: the record is still written whole
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def end_chain(folder: RunFolder, why: str, *, running: bool = False) -> list[str]:
    """Let no further job be submitted and cancel those that wait; return their ids. A reason given before stays.

    Args:
        folder: The run folder.
        why: The reason, for the record.
        running: Cancel also what runs: for a driver that would not hear of the end otherwise.
    """
    chain = update_chain(folder, lambda old: old.model_copy(update={"ended": old.ended or why}))
    unwanted = ("queued", "running") if running else ("queued",)
    needless = [job_id for job_id, job in jobs_of(chain).items() if job.state in unwanted]
    _cancel(needless)
    return needless


def drivers_in_vain(chain: Chain, job_id: str) -> int:
    """Return how many drivers in a row before a job were of no use."""
    return sum(1 for _ in itertools.takewhile(lambda job: job.in_vain, reversed(chain.before(job_id))))


def live_jobs(folder: RunFolder) -> dict[str, Job]:
    """Return the jobs of the chain that wait or run."""
    known = jobs_of(read_chain(folder) or Chain())
    return {job_id: job for job_id, job in known.items() if job.state != "ended"}


def describe_chain(folder: RunFolder) -> str | None:
    """Return in words where the driver's batch jobs are, None if it never ran in any."""
    chain = read_chain(folder)
    if chain is None:
        return None
    if shutil.which("squeue") is None:
        newest = chain.jobs[-1].id if chain.jobs else "none"
        return f"newest job {newest}; there is no squeue here to ask"
    parts = []
    for job_id, job in live_jobs(folder).items():
        parts.append(f"job {job_id} " + (f"waits ({job.message})" if job.state == "queued" else "runs"))
    if not parts:
        newest = f"job {chain.jobs[-1].id} is over" if chain.jobs else "none"
        parts.append(newest if chain.ended else f"{newest} and has no successor: see logs/driver.log")
    return "; ".join(parts) + (f"; no further one: {chain.ended}" if chain.ended else "")


def batch_script(
    folder: RunFolder, name: str, driver: DriverConfig, command: Sequence[str], packages: str
) -> str:
    """Return the script of the driver's jobs. Pure.

    Args:
        folder: The run folder; the log is kept in it.
        name: The campaign's name, which the job carries.
        driver: The site's keys.
        command: What drives the campaign.
        packages: Folder of the three packages, '' where they are installed.
    """
    log = str(folder.driver_log).replace("%", "%%")  # % begins a pattern of Slurm's
    asked = [
        f"--job-name=campaign-{name}", f'--output="{log}"', "--open-mode=append", f'--chdir="{folder.path}"',
        f"--signal=B:USR1@{driver.notice_s:.0f}", f"--time={clock(driver.walltime)}", "--nodes=1", "--ntasks=1",
        f"--cpus-per-task={driver.cores}", "--no-requeue",  # the successor takes over, not the job again
    ]  # fmt: skip
    named = {"partition": driver.partition, "account": driver.account, "qos": driver.qos}
    asked += [f"--{key}={value}" for key, value in named.items() if value is not None]
    asked += [f"--mem={driver.memory_gb}G"] if driver.memory_gb else []
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*asked, *driver.scheduler_options))]
    lines += ["set -e", *driver.worker_init]
    if packages:
        lines.append(f"export PYTHONPATH={shlex.quote(packages)}${{PYTHONPATH:+:$PYTHONPATH}}")
    # exec: the notice goes to the process that the batch step began with
    return "\n".join([*lines, f"exec {shlex.join(command)}"]) + "\n"


def submit_job(folder: RunFolder, *, after: str | None = None) -> str:
    """Submit the chain's script and return the job's id. The job inherits the environment, as `sbatch` passes it on.

    Args:
        folder: The run folder.
        after: Id of the job that has to be over first, however it ends.

    Raises:
        SiteError: Slurm refuses it.
    """
    order = [f"--dependency=afterany:{after}"] if after else []
    # A driver at work has taken its credentials out of its environment; the successor needs them too.
    done = run_command(["sbatch", "--parsable", *order, str(folder.chain_script)], taken())
    if done.returncode:
        raise SiteError(
            "sbatch does not take the driver's job", value=one_line(done.stderr),
            cure="correct the block `driver` of the site file",
        )  # fmt: skip
    return done.stdout.strip().partition(";")[0]


def jobs_of(chain: Chain) -> dict[str, Job]:
    """Return what Slurm still knows of the chain's jobs, oldest first; it forgets ended ones after minutes."""
    try:
        known = SlurmQueue().jobs() if chain.jobs else {}
    except (SiteError, QueueSilentError):
        return {}
    return {job.id: known[job.id] for job in chain.jobs if job.id in known}


def was_cancelled(chain: Chain, job_id: str) -> bool:
    """Return whether Slurm says that somebody cancelled a job."""
    job = jobs_of(chain).get(job_id)
    return job is not None and job.state == "ended" and job.message.startswith("CANCELLED")


def _cancel(job_ids: Sequence[str]) -> None:
    with contextlib.suppress(SiteError, QueueSilentError):
        SlurmQueue().cancel(job_ids)
