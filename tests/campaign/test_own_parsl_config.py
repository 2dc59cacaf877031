"""Sites whose workers a user's own Parsl configuration starts."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import yaml
from command_line import process, start
from pool_waiting import until
from test_driver import executions, labels_of, small_campaign

from campaign.parallel.processes import MARKER, carrying
from campaign.run_folder import RunFolder


def write(folder: Path, function: str = "config") -> Path:
    folder.mkdir()
    (folder / "site.yaml").write_text(yaml.safe_dump({"parsl_config": f"own_parsl:{function}"}))
    options = {"calculator_options": {"log": str(folder / "executions.jsonl"), "sleep_s": 0.5}}
    return small_campaign(
        folder,
        site="site.yaml",
        labels={"engine_options": {"calculator": "components:CountingLennardJones", **options}},
    )


def markers(run: RunFolder) -> set[str]:
    with run.store() as store:
        return {one["marker"] for one in store.query("blocks", {"pool": "dft"})}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_campaign_runs_on_it_also_after_its_driver_was_killed(tmp_path: Path) -> None:
    calm = process("launch", write(tmp_path / "calm"), "--quiet")
    assert calm.code == 0, calm.err[-2000:]
    file = write(tmp_path / "killed")
    driver, run = start("launch", file, "--quiet"), RunFolder(file.parent / "small")
    until(lambda: len(executions(file.parent)) >= 3, 120)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()  # its pipes stay open in what it has left behind
    (marker,) = markers(run)
    resumed = process("resume", file, "--quiet")
    assert resumed.code == 0, resumed.err[-2000:]
    assert labels_of(run) == labels_of(RunFolder(tmp_path / "calm" / "small"))
    with run.store() as store:
        blocks = list(store.query("blocks", {"pool": "dft"}))
    assert {one["state"] for one in blocks} == {"ended"}
    assert len(blocks) == 2
    assert [p for one in {marker, *markers(run)} for p in carrying(MARKER, one)] == []


def test_one_that_lacks_a_pool_is_refused_in_one_line(tmp_path: Path) -> None:
    ran = process("launch", write(tmp_path / "lacking", "without_labels"), "--quiet")
    assert "has no executors called cpu, dft" in ran.error
