"""Drivers in trouble: a second one, a full disk, workers that do not start, Ctrl-C at the wrong moment."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from pathlib import Path

import mongo_server
import pytest
import yaml
from command_line import campaign, process, start
from mistakes import slow, wait_until, written
from test_driver import executions, labels_of, small_campaign

from campaign.run_folder import RunFolder


@pytest.mark.slow
def test_a_second_driver_is_refused_with_host_and_pid(tmp_path: Path):
    file = small_campaign(tmp_path, labels=slow(tmp_path))
    run = RunFolder(tmp_path / "small")
    running = start("launch", file, "--pools", "threads")
    try:
        wait_until(lambda: executions(tmp_path), running)
        for argv in (["launch", file], ["resume", run.path], ["resume", file]):
            line = campaign(*argv, "--pools", "threads").error
            assert f"process {running.pid}" in line
            assert socket.gethostname() in line
            assert "cure:" in line
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 0, err
    assert "campaign finished" in out
    folders = [one["folder"] for one in executions(tmp_path)]
    assert len(folders) == len(set(folders)) == 9


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 24 MB; skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Leave no room on a disk."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as handle:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    handle.write(b"\0" * size)
            except OSError:
                continue
    return ballast


@pytest.mark.slow
def test_a_full_disk_ends_the_driver_and_loses_nothing(small_disk: Path, tmp_path: Path, run: RunFolder):
    file = small_campaign(tmp_path, labels=slow(tmp_path))
    folder = RunFolder(small_disk / "run")
    running = start("launch", file, "--pools", "threads", "--run-dir", folder.path)
    try:
        wait_until(lambda: len(executions(tmp_path)) >= 3, running)
        ballast = fill(small_disk)
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 2, (out[-2000:], err[-3000:])
    (line,) = err.splitlines()
    assert "no space left" in line
    assert "cure: free space" in line
    with folder.store() as store:
        done = {one["_id"]: one["result"]["energy"] for one in store.query("labels", {"state": "done"})}
        assert done
        assert store.count("labels", {"state": "failed"}) == 0, "a full disk is no fault of a candidate"
    assert "no space left" in campaign("resume", folder.path, "--pools", "threads").error

    ballast.unlink()
    ran = process("resume", folder.path, "--pools", "threads")
    assert ran.code == 0, ran.err
    with folder.store() as store:
        assert {one: store.get("labels", one)["result"]["energy"] for one in done} == done
        assert store.count("labels", {"state": "done"}) == 9
    assert labels_of(folder) == labels_of(run), "the same labels as without the trouble"
    times = Counter(one["folder"] for one in executions(tmp_path))
    assert len(times) == 9
    assert sum(times.values()) <= 10, "only the one job that could not write its result was repeated"


@pytest.mark.slow
def test_a_server_that_dies_ends_a_driver_that_may_not_wait_and_loses_nothing(tmp_path: Path, run: RunFolder):
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip("no mongod")
    (tmp_path / "db").mkdir()
    server = mongo_server.start(binary, tmp_path / "db", mongo_server.free_port())
    try:
        file = small_campaign(tmp_path, labels=slow(tmp_path))
        document = yaml.safe_load(file.read_text())
        store = {"kind": "mongodb", "uri": server.uri, "outage_hours": 0}
        file.write_text(yaml.safe_dump({**document, "store": store}))
        running = start("launch", file, "--pools", "threads")
        try:
            wait_until(lambda: len(executions(tmp_path)) >= 4, running)
            mongo_server.kill(server)
            _, err = running.communicate(timeout=120)
        finally:
            running.kill()
        assert running.returncode == 2, err[-3000:]
        (line,) = err.splitlines()
        assert "no answer from the MongoDB server" in line or "the MongoDB server" in line
        assert "cure:" in line
        assert "no answer" in campaign("resume", file, "--pools", "threads").error
        assert "no answer" in campaign("status", file).error

        server = mongo_server.start(binary, tmp_path / "db", server.port)
        ran = process("resume", file, "--pools", "threads")
        assert ran.code == 0, ran.err
        assert labels_of(RunFolder(tmp_path / "small")) == labels_of(run)
        folders = [one["folder"] for one in executions(tmp_path)]
        assert len(set(folders)) == 9
        assert len(folders) == 9, "a result that the driver could not record is found in its folder"
    finally:
        mongo_server.kill(server)


@pytest.mark.slow
def test_a_worker_init_that_fails_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "site.yaml").write_text("worker_init: ['module load no-such-module-xyz']\n")
    file = written(tmp_path, site="site.yaml")
    begin = time.monotonic()
    ran = process("launch", file)
    assert time.monotonic() - begin < 30 + 15, (
        "30 s, and the time that Python takes to import on a busy machine"
    )
    assert re.search("worker|pool|site", ran.error)
    assert "cure:" in ran.error
    with RunFolder(tmp_path / "small").store() as store:
        assert store.count("labels", {"state": "failed"}) == 0
    assert not [line for line in ps() if str(tmp_path) in line]


def ps() -> list[str]:
    return subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["libraries are imported", "the run folder is made"])
def test_a_launch_that_is_interrupted_early(moment: str, tmp_path: Path):
    """Ctrl-C before the driver drives: no traceback, and the next start works."""
    file = small_campaign(tmp_path)
    running = start("launch", file, "--pools", "threads")
    maps = Path(f"/proc/{running.pid}/maps")

    def has_come() -> bool:
        if moment == "the run folder is made" or not maps.parent.is_dir():
            return (tmp_path / "small").exists()
        return "numpy" in maps.read_text()

    wait_until(has_come, running)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert "Traceback" not in err, err[-2000:]
    assert running.returncode in {0, 130}, "drained, or interrupted"
    command = "resume" if (tmp_path / "small" / "campaign.yaml").exists() else "launch"
    ran = process(command, file, "--pools", "threads")
    assert ran.code == 0, ran.err
    assert "campaign finished" in ran.out
