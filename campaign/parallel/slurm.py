"""Slurm: sbatch, squeue, scancel.

* `squeue` is asked for all jobs of this user, ended ones too, instead of for single ids: one cheap call for all
  pools, which also answers when every job has been forgotten. (Asked for an id that it has forgotten it fails,
  which looks like a controller that is away.)
* `--no-requeue`: a job whose node died is over, and a new block takes its place.
* Times are printed in this machine's local time, and read so.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from campaign.errors import SiteError
from campaign.parallel.queues import Job, JobState, SubmissionError, answer, one_line, run_command
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize

_FORMAT = "%i|%T|%S|%e|%r|%j"
_QUEUED = {
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
_NEVER = {"PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit", "BadConstraints", "InvalidAccount",
          "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed"}  # fmt: skip
"""Why jobs wait that will never run as they were asked for."""
_AWAY = ("unable to contact", "timed out", "connection refused", "communication", "temporarily", "try again")


class SlurmQueue:
    """The Slurm that this machine's commands talk to.

    Raises:
        SiteError: There is no `sbatch` here.
    """

    provider = "slurm"
    keeps_ended = False

    def __init__(self) -> None:
        missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
        if missing:
            raise SiteError(
                "Slurm's commands are not here", value=", ".join(missing),
                cure="start the driver on a login node, load Slurm's module, or write provider: local",
            )  # fmt: skip

    def header(self, name: str, pool: PoolConfig, size: PoolSize, output: Path) -> str:
        """Return the #SBATCH lines of a block."""
        asked = {
            "job-name": name,
            "output": f"{_escaped(output)}.stdout",
            "error": f"{_escaped(output)}.stderr",
            "nodes": pool.nodes_per_block,
            "ntasks-per-node": 1,
            "cpus-per-task": size.cores_per_node,
            "time": clock(pool.walltime),
            "partition": pool.partition,
            "account": pool.account,
            "qos": pool.qos,
            "constraint": pool.constraint,
            "gres": pool.gres,
            "gpus-per-node": pool.gpus_per_node,
            "mem": f"{pool.memory_gb_per_node}G" if pool.memory_gb_per_node else None,
        }
        if size.ranks:
            asked["ntasks-per-node"] = size.ranks // pool.nodes_per_block
            asked["cpus-per-task"] = size.cores_per_worker
        lines = [f"--{key}={value}" for key, value in asked.items() if value is not None]
        lines += ["--no-requeue", *(["--exclusive"] if pool.exclusive else []), *pool.scheduler_options]
        return "\n".join(
            ["#!/bin/bash", *(line if line.startswith("#") else f"#SBATCH {line}" for line in lines)]
        )

    def check(self, script: Path) -> None:
        """Let Slurm judge the script.

        `--test-only` also says no while nodes are drained, when a job would be taken and wait; so its no is not the
        last word: a job that would begin tomorrow, cancelled at once, has that. It may be taken and then wait for ever,
        which its reason tells.
        """
        try:
            _sbatch(["--test-only", str(script)])
        except SubmissionError as error:
            if error.passing:
                raise
            job_id = _id_of(_sbatch(["--begin=now+1day", "--parsable", str(script)]))
            job = self.jobs().get(job_id)
            self.cancel([job_id])
            if job is not None and job.message in _NEVER:
                raise SubmissionError(f"{error} ({job.message})") from error

    def submit(self, script: Path, name: str) -> str:  # noqa: ARG002  (it is in the header)
        """Submit the script."""
        return _id_of(_sbatch(["--parsable", str(script)]))

    def jobs(self) -> dict[str, Job]:
        """Return this user's jobs."""
        words = ["squeue", f"--user={os.getuid()}", "--states=all", "--noheader", f"--format={_FORMAT}"]
        return parse_jobs(answer(words, "squeue"))

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel jobs."""
        if job_ids:
            answer(["scancel", *job_ids], "scancel")


def _sbatch(words: Sequence[str]) -> str:
    done = run_command(["sbatch", *words])
    if done.returncode:
        said = one_line(done.stderr or done.stdout).replace("sbatch: error: ", "")
        raise SubmissionError(said, passing=any(word in said.lower() for word in _AWAY))
    return done.stdout


def _id_of(printed: str) -> str:
    found = re.search(r"^(\d+)(?:;\S+)?$", printed, re.MULTILINE)
    if found is None:
        raise SubmissionError(f"sbatch named no job: {one_line(printed)}")
    return found.group(1)


def end_of_job(job_id: str, environment: Mapping[str, str]) -> float | None:
    """Return when the job ends that `environment` belongs to [s since 1970]; None where nobody tells."""
    said = environment.get("SLURM_JOB_END_TIME", "")
    if said.isdecimal():
        return float(said)
    printed = run_command(["squeue", "--noheader", f"--jobs={job_id}", "--format=%e"]).stdout
    return _time_of(printed.strip())


def parse_jobs(printed: str) -> dict[str, Job]:
    """Return the jobs that `squeue` prints in our format, one a line. Pure."""
    found = {}
    for line in printed.splitlines():
        parts = line.strip().split("|", maxsplit=5)
        if len(parts) != 6:
            continue
        job_id, word, start, end, reason, name = parts
        state: JobState = "queued" if word in _QUEUED else "running" if word in _RUNNING else "ended"
        message = reason if state == "queued" else "" if state == "running" else word
        if state == "ended" and reason not in ("None", "", "NonZeroExitCode", "TimeLimit"):
            message = f"{word} ({reason})"
        found[job_id] = Job(
            job_id, name, state,
            started=None if state == "queued" else _time_of(start),
            ended=_time_of(end) if state == "ended" else None,
            message=message,
        )  # fmt: skip
    return found


def _time_of(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    return None


def clock(seconds: float) -> str:
    """Return a walltime as H:MM:SS."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
