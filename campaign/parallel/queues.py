"""Batch systems as the pools see them: a script becomes a job, jobs are listed and cancelled.

One small class per system (`campaign.parallel.slurm`, `.pbs`, `.kubernetes_pods`). Commands run as lists of words,
never through a shell, so a folder's name cannot become a command. A job's name says whose it is:
`cg-<campaign>-<pool>-<marker>`: a driver that died before it could note the id of its newest job leaves one that
can still be found.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from campaign.errors import SiteError
from campaign.parallel.block_start import DEVICES
from campaign.site import Site
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize

ANSWER_S = 30.0
"""How long a command of a batch system may take [s]."""

JobState = Literal["queued", "running", "ended"]


@dataclass(frozen=True)
class Job:
    """One job of this user, as the batch system tells of it."""

    job_id: str
    name: str
    state: JobState
    started: float | None = None
    """Seconds since 1970; also below."""
    ended: float | None = None
    message: str = ""
    """Why it waits, or how it ended."""


class QueueSilentError(RuntimeError):
    """The batch system does not answer: nothing is known about the jobs, and it is worth asking again."""


class SubmissionError(RuntimeError):
    """The batch system does not take a job; its own words on one line."""

    def __init__(self, words: str, *, passing: bool = False) -> None:
        self.passing = passing
        """It does not answer just now; otherwise it does not want this job."""
        super().__init__(words)


class Queue(Protocol):
    """What the pools need of a batch system."""

    provider: str
    keeps_ended: bool
    """Jobs that have ended stay until they are cancelled."""

    def header(self, name: str, pool: PoolConfig, size: PoolSize, output: Path) -> str:
        """Return the first lines of a job's script: what it asks for."""

    def check(self, script: Path) -> None:
        """Ask whether the job would be taken, where the system can tell.

        Raises:
            SubmissionError: It would not.
        """

    def submit(self, script: Path, name: str) -> str:
        """Submit a script and return the job's id.

        Raises:
            SubmissionError: It is not taken.
        """

    def jobs(self) -> dict[str, Job]:
        """Return this user's jobs: those that wait or run, and those that ended lately.

        Raises:
            QueueSilentError: The system does not answer.
        """

    def cancel(self, job_ids: Sequence[str]) -> None:
        """End jobs; those that have ended are none the worse.

        Raises:
            QueueSilentError: The system does not answer.
        """


class Watched:
    """A queue that is asked once for all pools, at most every `period_s` seconds."""

    def __init__(self, queue: Queue, period_s: float) -> None:
        self.queue, self.period_s = queue, period_s
        self._lock = threading.Lock()
        self._asked = 0.0
        self._jobs: dict[str, Job] | None = None

    def look(self) -> tuple[float, Mapping[str, Job]]:
        """Return when it was asked [s since 1970], and the jobs.

        Raises:
            QueueSilentError: It does not answer.
        """
        with self._lock:
            now = time.time()
            if self._jobs is None or now >= self._asked + self.period_s:
                self._jobs = None
                self._jobs, self._asked = self.queue.jobs(), now
            return self._asked, self._jobs


def campaign_identity(name: str, run_dir: Path) -> str:
    """Return what the jobs of one campaign have in their names: the same after every resume."""
    return hashlib.sha256(f"{name}\n{run_dir.resolve()}".encode()).hexdigest()[:10]


def job_prefix(identity: str) -> str:
    """Return what the names of a campaign's jobs begin with."""
    return f"cg-{identity}-"


def job_name(identity: str, pool: str, marker: str) -> str:
    """Return the name of the jobs of one pool of one driver."""
    return f"{job_prefix(identity)}{pool}-{marker}"


def open_queue(provider: str, site: Site) -> Queue:
    """Return the batch system of a provider.

    Raises:
        SiteError: Its commands or package are not here.
    """
    if provider == "slurm":
        from campaign.parallel.slurm import SlurmQueue

        return SlurmQueue()
    if provider == "pbs":
        from campaign.parallel.pbs import PbsQueue

        return PbsQueue()
    if provider == "kubernetes" and site.kubernetes is not None:
        from campaign.parallel.kubernetes_pods import KubernetesQueue

        return KubernetesQueue(site.kubernetes)
    raise SiteError(
        "no such batch system", value=provider, allowed=["slurm", "pbs", "kubernetes"],
        cure="correct `provider`; kubernetes also needs the block `kubernetes`",
    )  # fmt: skip


def answer(words: Sequence[str], what: str) -> str:
    """Run a command of a batch system and return what it prints.

    Raises:
        QueueSilentError: It fails, or takes too long.
    """
    done = run_command(words)
    if done.returncode:
        raise QueueSilentError(f"{what}: {one_line(done.stderr or done.stdout)}")
    return done.stdout


def run_command(
    words: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command of a batch system, with further variables in its environment; one that hangs fails.

    A driver may itself run in a job: what that job was given (its end, its devices, its shape) must not be handed on to
    the jobs that it submits.
    """
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in DEVICES and (not name.startswith("SLURM_") or name == "SLURM_CONF")
    }
    plain |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "standard", **(environment or {})}
    try:
        return subprocess.run(
            list(words), capture_output=True, text=True, timeout=ANSWER_S, check=False, env=plain,
            start_new_session=True,  # Ctrl-C is for the driver alone
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"{words[0]} timed out after {ANSWER_S:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))


def one_line(text: str) -> str:
    """Return the text on one line, of a length that can be read."""
    return " ".join(text.split())[:400]
