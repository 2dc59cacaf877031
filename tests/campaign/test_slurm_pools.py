"""Pools on a real Slurm: blocks come, go, expire and are replaced, and nothing outlives its driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from pool_tasks import nap
from pool_waiting import until
from slurm_cluster import SlurmCluster
from slurm_pools import LOCAL, pools_on, slurm_site, where_and_nap

from campaign.errors import SiteError
from campaign.parallel.orphans import end_orphans, find_orphans
from campaign.parallel.parsl_pools import ParslPools
from campaign.parallel.pools import failure_cause
from campaign.parallel.processes import MARKER, carrying
from campaign.parallel.queues import campaign_identity, job_prefix
from campaign.parallel.slurm import parse_jobs

pytestmark = pytest.mark.slow
ONE = {"partition": "gpu", "walltime": "10 min"}


def _error_of(future: Future[Any], timeout_s: float) -> BaseException:
    error = future.exception(timeout_s)
    assert error is not None
    return error


def test_workers_have_devices_of_their_own_which_are_the_jobs_own(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of a job that the driver itself runs in: none of the blocks' business.
    for name, value in {"SLURM_JOB_END_TIME": "1", "CUDA_VISIBLE_DEVICES": "7", "SLURM_NTASKS": "9"}.items():
        monkeypatch.setenv(name, value)
    other = slurm.submit("sleep 60", "-p", "gpu", "--gres=gpu:1", "-o", "/dev/null")  # takes device 0
    slurm.wait_for(lambda: slurm.job(other).state == "RUNNING")
    gpu = {**ONE, "gres": "gpu:1", "accelerators": "auto"}
    both = {"walltime": "10 min", "gpus_per_node": 2, "accelerators": "auto"}
    try:
        with pools_on(slurm, tmp_path, gpu=gpu, dft=both) as pools:
            assert (tmp_path / "pools").stat().st_mode & 0o777 == 0o700
            assert pools.slots["gpu"] == 1
            assert pools.slots["dft"] == 2
            one = pools.submit("gpu", where_and_nap, 0.0)
            two = [pools.submit("dft", where_and_nap, 2.0) for _ in range(2)]
            assert one.result(40)["CUDA_VISIBLE_DEVICES"] == "1"
            seen = [future.result(40) for future in two]
            assert sorted(str(one["CUDA_VISIBLE_DEVICES"]) for one in seen) == ["0", "1"]
            assert seen[0]["pid"] != seen[1]["pid"]
            ends = float(str(seen[0]["CAMPAIGN_BLOCK_ENDS"]))
            assert abs(ends - time.time() - 600) < 60
            (block,) = [block for block in pools.blocks() if block.pool == "dft"]
            assert (block.provider, block.nodes, block.cores_per_node) == ("slurm", 1, 2)
            assert block.state == "running"
            assert block.job_id == seen[0]["SLURM_JOB_ID"]
            assert abs(ends - 600 - (block.started or 0.0)) < 5
            slurm.cancel(other)
    finally:
        slurm.cancel_all()


def test_out_with_the_work_in_again_and_a_cancelled_block_is_replaced(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    dft = {**ONE, "max_blocks": 2, "idle_minutes": 0.05}
    with pools_on(slurm, tmp_path, dft=dft) as pools:
        futures = [pools.submit("dft", where_and_nap, 5.0) for _ in range(2)]
        jobs = {future.result(40)["SLURM_JOB_ID"] for future in futures}
        assert len(jobs) == 2
        slurm.wait_for(lambda: not slurm.live_jobs())
        until(lambda: all(block.state == "ended" for block in pools.blocks() if block.pool == "dft"), 10)
        blocks = [block for block in pools.blocks() if block.pool == "dft"]
        assert {block.job_id for block in blocks} == jobs
        assert {block.message for block in blocks} == {"not needed any more"}
        assert all((block.ended or 0) - (block.started or 0) >= 5 for block in blocks)

        lost = pools.submit("dft", nap, 600, str(tmp_path / "note"))
        until((tmp_path / "note").exists, 30)
        (live,) = [job for job in slurm.live_jobs() if job.state == "RUNNING"]
        slurm.cancel(live.id)
        assert failure_cause(_error_of(lost, 40)) == "node_lost"
        again = pools.submit("dft", where_and_nap, 0.0).result(30)
        assert again["SLURM_JOB_ID"] != live.id
        (record,) = [block for block in pools.blocks() if block.job_id == live.id]
        assert (record.state, record.message) == ("ended", "CANCELLED")


def test_tasks_go_where_they_fit_and_an_expiring_block_takes_none(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """Blocks of one minute, of which the last 20 s take no task."""
    dft = {**ONE, "walltime": "1 min", "grace_s": 20, "max_blocks": 2, "idle_minutes": 5}
    with pools_on(slurm, tmp_path, dft=dft) as pools:
        first = pools.submit("dft", where_and_nap, 12.0, expected_s=15.0).result(40)
        fits = pools.submit("dft", where_and_nap, 0.0, expected_s=2.0)
        too_long = pools.submit("dft", where_and_nap, 0.0, expected_s=1000.0)
        assert fits.result(20)["SLURM_JOB_ID"] == first["SLURM_JOB_ID"]
        fresh = too_long.result(40)
        assert fresh["SLURM_JOB_ID"] != first["SLURM_JOB_ID"]
        old, young = (float(str(seen["CAMPAIGN_BLOCK_ENDS"])) for seen in (first, fresh))
        assert young > old
        time.sleep(max(0.0, old - 19 - time.time()))  # the first one takes none any more
        assert pools.submit("dft", where_and_nap, 0.0).result(20)["SLURM_JOB_ID"] == fresh["SLURM_JOB_ID"]
        by_id = {block.job_id: block for block in pools.blocks()}
        until(lambda: {b.job_id: b for b in pools.blocks()}[str(first["SLURM_JOB_ID"])].state == "ended", 30)
        assert by_id[str(fresh["SLURM_JOB_ID"])].state == "running"


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        ({"partition": "nowhere"}, "invalid partition"),
        ({"gres": "gpu:99"}, "Requested node configuration is not available"),
        ({"workers": 99}, "Requested node configuration is not available (PartitionConfig)"),
        ({"scheduler_options": ["--no-such-option"]}, "unrecognized option"),
    ],
)
def test_what_slurm_refuses_is_told_in_one_line_before_anything_starts(
    slurm: SlurmCluster, tmp_path: Path, pool: dict[str, object], told: str
) -> None:
    with pytest.raises(SiteError) as caught:
        ParslPools(slurm_site(dft=pool), tmp_path / "pools")
    line = str(caught.value)
    assert told in line
    assert "pool dft" in line
    assert "cure:" in line
    assert "\n" not in line
    assert slurm.live_jobs() == []


def test_a_block_that_cannot_start_is_told_with_its_own_words(slurm: SlurmCluster, tmp_path: Path) -> None:
    bad = {**ONE, "worker_init": ["echo no licence here >&2; exit 3"]}
    with pools_on(slurm, tmp_path, dft=bad) as pools:
        future = pools.submit("dft", where_and_nap, 0.0)
        assert failure_cause(_error_of(future, 60)) == "node_lost"
        with pytest.raises(SiteError, match="no licence here"):
            pools.submit("dft", where_and_nap, 0.0)
        assert len([block for block in pools.blocks() if block.pool == "dft"]) == 3


DRIVER = """
import json, sys, time
from pathlib import Path
from pool_tasks import run_program
from slurm_pools import slurm_site
from campaign.parallel.parsl_pools import ParslPools
from campaign.parallel.queues import campaign_identity

folder = Path(sys.argv[1])
site = slurm_site(dft={"partition": "gpu", "max_blocks": 2, "lost_after_seconds": 20})
pools = ParslPools(site, folder / "pools", campaign_identity("test", folder))
for i in range(2):
    pools.submit("dft", run_program, 600, str(folder / f"{i}.note"))
while not all((folder / f"{i}.note").exists() for i in range(2)):
    time.sleep(0.1)
(folder / "blocks.json").write_text(json.dumps([block.document() for block in pools.blocks()]))
time.sleep(600)
"""


def test_nothing_outlives_a_driver_that_was_killed_and_what_does_is_found(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent.parent), str(here), str(here.parent)])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}
    )
    until((tmp_path / "blocks.json").exists, 60)
    blocks = json.loads((tmp_path / "blocks.json").read_text())
    (marker,) = {block["marker"] for block in blocks}
    programs = [
        psutil.Process(int(pid)) for i in range(2) for pid in (tmp_path / f"{i}.note").read_text().split()
    ]
    identity, site = campaign_identity("test", tmp_path), slurm_site(dft={"partition": "gpu"})
    foreign = slurm.submit("sleep 600", "-J", "cg-0123456789-dft-1-2-3", "-o", "/dev/null")
    # A job whose driver died before it could note the id, and one that waits for the driver's own end.
    unnoted = slurm.submit("sleep 600", "-J", f"{job_prefix(identity)}dft-9-9-9", "-o", "/dev/null")

    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    killed = time.monotonic()
    found = find_orphans(blocks, site, identity, host="elsewhere")
    jobs = {block["job_id"] for block in blocks if block["provider"] == "slurm"}
    assert {orphan.id for orphan in found} == jobs | {unnoted}
    slurm.wait_for(lambda: {job.id for job in slurm.live_jobs()} == {foreign, unnoted}, 35)
    until(lambda: not any(program.is_running() for program in programs), 5)
    assert time.monotonic() - killed < 35
    assert carrying(MARKER, marker) == []

    found = find_orphans(blocks, site, identity, host="elsewhere")
    assert [orphan.id for orphan in found] == [unnoted]
    assert end_orphans(found, site) == 1
    slurm.wait_for(lambda: {job.id for job in slurm.live_jobs()} == {foreign})
    slurm.cancel(foreign)
    slurm.wait_for(lambda: not slurm.live_jobs())


def test_a_driver_that_closes_takes_queued_blocks_with_it(slurm: SlurmCluster, tmp_path: Path) -> None:
    slurm.drain("n1")
    try:
        with pools_on(slurm, tmp_path, cpu={**LOCAL}, dft={**ONE, "min_blocks": 1}) as pools:
            slurm.wait_for(lambda: len(slurm.live_jobs()) == 1)
            until(lambda: any(block.state == "queued" for block in pools.blocks()), 10)
            assert pools.submit("cpu", where_and_nap, 0.0).result(20)
    finally:
        slurm.undrain("n1")


def test_what_squeue_prints_is_read() -> None:
    printed = (
        "7|RUNNING|2026-11-22T00:02:30|2026-11-22T04:02:30|None|cg-a-dft-1\n"
        "8|PENDING|N/A|N/A|Resources|with|bars\n"
        "9|TIMEOUT|2026-11-22T00:00:00|2026-11-22T00:01:10|TimeLimit|x\n"
        "10|NODE_FAIL|2026-11-22T00:00:00|2026-11-22T00:01:10|NodeDown|x\n"
    )
    jobs = parse_jobs(printed)
    assert [jobs[key].state for key in ("7", "8", "9", "10")] == ["running", "queued", "ended", "ended"]
    assert (jobs["8"].name, jobs["8"].started, jobs["8"].message) == ("with|bars", None, "Resources")
    assert jobs["7"].ended is None
    assert (jobs["9"].message, jobs["10"].message) == ("TIMEOUT", "NODE_FAIL (NodeDown)")
    assert (jobs["9"].ended or 0) - (jobs["9"].started or 0) == 70


def run_ranks(folder: str) -> str:
    """Run a code as engines do, on a worker."""
    from flows.engines.code_run import run_code

    Path(folder).mkdir()
    run_code(["sh", "-c", "echo $SLURMD_NODENAME $SLURM_PROCID"], Path(folder), "said")
    return (Path(folder) / "said").read_text()


def test_ranks_of_one_code_spread_over_the_nodes_of_its_block(slurm: SlurmCluster, tmp_path: Path) -> None:
    dft = {"walltime": "10 min", "nodes_per_block": 2, "ranks_per_task": 4, "cores_per_worker": 2}
    with pools_on(slurm, tmp_path, dft=dft) as pools:
        assert pools.slots["dft"] == 1
        said = pools.submit("dft", run_ranks, str(tmp_path / "code")).result(60)
        assert sorted(said.split("\n")) == ["", "n1 0", "n1 1", "n2 2", "n2 3"]
        (block,) = pools.blocks()
        assert (block.nodes, block.cores_per_node) == (2, 4)
