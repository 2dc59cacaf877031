"""Pools inside one big Slurm job: the driver's own."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from campaign.errors import SiteError
from campaign.parallel.allocation import Allocation, nodes_needed, on_nodes
from campaign.site import Site, pool_of, size_pools

HERE = Path(__file__).parent


def _site(**pools: dict[str, object]) -> Site:
    return Site.model_validate({"provider": "allocation", "pools": pools})


@pytest.mark.slow
def test_pools_share_the_nodes_of_the_drivers_own_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE), str(HERE.parent)])
    command = f"PYTHONPATH={path} exec {sys.executable} {HERE / 'allocation_driver.py'} {tmp_path}"
    job = slurm.submit(command, "-N", "2", "--gres=gpu:2", "-c", "4", "-t", "5", "-o", str(tmp_path / "log"))
    started = time.time()
    slurm.wait_for(lambda: slurm.job(job).state not in ("PENDING", "RUNNING"), 120)
    assert (tmp_path / "outcome.json").exists(), (tmp_path / "log").read_text()
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["slots"] == {"gpu": 2, "cpu": 1, "dft": 2}
    gpu = [seen for name, seen in outcome["seen"] if name == "gpu"]
    dft = [seen for name, seen in outcome["seen"] if name == "dft"]
    assert sorted(seen["CUDA_VISIBLE_DEVICES"] for seen in gpu) == ["0", "1"]
    assert {seen["SLURMD_NODENAME"] for seen in gpu}.isdisjoint({seen["SLURMD_NODENAME"] for seen in dft})
    assert {seen["SLURM_JOB_ID"] for seen in gpu + dft} == {job}
    assert abs(float(gpu[0]["CAMPAIGN_BLOCK_ENDS"]) - started - 300) < 60
    nodes = {block["pool"]: (block["provider"], block["nodes"]) for block in outcome["blocks"]}
    assert nodes == {"gpu": ("allocation", 1), "cpu": ("local", 0), "dft": ("allocation", 1)}


def test_without_a_job_there_is_no_allocation() -> None:
    with pytest.raises(SiteError, match="does not run in a Slurm job"):
        Allocation.of_this_job(_site(), {})


def test_pools_that_do_not_fit_into_the_job_are_refused(slurm: SlurmCluster) -> None:
    site = _site(gpu={"max_blocks": 2}, dft={"nodes_per_block": 3}, cpu={"provider": "local"})
    assert nodes_needed(site) == {"gpu": 2, "dft": 3}
    with pytest.raises(SiteError, match="more nodes than this job has"):
        Allocation.of_this_job(site, {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n[1-4]"})


def test_no_node_is_given_twice() -> None:
    allocation = Allocation(["n1", "n2", "n3"], time.time() + 60)
    first = allocation.take(2)
    assert allocation.take(1) == ("n1",)
    with pytest.raises(RuntimeError):
        allocation.take(1)
    allocation.give_back(first)
    assert set(allocation.take(2)) == {"n2", "n3"}


def test_ranks_of_a_task_keep_to_the_nodes_of_their_block() -> None:
    site = _site(dft={"nodes_per_block": 2, "ranks_per_task": 4})
    command = on_nodes("exec manager", ("n2", "n3"), pool_of(site, "dft"), size_pools(site, 2, ())["dft"])
    assert "--nodelist=n2 --nodes=1" in command
    assert "--nodelist=n2,n3" in command
