"""The Slurm cluster of the tests does what a real one does: that is what makes tests on it worth something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import slurm_cluster
from slurm_cluster import SlurmCluster


@pytest.fixture
def idle(slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    yield slurm
    slurm.cancel_all()


def gone(pid_file: Path) -> bool:
    """True if the process whose id a job wrote is dead, reaped or not."""
    try:
        return psutil.Process(int(pid_file.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def started(pid_file: Path) -> bool:
    return pid_file.exists() and pid_file.read_text().strip() != ""


def state_of(cluster: SlurmCluster, job_id: str) -> str:
    return cluster.job(job_id).state


def test_a_job_runs_where_its_partition_says(idle, tmp_path: Path):
    out = tmp_path / "out"
    job = idle.submit("echo $SLURMD_NODENAME", "-p", "cpu", "-o", str(out), "-J", "where")
    idle.wait_for(lambda: state_of(idle, job) == "COMPLETED")
    assert out.read_text() == "n2\n"
    assert idle.job(job).name == "where"


def test_jobs_that_share_a_node_see_gpus_of_their_own(idle, tmp_path: Path):
    script = 'echo "$CUDA_VISIBLE_DEVICES"; sleep 30'
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        idle.submit(script, "-p", "gpu", "--gres=gpu:1", "-o", str(out))
    idle.wait_for(lambda: all(out.exists() and out.read_text() for out in outs))
    assert sorted(out.read_text().strip() for out in outs) == ["0", "1"]
    third = idle.submit("true", "-p", "gpu", "--gres=gpu:1", "-o", "/dev/null")
    idle.wait_for(lambda: idle.job(third).reason == "Resources")


def test_cancel_ends_a_job_and_its_processes(idle, tmp_path: Path):
    job = idle.submit(f"echo $$ > {tmp_path}/pid; sleep 60", "-o", "/dev/null")
    idle.wait_for(lambda: started(tmp_path / "pid"))
    idle.cancel(job)
    idle.wait_for(lambda: state_of(idle, job) == "CANCELLED")
    idle.wait_for(lambda: gone(tmp_path / "pid"))


def test_a_drained_node_takes_no_job(idle):
    idle.drain("n2")
    job = idle.submit("true", "-p", "cpu", "-o", "/dev/null")
    idle.wait_for(lambda: "DRAINED" in idle.job(job).reason.upper() or "DOWN" in idle.job(job).reason.upper())
    idle.undrain("n2")
    idle.wait_for(lambda: state_of(idle, job) == "COMPLETED")


def test_a_killed_node_takes_its_jobs_with_it_and_comes_back(idle, tmp_path: Path):
    job = idle.submit(f"echo $$ > {tmp_path}/pid; sleep 60", "-p", "cpu", "--no-requeue", "-o", "/dev/null")
    idle.wait_for(lambda: started(tmp_path / "pid"))
    idle.kill_node("n2")
    assert gone(tmp_path / "pid")
    idle.down("n2")
    idle.wait_for(lambda: state_of(idle, job) == "NODE_FAIL")
    idle.start_node("n2")
    after = idle.submit("true", "-p", "cpu", "-o", "/dev/null")
    idle.wait_for(lambda: state_of(idle, after) == "COMPLETED")


@pytest.mark.slow
def test_a_job_that_is_over_its_walltime_times_out(idle, tmp_path: Path):
    out = tmp_path / "out"
    script = "trap 'echo terminated; exit 1' TERM; echo ready; sleep 60 & wait"
    job = idle.submit(script, "-o", str(out))
    idle.wait_for(lambda: out.exists() and "ready" in out.read_text())
    idle.expire(job)
    idle.wait_for(lambda: state_of(idle, job) == "TIMEOUT", 60)


def test_only_loopback_listens(slurm):
    daemons = [
        process
        for process in psutil.process_iter()
        if process.name() in {"slurmctld", "slurmd"}
        and process.status() != psutil.STATUS_ZOMBIE  # of a cluster that another test has ended
        and process.environ().get("SLURM_CONF") == str(slurm.conf)
    ]
    listening = [
        one.laddr.ip
        for process in daemons
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 3  # the controller and two nodes
    assert set(listening) == {"127.0.0.1"}


@pytest.mark.slow
def test_a_second_cluster_is_another_one_and_leaves_nothing(idle, tmp_path: Path):
    job = idle.submit("sleep 60", "-o", "/dev/null")
    with slurm_cluster.running(nodes=1, gpus=0) as other:
        assert other.conf != idle.conf
        assert other.jobs() == []
        pid = tmp_path / "pid"
        other.submit(f"echo $$ > {pid}; sleep 60", "-o", "/dev/null")
        other.wait_for(lambda: started(pid))
        controller = psutil.Process(int((other.root / "run" / "slurmctld.pid").read_text()))
        controller.kill()  # half of it crashed: the rest is found all the same
    assert not other.root.exists()
    assert gone(pid)
    assert state_of(idle, job) in {"PENDING", "RUNNING"}
    assert os.environ["SLURM_CONF"] == str(idle.conf)
