"""The files of deploy/fireworks do what its README says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import environment
from fireworks_site import Site, opened, order_of, until

from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig
from campaign.site import load_site
from campaign.tasks import run_job

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = DEPLOY / "fireworks"


@pytest.fixture(scope="module")
def site(mongod: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield Site(mongod.uri, "deploy", tmp_path_factory.mktemp("deploy"))


def shipped_pool() -> FireworksPoolConfig:
    dft = load_site(str(DEPLOY / "sites" / "fireworks.yaml"), DEPLOY).pools.dft
    assert isinstance(dft, FireworksPoolConfig)
    return dft


def test_the_shipped_site_is_the_default_pool_on_the_shipped_launchpad() -> None:
    dft = shipped_pool()
    assert isinstance(dft.launchpad, LaunchPadConfig)
    assert dft.launchpad.where() == "mongodb.example.org:27017 (fireworks)"
    assert "change-me" not in repr(dft)
    assert dft == FireworksPoolConfig(launchpad=dft.launchpad, category="dft")
    assert yaml.safe_load((FILES / "my_fworker.yaml").read_text())["category"] == dft.category


def test_fireworks_takes_the_shipped_settings(tmp_path: Path) -> None:
    code = "from fireworks import FWorker, LaunchPad, fw_config as c; import sys; f = sys.argv[1]; "
    code += "print(c.PING_TIME_SECS, c.RUN_EXPIRATION_SECS, FWorker.from_file(f + '/my_fworker.yaml').name, "
    code += "LaunchPad.from_file(f + '/my_launchpad.yaml').name)"
    variables = environment(FW_CONFIG_FILE=str(FILES / "FW_config.yaml"), HOME=str(tmp_path))
    told = subprocess.check_output(
        [sys.executable, "-c", code, FILES], text=True, cwd=tmp_path, env=variables
    )
    dft = shipped_pool()
    assert told.split() == [
        f"{dft.heartbeat_seconds:.0f}",
        f"{dft.lost_after_seconds:.0f}",
        "cluster",
        "fireworks",
    ]


def test_qlaunch_submits_the_shipped_batch_job_with_the_pools_overrides(site: Site, tmp_path: Path) -> None:
    """The batch system is one that begins at once; everything else is real."""
    scripts = "fireworks.scripts"
    adapter = yaml.safe_load((FILES / "my_qadapter.yaml").read_text())
    assert "#SBATCH --cpus-per-task=16" in rendered(tmp_path)
    submit = tmp_path / "at_once"
    submit.write_text('#!/bin/bash\nbash "$1" > job.log 2>&1 &\necho "Submitted batch job 12"\n')
    submit.chmod(0o755)
    adapter |= {
        "rocket_launch": f"{sys.executable} -m {scripts}.rlaunch_run -c {tmp_path} singleshot",
        "pre_rocket": f"export FW_CONFIG_FILE={FILES / 'FW_config.yaml'}",
        "_q_commands_override": {"submit_cmd": str(submit), "status_cmd": "true"},
    }
    (tmp_path / "my_qadapter.yaml").write_text(yaml.safe_dump(adapter))
    (tmp_path / "my_launchpad.yaml").write_text(site.file.read_text())
    (tmp_path / "my_fworker.yaml").write_text((FILES / "my_fworker.yaml").read_text())

    pools, order = opened(site, queueadapter={"walltime": "1:23:00"}), order_of(tmp_path / "run")
    future = pools.submit("dft", run_job, order)
    until(lambda: site.states(order) == ["READY"])
    command = [sys.executable, "-m", f"{scripts}.qlaunch_run", "-c", str(tmp_path), "-r", "rapidfire"]
    subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        check=True,
        capture_output=True,
        timeout=60,
    )
    answer = future.result(60)
    pools.close(cancel=True)
    assert answer["ok"]
    (script,) = tmp_path.glob("block_*/launcher_*/FW_submit.script")
    assert "#SBATCH --time=1:23:00" in script.read_text()
    assert (
        site.db.launches.find_one({"fw_id": site.fw_ids(order)[0]})["state_history"][0]["reservation_id"]
        == "12"
    )


def rendered(folder: Path) -> str:
    """Return the batch script of the shipped adapter."""
    code = "from fireworks.utilities.fw_serializers import load_object_from_file as load; import sys; "
    code += "print(load(sys.argv[1]).get_script_str('/somewhere'))"
    variables = environment(HOME=str(folder))
    return subprocess.check_output(
        [sys.executable, "-c", code, FILES / "my_qadapter.yaml"], text=True, cwd=folder, env=variables
    )


def test_lpad_finds_a_campaigns_fireworks(site: Site, tmp_path: Path) -> None:
    pools, order = opened(site, category="never"), order_of(tmp_path)
    pools.submit("dft", run_job, order)
    until(lambda: site.fw_ids(order))
    command = [sys.executable, "-m", "fireworks.scripts.lpad_run", "-l", str(site.file), "get_fws"]
    query = f'{{"spec.campaign_job.candidate": "{order["about"]["candidate"]}"}}'
    told = subprocess.check_output(
        [*command, "-q", query, "-d", "count"], text=True, cwd=tmp_path, env=environment(HOME=str(tmp_path))
    )
    pools.close(cancel=True)
    assert told.split()[-1] == "1"


def test_rlaunch_multi_runs_jobs_as_well(site: Site, tmp_path: Path) -> None:
    pools, order = opened(site, category="multi"), order_of(tmp_path)
    future = pools.submit("dft", run_job, order)
    until(lambda: site.fw_ids(order))
    (tmp_path / "my_fworker.yaml").write_text(
        yaml.safe_dump({"name": "w", "category": "multi", "query": "{}"})
    )
    command = [sys.executable, "-m", "fireworks.scripts.rlaunch_run", "-l", str(site.file)]
    command += ["-w", "my_fworker.yaml", "multi", "2"]
    subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, timeout=90,
        env=environment(HOME=str(tmp_path), FW_CONFIG_FILE=str(site.settings)),
    )  # fmt: skip
    answer = future.result(20)
    pools.close(cancel=True)
    assert answer["ok"]
