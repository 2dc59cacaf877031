"""What a block's first lines and its last step before the manager make of the job that they find themselves in."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from campaign.parallel import block_start
from campaign.parallel.block_script import block_ends, mpi_environment, on_every_node
from campaign.parallel.block_start import adapted
from campaign.site import Site, pool_of, size_pools

MANAGER = ["python", "manager.py", "--drain_period=None", "--available-accelerators", "0", "1"]


def test_workers_get_the_devices_that_the_job_was_given() -> None:
    assert adapted(MANAGER, {"CUDA_VISIBLE_DEVICES": "2,3"}, 0.0)[-2:] == ["2", "3"]
    assert adapted(MANAGER, {"ROCR_VISIBLE_DEVICES": "1,0"}, 0.0)[-2:] == ["1", "0"]
    assert adapted(MANAGER, {}, 0.0) == MANAGER


def test_groups_of_devices_stay_groups_and_names_stay_names() -> None:
    words = [*MANAGER[:4], "0,1", "2,3", "GPU-6f2a"]
    given = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert adapted(words, given, 0.0)[-3:] == ["4,5", "6,7", "GPU-6f2a"]


def test_a_device_that_the_job_does_not_have_is_told() -> None:
    with pytest.raises(ValueError, match="counts on GPU 1 of a job that was given 1"):
        adapted(MANAGER, {"CUDA_VISIBLE_DEVICES": "3"}, 0.0)
    command = [sys.executable, "-P", block_start.__file__, "--", *MANAGER]
    done = subprocess.run(
        command, env={**os.environ, "CUDA_VISIBLE_DEVICES": "3"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "gpus_per_node" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_manager_stops_taking_tasks_some_time_before_its_job_ends() -> None:
    environment = {"CAMPAIGN_BLOCK_ENDS": "1000", "CAMPAIGN_BLOCK_GRACE": "60"}
    assert adapted(MANAGER, environment, 100.0)[2] == "--drain_period=840"
    assert adapted(MANAGER, environment, 999.0)[2] == "--drain_period=1"


def _site(**dft: object) -> Site:
    return Site.model_validate({"provider": "slurm", "pools": {"dft": {"walltime": "1 h", **dft}}})


def _ran(lines: list[str], folder: Path, **environment: str) -> float:
    """Run the lines where there is no Slurm to ask, and return when the block ends."""
    if not (folder / "date").exists():
        (folder / "date").symlink_to("/usr/bin/date")
    script = "\n".join(["set -e", *lines, "echo $CAMPAIGN_BLOCK_ENDS"])
    done = subprocess.run(
        ["/bin/bash", "-c", script], env={"PATH": str(folder), **environment}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return float(done.stdout)


def test_a_block_knows_when_it_ends_also_where_slurm_does_not_say(tmp_path: Path) -> None:
    slurm = pool_of(_site(), "dft")
    assert _ran(block_ends(slurm), tmp_path, SLURM_JOB_END_TIME="1234567890") == 1234567890.0
    assert abs(_ran(block_ends(slurm), tmp_path) - time.time() - 3600) < 5
    pbs = slurm.model_copy(update={"provider": "pbs"})
    assert abs(_ran(block_ends(pbs), tmp_path) - time.time() - 3600) < 5
    assert block_ends(pool_of(Site(), "dft")) == []


def test_ranks_of_a_code_get_the_whole_block() -> None:
    site = _site(nodes_per_block=2, ranks_per_task=16, cores_per_worker=4)
    size = size_pools(site, 2, ())["dft"]
    assert (size.workers, size.slots, size.cores_per_node) == (1, 1, 32)
    found = mpi_environment(pool_of(site, "dft"), size)
    assert found["CAMPAIGN_MPI_RANKS"] == "16"
    assert found["CAMPAIGN_MPI_PREFIX"].startswith("srun --overlap --nodes=2 --ntasks=16 --ntasks-per-node=8")
    assert on_every_node("exec manager", pool_of(site, "dft"), size) == "exec manager"


def test_every_node_of_a_block_starts_its_workers() -> None:
    site = _site(nodes_per_block=3, workers=2)
    size = size_pools(site, 2, ())["dft"]
    command = on_every_node("exec 'a b'", pool_of(site, "dft"), size)
    assert command.startswith("exec srun --nodes=3 --ntasks=3 --ntasks-per-node=1 --cpus-per-task=2")
    assert (size.slots, size.workers) == (6, 2)
    mpiexec = pool_of(_site(nodes_per_block=3, launcher="mpiexec"), "dft")
    assert on_every_node("x", mpiexec, size) == "exec mpiexec -n 3 /bin/bash -c x"
