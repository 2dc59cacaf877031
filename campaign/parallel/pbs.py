"""PBS (OpenPBS, PBS Professional): qsub, qselect, qstat, qdel.

Jobs that wait or run are listed; one that has left the list has ended, for what reason PBS keeps in a history that
may hold weeks of jobs and is not asked. Environment variables of the driver are not passed on (`-V`): a block takes
what it needs from `worker_init` and `environment`.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from campaign.errors import SiteError
from campaign.parallel.queues import (
    Job,
    JobState,
    QueueSilentError,
    SubmissionError,
    answer,
    one_line,
    run_command,
)
from campaign.parallel.slurm import clock
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize, gpus_asked

_RUNNING = {"R", "E", "S", "U", "B"}
_ENDED = {"F", "X", "C", "M"}
_AWAY = (
    "cannot connect",
    "timed out",
    "connection refused",
    "temporarily",
    "no default server",
    "end of file",
)


class PbsQueue:
    """The PBS that this machine's commands talk to.

    Raises:
        SiteError: There is no `qsub` here.
    """

    provider = "pbs"
    keeps_ended = False

    def __init__(self) -> None:
        missing = [name for name in ("qsub", "qselect", "qstat", "qdel") if shutil.which(name) is None]
        if missing:
            raise SiteError(
                "PBS's commands are not here", value=", ".join(missing),
                cure="start the driver on a login node, load PBS's module, or write provider: local",
            )  # fmt: skip

    def header(self, name: str, pool: PoolConfig, size: PoolSize, output: Path) -> str:
        """Return the #PBS lines of a block."""
        chunk = [f"select={pool.nodes_per_block}", f"ncpus={size.cores_per_node}"]
        if size.ranks:
            chunk.append(f"mpiprocs={size.ranks // pool.nodes_per_block}")
        if gpus_asked(pool):
            chunk.append(f"ngpus={gpus_asked(pool)}")
        if pool.memory_gb_per_node:
            chunk.append(f"mem={pool.memory_gb_per_node}gb")
        lines = [
            f"-N {name}",
            "-S /bin/bash",
            "-m n",
            "-r n",
            f"-o {output}.stdout",
            f"-e {output}.stderr",
            f"-l {':'.join(chunk)}",
            f"-l walltime={clock(pool.walltime)}",
            f"-l place={'scatter:excl' if pool.exclusive else 'scatter'}",
        ]
        lines += [f"-q {pool.partition}"] if pool.partition else []
        lines += [f"-A {pool.account}"] if pool.account else []
        lines += pool.scheduler_options
        return "\n".join(
            ["#!/bin/bash", *(line if line.startswith("#") else f"#PBS {line}" for line in lines)]
        )

    def check(self, script: Path) -> None:
        """Do nothing: PBS judges a script only when it is submitted."""

    def submit(self, script: Path, name: str) -> str:  # noqa: ARG002  (it is in the header)
        """Submit the script."""
        done = run_command(["qsub", str(script)])
        if done.returncode:
            said = one_line(done.stderr or done.stdout).removeprefix("qsub: ")
            raise SubmissionError(said, passing=any(word in said.lower() for word in _AWAY))
        words = done.stdout.split()
        if not words:
            raise SubmissionError("qsub named no job")
        return words[0]

    def jobs(self) -> dict[str, Job]:
        """Return this user's jobs that wait or run.

        Raises:
            QueueSilentError: PBS does not answer, or its answer cannot be read.
        """
        listed = answer(["qselect", "-u", getpass.getuser()], "qselect").split()
        if not listed:
            return {}
        done = run_command(["qstat", "-f", "-F", "json", *listed])
        # It fails if one of them has ended since, and prints the others; without a server it knows nothing of any.
        if done.returncode and any(word in done.stderr.lower() for word in _AWAY):
            raise QueueSilentError(f"qstat: {one_line(done.stderr)}")
        return parse_jobs(done.stdout, listed)

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Delete jobs."""
        if job_ids:
            done = run_command(["qdel", *job_ids])
            if done.returncode and any(word in done.stderr.lower() for word in _AWAY):
                answer(["qdel", *job_ids], "qdel")


def parse_jobs(printed: str, listed: Sequence[str]) -> dict[str, Job]:
    """Return the jobs that `qstat -f -F json` prints, by the ids as `qselect` gave them. Pure.

    Raises:
        QueueSilentError: It is no such answer, so that nothing is known of any job.
    """
    try:
        jobs = dict(json.loads(printed, strict=False).get("Jobs", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise QueueSilentError(
            f"qstat: its answer cannot be read: {one_line(printed) or 'nothing'}"
        ) from error
    found = {}
    for job_id in listed:
        job = jobs.get(job_id) or next((one for key, one in jobs.items() if job_id.startswith(key)), None)
        if job is None:
            continue
        letter = str(job.get("job_state", "Q"))
        state: JobState = "running" if letter in _RUNNING else "ended" if letter in _ENDED else "queued"
        started = _time_of(str(job.get("stime", ""))) if state != "queued" else None
        message = str(job.get("comment", "")) if state == "queued" else ""
        found[job_id] = Job(job_id, str(job.get("Job_Name", "")), state, started=started, message=message)
    return found


def _time_of(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y"))
    return None
