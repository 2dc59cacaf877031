"""kill -9 of the driver, then resume: same labels as an uninterrupted run, none lost, none computed twice.

The campaign is the quickstart with its real generator, surrogate, heads and Parsl pools; only the label engine is
a fast potential that writes a line whenever a job of a label is executed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from campaign.parallel.pooling import site_sizes
from campaign.run_folder import RunFolder
from campaign.site import Site
from campaign.templates import template_text
from campaign.views.status import result_rows

TESTS = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def write_campaign(folder: Path, log: Path) -> Path:
    document = yaml.safe_load(template_text("quickstart"))
    document["acquisition"] |= {"candidates_per_round": 24, "labels_per_round": 4}
    document["labels"] = {
        "flow": "relax_static",
        "engine": "mlip",
        "flow_options": {"relax_cell": False},
        "engine_options": {
            "calculator": "components:CountingLennardJones",
            # 0.1 s per evaluation: a label takes long enough to be hit by a kill
            "calculator_options": {"log": str(log), "sleep_s": 0.1},
            # a relaxation that was cut off goes on from its last geometry, and may end a little elsewhere
            "fmax_ev_per_ang": 0.02,
        },
        "hull": "engine",
    }
    small = {"members": 2, "max_epochs": 5}
    document["learn"] = {"heads": [{"options": small}], "discriminators": [{"options": small}]}
    document["screen"] = [
        {"kind": "composition"},
        {"kind": "min_distance"},
        {"kind": "duplicates"},
        {"kind": "relax", "options": {"max_steps": 15, "unconverged": "keep"}},
        {"kind": "novelty"},
        {"kind": "duplicates"},
        {"kind": "e_above_hull", "options": {"max_ev_per_atom": 1.0}},
    ]
    folder.mkdir()
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def start(command: str, file: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    log = (file.parent / "driver.log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "campaign.cli", command, str(file)],
        env=environment, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def progress(run: RunFolder) -> int:
    """Return a number that grows with everything the campaign writes."""
    if not (run.path / "store.sqlite").exists():
        return 0
    try:
        with run.store() as store:
            attempts = sum(
                len(one.get("attempts") or ()) for one in store.query("labels", fields=["attempts"])
            )
            moved = store.count("candidates", {"state": {"$ne": "sampled"}})
            return store.count("events") + store.count("candidates") // 4 + moved // 4 + 2 * attempts
    except Exception:  # the store is just being made
        return 0


def to_the_end(command: str, file: Path) -> None:
    process = start(command, file)
    assert process.wait(timeout=600) == 0, (file.parent / "driver.log").read_text()[-3000:]


def labels(run: RunFolder) -> dict[str, tuple]:
    with run.store() as store:
        return {row["candidate_id"]: (row["round"], row["e_above_hull"]) for row in result_rows(store)}


def executed(log: Path) -> dict[str, list[float]]:
    """Return job folder -> times at which its engine was started."""
    found: dict[str, list[float]] = {}
    for line in log.read_text().splitlines():
        one = json.loads(line)
        found.setdefault(one["folder"], []).append(one["time"])
    return found


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_kill_and_resume(tmp_path, kills):
    calm, log = write_campaign(tmp_path / "calm", tmp_path / "calm.jsonl"), tmp_path / "calm.jsonl"
    to_the_end("launch", calm)
    calm_run = RunFolder(calm.parent / "quickstart")
    wanted, last = labels(calm_run), progress(calm_run)
    assert len(wanted) >= 8
    assert all(len(times) == 1 for times in executed(log).values())

    file, log = write_campaign(tmp_path / "rough", tmp_path / "rough.jsonl"), tmp_path / "rough.jsonl"
    run = RunFolder(file.parent / "quickstart")
    dice = random.Random(20)
    # Not before its first writes: until then there is no campaign to resume.
    moments = sorted(dice.uniform(2, 0.97 * last) for _ in range(kills))
    for number, moment in enumerate(moments):
        process = start("launch" if number == 0 else "resume", file)
        while progress(run) < moment and process.poll() is None:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 2.0))
        assert process.poll() is None, (file.parent / "driver.log").read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    to_the_end("resume", file)

    same = {name: (index, pytest.approx(above, abs=2e-3)) for name, (index, above) in wanted.items()}
    assert labels(run) == same, "same labels as the uninterrupted run"
    check_executions(run, executed(log), kills)
    assert leftovers(tmp_path) == []


def check_executions(run: RunFolder, found: dict[str, list[float]], kills: int) -> None:
    """Every job has one result; nothing was started again after its result was there."""
    with run.store() as store:
        jobs = [job for label in store.query("labels") for job in label["jobs"] if job["name"] != "label"]
        outputs = {(one["uuid"], one["index"]) for one in store.query("jobs", fields=["uuid", "index"])}
    assert all((job["uuid"], job["index"]) in outputs for job in jobs), "no output was lost"
    assert len(found) == len(jobs), "an engine ran for every job, and for nothing else"
    cut_off = 0
    for folder, times in found.items():
        ended = (Path(folder) / "result.json").stat().st_mtime
        assert max(times) <= ended, f"{folder} was computed again after its result was there"
        cut_off += len(times) - 1
    slots = site_sizes(Site())["dft"].workers
    assert cut_off <= kills * slots, "only what a kill cut off was begun again: a job per slot and kill"


def leftovers(folder: Path) -> list[str]:
    """Return processes that still work for the campaign, given time to end."""
    for _ in range(100):
        found = [
            " ".join(process.info["cmdline"])
            for process in psutil.process_iter(["cmdline"])
            if str(folder) in " ".join(process.info["cmdline"] or [])
        ]
        if not found:
            break
        time.sleep(0.2)
    return found
