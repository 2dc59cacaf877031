"""Starts a real Slurm cluster on loopback for tests (deploy/testbed/slurm_up.sh), and harms its nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).resolve().parent.parent / "deploy" / "testbed"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
OPTIONS = ("NODES", "CPUS", "GPUS", "MEMORY_MB", "MIN_JOB_AGE", "SLURMD_TIMEOUT", "SLURM_LINES")
"""Environment variables that slurm_up.sh reads."""
FINAL = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
"""States in which a job is over."""


@dataclass(frozen=True)
class SlurmJob:
    """A job as `squeue` tells of it."""

    id: str
    name: str
    state: str
    """In full, such as PENDING, RUNNING, COMPLETED."""
    nodes: str
    """Names of its nodes, empty while it waits."""
    reason: str
    """Why it waits or ended."""


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster."""

    root: Path

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to talk to this cluster and to no other."""
        return {"SLURM_CONF": str(self.conf)}

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command of Slurm and return what it prints.

        Raises:
            RuntimeError: It failed.
        """
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def submit(self, script: str, *options: str) -> str:
        """Submit shell lines and return the job's id."""
        return self.run("sbatch", "--parsable", *options, "--wrap", script)

    def jobs(self) -> list[SlurmJob]:
        """Return all jobs that the cluster still knows, ended ones too, oldest first."""
        rows = self.run("squeue", "-h", "-t", "all", "-S", "i", "-o", "%i|%j|%T|%N|%r").splitlines()
        return [SlurmJob(*row.split("|", maxsplit=4)) for row in rows]

    def job(self, job_id: str) -> SlurmJob:
        """Return one job.

        Raises:
            LookupError: The cluster does not know it, or no more.
        """
        for job in self.jobs():
            if job.id == job_id:
                return job
        raise LookupError(f"no job {job_id}")

    def live_jobs(self) -> list[SlurmJob]:
        """Return the jobs that wait, run or end just now."""
        return [job for job in self.jobs() if job.state not in FINAL]

    def cancel(self, job_id: str) -> None:
        self.run("scancel", job_id)

    def cancel_all(self) -> None:
        """Cancel every job and wait until all are over."""
        self.run("scancel", "--user=root")
        self.wait_for(lambda: not self.live_jobs())

    def shorten(self, job_id: str, minutes: int = 1) -> None:
        """Set a job's walltime anew; Slurm ends jobs up to about 30 s after it."""
        self.run("scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes}")

    def expire(self, job_id: str) -> None:
        """End a job as its walltime does, now: SIGTERM, then SIGKILL after KillWait, state TIMEOUT."""
        self.run("scontrol", "update", f"JobId={job_id}", "TimeLimit=0")

    def drain(self, node: str) -> None:
        """Let no new job onto a node; those that run there go on."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def undrain(self, node: str) -> None:
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def node_state(self, node: str) -> str:
        """Return a node's state, such as idle, mixed, allocated, drained, down."""
        return self.run("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T")

    def kill_node(self, node: str) -> None:
        """Kill a node as a power cut does: its daemon, its steps and everything that they started.

        The controller finds out after SLURMD_TIMEOUT; `down` tells it at once.
        """
        victims = _processes_of(self.root / "log" / f"slurmd.{node}.log")
        victims += [child for one in victims for child in _children(one)]
        for one in victims:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(victims, timeout=5)

    def down(self, node: str) -> None:
        """Let the controller take a node for lost: its jobs fail with NODE_FAIL, or are queued again."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def start_node(self, node: str) -> None:
        """Start the daemon of a node that was killed, and wait until jobs may run there."""
        environment = {**os.environ, **self.environment, "PATH": _path()}
        subprocess.run(["slurmd", "-N", node], env=environment, check=True, capture_output=True)
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self.wait_for(lambda: self.node_state(node) in ("idle", "mixed", "allocated"))

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: It is not, after that time; the message shows the queue.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                nodes = self.run("sinfo", "-N", check=False)
                raise TimeoutError(f"not so after {timeout_s:.0f} s; jobs: {self.jobs()}\n{nodes}")
            time.sleep(0.2)


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _processes_of(log: Path) -> list[psutil.Process]:
    """Return a node's slurmd and slurmstepd processes: those that hold its log open."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(Path(file.path) == log for file in process.open_files()):
                found.append(process)
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def missing() -> str | None:
    """Return why no cluster can be started here; None if one can."""
    if os.geteuid() != 0:
        return "only root can start a Slurm cluster"
    if any(shutil.which(program, path=_path()) is None for program in PROGRAMS):
        return "no Slurm: apt-get install slurm-wlm munge"
    return None


@contextlib.contextmanager
def running(**options: object) -> Iterator[SlurmCluster]:
    """Run a cluster in a folder of its own; `options` are those of slurm_up.sh, such as nodes=1, gpus=0."""
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    plain = {key: value for key, value in os.environ.items() if key not in {*OPTIONS, "SLURM_CONF"}}
    given = {key.upper(): str(value) for key, value in options.items()}
    if unknown := given.keys() - set(OPTIONS):
        raise ValueError(f"unknown options {sorted(unknown)}; allowed: {', '.join(OPTIONS)}")
    environment = {**plain, **given, "SLURM_ROOT": str(root), "WIPE": "1"}
    try:
        started = subprocess.run(
            [SCRIPTS / "slurm_up.sh"], env=environment, capture_output=True, text=True, check=False
        )
        if started.returncode:
            raise RuntimeError(f"no Slurm cluster:\n{started.stderr}")
        yield SlurmCluster(root)
    finally:
        subprocess.run([SCRIPTS / "slurm_down.sh"], env=environment, capture_output=True, check=False)
