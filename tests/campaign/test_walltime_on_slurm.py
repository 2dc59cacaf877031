"""Blocks of a real Slurm that are too short for a relaxation: it goes on from one to the next, and uses up nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from pool_waiting import until
from pymatgen.core import Lattice, Structure
from slurm_cluster import SlurmCluster
from slurm_pools import HERE, pools_on
from test_driver import quiet, small_campaign
from test_provoked_failures import troubled

from campaign import tasks
from campaign.failures import MACHINE
from campaign.launch import launch
from campaign.parallel.pools import failure_cause
from flows.run import build_label

pytestmark = pytest.mark.slow


def campaign_in_blocks(folder: Path, **pool: object) -> Path:
    """Write a campaign of one candidate whose labels run in blocks on Slurm; a try that counted would end it."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    site = {
        "name": "testbed",
        "environment": {"PYTHONPATH": path},
        "pools": {"dft": {"provider": "slurm", "workers": 1, "max_blocks": 1, **pool}},
    }
    (folder / "site.yaml").write_text(yaml.safe_dump(site))
    counted = {"walltime": {"tries": 1}}
    return small_campaign(
        folder,
        site="site.yaml",
        chemistry={"elements": ["Ca", "Si"]},
        acquisition={"candidates_per_round": 4, "labels_per_round": 1, "lookahead_rounds": 0},
        screen=[{"kind": "composition"}, {"kind": "duplicates"}],
        labels={"flow": "relax", "max_attempts": 1, "on_failure": counted, **troubled("Slower")},
        stop={"rounds": 1},
    )


@pytest.mark.long
def test_a_relaxation_goes_on_from_block_to_block(slurm: SlurmCluster, tmp_path: Path) -> None:
    file = campaign_in_blocks(tmp_path, walltime="1 min", grace_s=15)
    outcome = launch(file, run_dir=None, pools="parsl", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    with outcome.folder.store() as store:
        [label] = store.query("labels", {"purpose": "candidate"})
    assert label["state"] == "done", label["failure"]
    cut = [one for one in label["attempts"] if one["cause"]]
    assert sum(one["geometries"] > 0 for one in cut) >= 1
    assert all(one["block_ended"] and one["forgiven"] == MACHINE for one in cut)
    assert not slurm.live_jobs()


def test_a_cancelled_block_saves_its_relaxation(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Slurm sends SIGTERM, and SIGKILL half a minute later."""
    crystal = Structure(Lattice.cubic(3.6), ["Ca", "Si"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    options = {"calculator": "troubled:Slow", "fmax_ev_per_ang": 0.01}
    job = build_label(crystal.as_dict(), "relax", "mlip", options, {})["jobs"][0]["job"]
    folder = tmp_path / "job"
    order = {
        "job": job,
        "upstream": [],
        "work_dir": str(folder),
        "cures": [],
        "seconds": None,
        "memory_gb": None,
    }
    marks = folder / "geometries"
    with pools_on(slurm, tmp_path, dft={"walltime": "10 min", "max_blocks": 1}) as pools:
        future = pools.submit("dft", tasks.run_job, order)
        until(lambda: marks.exists() and marks.stat().st_size >= 3, 120)
        [block] = [one for one in slurm.live_jobs() if one.state == "RUNNING"]
        slurm.cancel(block.id)
        error = future.exception(60)
        assert error is not None
        assert failure_cause(error) == "node_lost"
    # it was saved because of the signal: the relaxation had not run for as long as savings are apart
    reached = Structure.from_dict(json.loads((folder / "last_geometry.json").read_text()))
    assert abs(reached.volume - crystal.volume) > 1e-3
