"""A driver in the background outlives who started it, and ends when it is asked to."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command_line import Ran, campaign, environment, process
from test_driver import small_campaign

from campaign.run_folder import RunFolder


def slow_labels(folder: Path, sleep_s: float) -> dict:
    """Return the labels block of a small campaign each of whose labels takes a while."""
    options = {"log": str(folder / "executions.jsonl"), "sleep_s": sleep_s}
    return {
        "engine_options": {
            "calculator": "components:CountingLennardJones",
            "calculator_options": options,
        }
    }


def pid_of(ran: Ran) -> int:
    found = re.search(r"process (\d+) drives campaign small", ran.out)
    assert found, ran
    return int(found.group(1))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.1)


def state_of(run: RunFolder) -> str:
    with run.store() as store:
        return store.get("campaigns", "small")["state"]


@pytest.fixture
def background(tmp_path: Path) -> Iterator[Ran]:
    """What `campaign launch --detach` printed; the driver has ended when the test has."""
    file = small_campaign(tmp_path, labels=slow_labels(tmp_path, 0.5), stop={"rounds": 50})
    ran = process("launch", file, "--detach", "--pools", "threads")
    assert ran.code == 0, ran.err
    yield ran
    if not gone(pid_of(ran)):
        os.kill(pid_of(ran), signal.SIGKILL)


@pytest.mark.slow
def test_a_driver_in_the_background_outlives_its_parent_and_a_hangup_and_ends_at_stop(background, tmp_path):
    run, pid = RunFolder(tmp_path / "small"), pid_of(background)
    assert f"campaign stop {run.path}" in background.out
    assert state_of(run) == "running"  # and the process that launched it is over
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGHUP)
    assert campaign("resume", run.path, "--detach").error.startswith(
        "error: campaign 'small' is running: process"
    )
    assert f"process {pid} on" in campaign("status", run.path).out

    assert "asked the driver of small to stop" in campaign("stop", run.path, "--now").out
    wait_until_gone(pid)
    assert state_of(run) == "stopped"
    assert "campaign stopped" in run.driver_log.read_text()


def test_a_launch_that_fails_in_the_background_is_told_in_one_line_and_leaves_nothing(tmp_path):
    file = small_campaign(tmp_path, site="nowhere.yaml")
    told = campaign("launch", file, "--detach", "--pools", "threads").error
    assert "there is no such site" in told
    assert not (tmp_path / "small").exists()


def test_a_driver_that_fails_while_it_starts_is_told_in_one_line(tmp_path, monkeypatch):
    """Nothing that the launching process checks is wrong: the driver's own process finds it."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    (tmp_path / "site.yaml").write_text("pools: {gpu: {accelerators: 99}}\n")
    told = campaign("launch", small_campaign(tmp_path, site="site.yaml"), "--detach").error
    assert "pool gpu: not as many GPUs here" in told
    assert not [
        one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in (one.info["cmdline"] or [])
    ]
