"""Several campaigns at once: in one database, on one machine; and readers beside them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mongo_server
import pytest
import yaml
from command_line import campaign, environment, start
from mistakes import slow, written
from test_driver import executions, labels_of

from campaign.errors import ConfigError
from campaign.failures import DRIVER
from campaign.lease import acquire
from campaign.run_folder import RunFolder
from campaign.store import CampaignStore, StoreConfig
from campaign.store_claims import claim_store


def small(folder: Path, name: str, **keys: Any) -> Path:
    folder.mkdir(exist_ok=True)
    options = slow(folder)["engine_options"]
    labels = {"flow": "static", "engine": "mlip", "engine_options": options, "hull": "reference"}
    return written(folder, name=name, labels=labels, **keys)


@pytest.fixture
def database(mongod: mongo_server.MongoServer):
    import pymongo

    yield {"kind": "mongodb", "uri": mongod.uri, "database": "shared"}
    with pymongo.MongoClient(mongod.uri) as client:
        client.drop_database("shared")


def opened(database: dict[str, str], folder: Path, **more: Any) -> CampaignStore:
    return CampaignStore.open(StoreConfig.model_validate({**database, **more}), folder)


def test_a_database_that_holds_a_campaign_is_refused_with_the_exact_cure(
    database: dict[str, str], tmp_path: Path
):
    with opened(database, tmp_path) as store:
        acquire(store, "first")
        claim_store(store, "first")
        store.insert_new("campaigns", [{"_id": "first"}])
    line = campaign("launch", small(tmp_path, "second", store=database), "--pools", "threads").error
    assert "holds a campaign already" in line
    assert "'first'" in line
    assert "collection_prefix: second_" in line
    assert not (tmp_path / "second").exists()
    with opened(database, tmp_path, collection_prefix="second_") as store:
        claim_store(store, "second")  # what the cure says


def test_of_two_that_are_launched_into_one_database_at_once_one_gets_it(
    database: dict[str, str], tmp_path: Path
):
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def launch(name: str) -> None:
        with opened(database, tmp_path) as store:
            acquire(store, name)
            barrier.wait()
            try:
                claim_store(store, name)
                outcomes.append(name)
            except ConfigError as error:
                assert "holds a campaign already" in str(error)

    threads = [threading.Thread(target=launch, args=(name,)) for name in "abcd"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(outcomes) == 1


def test_a_claim_without_a_campaign_is_taken_over(database: dict[str, str], tmp_path: Path):
    with opened(database, tmp_path) as store:
        lease = acquire(store, "died")
        claim_store(store, "died")
        with pytest.raises(ConfigError):
            claim_store(store, "next")
        lease.release()
        claim_store(store, "next")
        with pytest.raises(ConfigError, match="'next'"):
            store.insert_new("campaigns", [{"_id": "next"}])
            claim_store(store, "died")


def test_a_moved_store_must_hold_the_campaign(database: dict[str, str], copied):
    run: RunFolder = copied()
    file = _same(run, database)
    line = campaign("resume", run.path, "--config", file, "--pools", "threads").error
    assert "run folder holds work" in line
    assert "mongodump" in line
    with opened(database, run.path) as store, run.store() as old:  # another campaign that is called the same
        found = old.get("campaigns", "small") or {}
        store.insert_new("campaigns", [{**found, "config": {**found["config"], "seed": 99}}])
    line = campaign("resume", run.path, "--config", file, "--pools", "threads").error
    assert "holds another campaign called 'small': its seed is 99" in line


def _same(run: RunFolder, database: dict[str, str]) -> Path:
    """Write the configuration of a run with another store."""
    document = yaml.safe_load(run.config_file.read_text())
    file = run.path.parent / "moved.yaml"
    file.write_text(yaml.safe_dump({**document, "store": database}))
    return file


@pytest.mark.slow
def test_two_campaigns_in_one_database_with_two_readers(
    database: dict[str, str], tmp_path: Path, run: RunFolder
):
    reader = [sys.executable, str(Path(__file__).with_name("store_reader.py")), database["uri"], "shared"]
    running, readers = [], []
    try:
        for name in ("a", "b"):
            file = small(tmp_path / name, name, store={**database, "collection_prefix": f"{name}_"})
            running.append(start("launch", file, "--pools", "threads"))
            pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            readers.append(subprocess.Popen([*reader, f"{name}_"], text=True, env=environment(), **pipes))
        for one in running:
            out, err = one.communicate(timeout=180)
            assert one.returncode == 0, (out, err)
        for one in readers:
            out, err = one.communicate("stop\n", timeout=60)
            assert err == "", err
            seen, _, wrong = out.partition(" ")
            assert int(seen) > 100
            assert wrong.strip() == "[]"
    finally:
        for one in (*running, *readers):
            one.kill()
    for name in ("a", "b"):
        assert labels_of(RunFolder(tmp_path / name / name)) == labels_of(run), "the same labels as alone"
        assert len(executions(tmp_path / name)) == 9


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_campaign_that_is_killed_and_resumed_disturbs_no_other_on_the_machine(
    tmp_path: Path, run: RunFolder
):
    """Parsl's pools of two drivers of one user: no port, marker or sweep in common."""
    (tmp_path / "site.yaml").write_text("start_timeout_s: 150")  # two drivers start six pools at once
    files = {name: small(tmp_path / name, name, site="../site.yaml") for name in ("killed", "calm")}
    running = {name: start("launch", file) for name, file in files.items()}
    try:
        for name in files:
            while not executions(tmp_path / name):  # as long as a busy machine takes to start six pools
                assert running[name].poll() is None, running[name].communicate()
                time.sleep(0.1)
        os.kill(running["killed"].pid, signal.SIGKILL)
        running["killed"].communicate()
        running["killed"] = start("resume", files["killed"])
        for name, one in running.items():
            out, err = one.communicate(timeout=240)
            assert one.returncode == 0, (name, out, err)
    finally:
        for one in running.values():
            one.kill()
    for name in files:
        folder = RunFolder(tmp_path / name / name)
        assert labels_of(folder) == labels_of(run)
        with folder.store() as store:
            tries = [a for one in store.query("labels") for a in one["attempts"] if a["cause"]]
            lost = [a for a in tries if a.get("forgiven") != DRIVER]
            assert not lost, "no worker was lost, but those of the driver that was killed"
            if name == "calm":
                assert store.count("events", {"kind": {"$in": ["task_failed", "swept"]}}) == 0
    assert set(Counter(one["folder"] for one in executions(tmp_path / "calm")).values()) == {1}
