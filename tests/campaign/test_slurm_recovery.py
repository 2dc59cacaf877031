"""A driver killed while its labels run on a real Slurm: its jobs are told, cancelled, counted, and gone on from."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import command_line
import pytest
import yaml
from command_line import campaign, process, start
from slurm_cluster import SlurmCluster
from test_driver import executions, labels_of, small_campaign

from campaign.recover import recover
from campaign.run_folder import RunFolder


def on_slurm(folder: Path) -> Path:
    """Write the small campaign with slow labels in Slurm blocks; the other pools are local."""
    path = command_line.environment()["PYTHONPATH"]
    block = {"provider": "slurm", "partition": "main", "walltime": "10 min", "workers": 1, "poll_seconds": 1}
    site = {"environment": {"PYTHONPATH": path}, "pools": {"dft": block}, "start_timeout_s": 120}
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    options = {"log": str(folder / "executions.jsonl"), "sleep_s": 4.0}
    labels = {
        "engine_options": {"calculator": "components:CountingLennardJones", "calculator_options": options}
    }
    return small_campaign(folder, site="site.yaml", labels=labels, stop={"rounds": 1})


@pytest.mark.long
def test_blocks_of_a_killed_driver_are_found_cancelled_and_counted(slurm: SlurmCluster, tmp_path: Path):
    file = on_slurm(tmp_path)
    run = RunFolder(tmp_path / "small")
    running = start("launch", file)
    try:
        slurm.wait_for(lambda: len(executions(tmp_path)) >= 2 or running.poll() is not None, 240)
        assert running.poll() is None, running.communicate()
        [job] = slurm.live_jobs()
        status = json.loads(campaign("status", run.path, "--json").out)
        assert status["blocks"]["dft"]["job_ids"] == [job.id]
        assert status["blocks"]["dft"]["running"] == 1
        assert f"jobs {job.id}" in campaign("status", run.path).out
    finally:
        running.kill()
        running.wait()
    told = [line for line in recover(file, dry_run=True).blocks if "slurm" in line]
    assert len(told) == 1
    assert f"slurm {job.id}" in told[0]
    ran = campaign("recover", file)
    assert ran.code == 0, ran.err
    slurm.wait_for(lambda: slurm.live_jobs() == [], 60)
    with run.store() as store:
        blocks = list(store.query("blocks"))
    assert {one["state"] for one in blocks} == {"ended"}
    [block] = [one for one in blocks if one["job_id"] == job.id]
    assert block["message"] == "its driver ended"
    seconds = (
        datetime.fromisoformat(block["ended"]) - datetime.fromisoformat(block["started"])
    ).total_seconds()
    assert seconds > 0
    before = json.loads(campaign("status", run.path, "--json").out)["usage"]["node_hours"]
    assert before >= block["nodes"] * seconds / 3600

    assert process("resume", run.path, "--pools", "threads").code == 0
    assert len(labels_of(run)) == 3
    after = json.loads(campaign("status", run.path, "--json").out)["usage"]["node_hours"]
    assert after > before, "nothing that was counted is forgotten"
