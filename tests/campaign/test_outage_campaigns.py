"""Campaigns whose MongoDB server goes away: they wait, say so, lose nothing, and can still be stopped."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mongo_server
import pytest
from command_line import campaign, process, start
from mistakes import slow, wait_until, written
from rich.console import Console
from test_driver import executions, labels_of

from campaign import launch as launching
from campaign import preparing
from campaign.run_folder import RunFolder
from campaign.views.progress import Progress

pytestmark = pytest.mark.slow


@pytest.fixture
def binary() -> Path:
    found = mongo_server.find_mongod()
    if found is None:
        pytest.skip("no mongod")
    return found


@pytest.fixture
def server(binary: Path, tmp_path: Path) -> Iterator[list[mongo_server.MongoServer]]:
    """A server of this test alone, in a list so that a restarted one takes its place."""
    (tmp_path / "db").mkdir()
    holder = [mongo_server.start(binary, tmp_path / "db", mongo_server.free_port())]
    yield holder
    mongo_server.kill(holder[0])


def small(folder: Path, uri: str, **store: Any) -> Path:
    return written(
        folder,
        store={"kind": "mongodb", "uri": uri, "database": "small", **store},
        labels=_labels(folder),
    )


def _labels(folder: Path) -> dict[str, Any]:
    options = slow(folder)["engine_options"]
    return {"flow": "static", "engine": "mlip", "engine_options": options, "hull": "reference"}


def meanwhile(does: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=does)
    thread.start()
    return thread


def check_whole(tmp_path: Path, run: RunFolder) -> list[dict[str, Any]]:
    """Compare with a calm campaign; return the outages that the audit log tells of."""
    folder = RunFolder(tmp_path / "small")
    assert labels_of(folder) == labels_of(run), "the same labels as without the trouble"
    times = Counter(one["folder"] for one in executions(tmp_path))
    assert len(times) == sum(times.values()) == 9, "nothing was computed twice"
    with folder.store() as store:
        assert store.count("jobs") == len({(j["uuid"], j["index"]) for j in store.query("jobs")})
        assert all(len(one["attempts"]) == len(one["jobs"]) for one in store.query("labels"))
        return list(store.query("events", {"kind": "store_outage"}))


def test_a_campaign_outlasts_kills_of_its_server_longer_than_its_lease(
    server: list[mongo_server.MongoServer],
    binary: Path,
    tmp_path: Path,
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(preparing, "LEASE_TTL_S", 2.0)
    file = small(tmp_path, server[0].uri)
    console = Console(record=True, width=200, file=(tmp_path / "out.txt").open("w"))

    def kill_and_restart() -> None:
        for jobs, away_s in ((2, 1.0), (4, 9.0), (7, 0.0)):
            while len(executions(tmp_path)) < jobs:
                time.sleep(0.02)
            mongo_server.kill(server[0])
            time.sleep(away_s)
            server[0] = mongo_server.start(binary, tmp_path / "db", server[0].port)

    trouble = meanwhile(kill_and_restart)
    outcome = launching.launch(file, run_dir=None, pools="threads", progress=Progress(console))
    trouble.join()
    assert outcome.status == "finished", outcome.reason
    outages = check_whole(tmp_path, run)
    assert max(one["data"]["seconds"] for one in outages) > 4
    said = console.export_text()
    assert f"MongoDB at 127.0.0.1:{server[0].port} (small) has not answered for" in said
    assert "are kept)" in said or "is kept)" in said
    with outcome.folder.store() as store:
        assert store.get("meta", "lease:small")["epoch"] == 1, "it was never lost"


def test_a_campaign_outlasts_a_failover(binary: Path, tmp_path: Path, run: RunFolder):
    with mongo_server.replica_set(binary) as servers:
        file = small(tmp_path, servers.uri)

        def kill_primary() -> None:
            while len(executions(tmp_path)) < 3:
                time.sleep(0.02)
            mongo_server.kill(servers.primary())

        trouble = meanwhile(kill_primary)
        outcome = launching.launch(
            file, run_dir=None, pools="threads", progress=Progress(Console(), quiet=True)
        )
        trouble.join()
        assert outcome.status == "finished", outcome.reason
        check_whole(tmp_path, run)


def test_a_campaign_outlasts_a_server_that_freezes(
    server: list[mongo_server.MongoServer], tmp_path: Path, run: RunFolder
):
    file = small(tmp_path, server[0].uri)

    def freeze() -> None:
        while len(executions(tmp_path)) < 3:
            time.sleep(0.02)
        with mongo_server.frozen(server[0]):
            time.sleep(12)

    trouble = meanwhile(freeze)
    outcome = launching.launch(file, run_dir=None, pools="threads", progress=Progress(Console(), quiet=True))
    trouble.join()
    assert outcome.status == "finished", outcome.reason
    check_whole(tmp_path, run)


def _stop_now(file: Path, _running: subprocess.Popen[str]) -> None:
    ran = campaign("stop", file)
    assert ran.code == 0
    assert "no answer from the MongoDB server" in ran.out
    assert "drains once the server is back" in ran.out
    time.sleep(1)
    assert _running.poll() is None, "a drain needs a store, and waits for it"
    assert "leaves at once" in campaign("stop", file, "--now").out


def _interrupt_twice(_file: Path, running: subprocess.Popen[str]) -> None:
    running.send_signal(signal.SIGINT)
    time.sleep(2)
    assert running.poll() is None, "a drain needs a store, and waits for it"
    running.send_signal(signal.SIGINT)


def _terminate(_file: Path, running: subprocess.Popen[str]) -> None:
    running.terminate()
    time.sleep(launching.SIGTERM_GRACE_S - 2)


@pytest.mark.parametrize(
    "ask", [_stop_now, _interrupt_twice, pytest.param(_terminate, marks=pytest.mark.long)]
)
def test_a_driver_that_waits_can_be_stopped(
    ask: Callable[[Path, subprocess.Popen[str]], None],
    server: list[mongo_server.MongoServer],
    binary: Path,
    tmp_path: Path,
    run: RunFolder,
):
    file = small(tmp_path, server[0].uri)
    running = start("launch", file, "--pools", "threads")
    try:
        wait_until(lambda: len(executions(tmp_path)) >= 3, running)
        mongo_server.kill(server[0])
        time.sleep(1)
        assert "no answer" in campaign("status", file).error, "a reader is told within seconds"
        ask(file, running)
        begin = time.monotonic()
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert time.monotonic() - begin < 20, "seconds, of which Python's own end takes most on a busy machine"
    assert running.returncode == 2
    (line,) = err.splitlines()
    assert "stopped while the MongoDB server did not answer" in line
    assert "campaign resume" in line
    server[0] = mongo_server.start(binary, tmp_path / "db", server[0].port)
    ran = process("resume", file, "--pools", "threads")
    assert ran.code == 0, ran.err
    check_whole(tmp_path, run)
