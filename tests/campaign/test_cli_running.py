"""A campaign that runs, seen from outside: the live view, status from another terminal, stop and resume."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from command_line import campaign, environment, process, start
from mistakes import slow
from test_driver import executions, small_campaign

from campaign.config import StopConfig, config_document
from campaign.run_folder import RunFolder


@pytest.mark.slow
def test_a_terminal_shows_the_funnel_while_it_works(tmp_path: Path):
    file = small_campaign(tmp_path, stop={"rounds": 1}, labels=slow(tmp_path))
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "campaign.cli", "launch", str(file), "--pools", "threads"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="xterm", LINES="50"),
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux's way to say that the other side is closed
            break
        if not read:
            break
        seen += read
    os.close(ours)
    text = seen.decode()
    assert running.wait() == 0, text[-3000:]
    assert "\x1b[" in text
    for word in ("candidates", "screened", "slots busy", "gpu ", "labels", "labelled candidates", "best"):
        assert word in text, word


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        "stop",
        pytest.param("stop --now", marks=pytest.mark.long),
        "SIGINT",
        pytest.param("SIGTERM", marks=pytest.mark.long),
    ],
)
def test_a_running_campaign_is_watched_stopped_and_resumed(how: str, tmp_path: Path):
    file = small_campaign(tmp_path, labels=slow(tmp_path))
    running = start("launch", file, "--pools", "threads")
    run = RunFolder(tmp_path / "small")
    try:
        status = wait_for_a_label(file, running)
        assert status["state"] == "running"
        assert status["driver"]["pid"] == running.pid
        if how.startswith("SIG"):
            running.send_signal(getattr(signal, how))
        else:
            ran = campaign("stop", file, *how.split()[1:])
            assert "asked the driver" in ran.out
        out, err = running.communicate(timeout=90)
    finally:
        running.kill()
    assert running.returncode == 0, err[-3000:]
    assert "campaign stopped" in out
    assert json.loads(campaign("status", run.path, "--json").out)["state"] == "stopped"
    assert campaign("query", run.path, "labels", '{"state": "done"}', "--count").out != "9\n"

    small_campaign(tmp_path, labels=slow(tmp_path))
    ran = process("resume", run.path, "--pools", "threads")
    assert ran.code == 0, ran.err
    assert "campaign finished" in ran.out
    assert campaign("query", run.path, "labels", '{"state": "done"}', "--count").out == "9\n"
    jobs = [one["folder"] for one in executions(tmp_path)]
    if how != "stop --now":
        assert len(jobs) == len(set(jobs)) == 9, "a drain loses nothing"


def wait_for_a_label(file: Path, running: subprocess.Popen[str]) -> dict:
    """Return the status at the moment when the first label is done."""
    for _ in range(600):
        assert running.poll() is None, running.communicate()
        ran = campaign("status", file, "--json")
        if ran.code == 0:
            found = json.loads(ran.out)
            if found["references"].get("done"):
                return found
        time.sleep(0.1)
    raise AssertionError("no label was done within a minute")


def test_resume_takes_over_a_larger_budget_only(copied, tmp_path: Path):
    run = copied()
    config = run.config()
    document = config_document(config.model_copy(update={"stop": StopConfig(rounds=2, labels=60)}))
    edited = tmp_path / "edited.yaml"
    edited.write_text(yaml.safe_dump(document))
    ran = campaign("resume", run.path, "--config", edited, "--pools", "threads")
    assert ran.code == 0, ran.err
    assert run.config().stop.labels == 60
    edited.write_text(yaml.safe_dump(document | {"seed": 9}))
    assert "seed 3 -> 9" in campaign("resume", run.path, "--config", edited).error
    assert run.config().seed == 3
