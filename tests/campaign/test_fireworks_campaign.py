"""Whole campaigns whose labels run through FireWorks: they end as on pools of our own, whatever is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_line
import pytest
import yaml
from fireworks_site import Site, Worker, until
from pymatgen.core import Lattice, Structure
from test_driver import executions, labels_of, quiet, small_campaign

from campaign.launch import launch, resume
from campaign.parallel.launchpad import ABOUT
from campaign.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OF_TIME_AND_PLACE = {
    "created", "ended", "started", "host", "pid", "core_hours", "wall_seconds", "dir_name", "last_updated",
}  # fmt: skip


@pytest.fixture
def site(mongod: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    folder = tmp_path / "cluster"
    folder.mkdir()
    return Site(mongod.uri, request.node.name[:38], folder)


@pytest.fixture
def workers(site: Site) -> Iterator[list[Worker]]:
    started = [site.worker(), site.worker()]
    yield started
    for worker in started:
        worker.end()


def with_site(file: Path, site: Site, **more: Any) -> Path:
    """Give a campaign the LaunchPad as its pool dft."""
    dft = {
        "kind": "fireworks",
        "launchpad": str(site.file),
        "category": "dft",
        "slots": 3,
        "poll_seconds": 0.2,
    }
    (file.parent / "site.yaml").write_text(yaml.safe_dump({"pools": {"dft": {**dft, **more}}}))
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "site": "site.yaml"}))
    return file


def metals(folder: Path) -> Path:
    """Write a campaign on copper, silver and gold: relaxations, and elastic tensors of what they give."""
    folder.mkdir()
    lengths = {"Cu": 3.6, "Ag": 4.1, "Au": 4.1}
    known = [
        {
            "material_id": name,
            "structure": Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), [name], [[0, 0, 0]])
            .get_primitive_structure()
            .as_dict(),
            "formation_energy_per_atom": 0.0,
        }
        for name, length in lengths.items()
    ]
    emt = {"calculator": "ase.calculators.emt:EMT"}
    labels = {
        "flow": "relax_static",
        "engine_options": emt,
        "then": {"elastic": {"flow_options": {"strains": [0.01]}}},
    }
    file = small_campaign(
        folder,
        chemistry={"elements": sorted(lengths), "n_elements": 2, "max_atoms": 4},
        acquisition={"candidates_per_round": 8, "labels_per_round": 2},
        stop={"rounds": 1},
        labels=labels,
    )
    (folder / "reference.json").write_text(json.dumps(known))
    return file


def comparable(run: RunFolder) -> list[Any]:
    """Return the labels of a campaign without time and place; jobs that a job has made have uuids of chance."""
    with run.store() as store:
        labels = sorted(store.query("labels"), key=lambda one: one["_id"])
        built = {job["uuid"] for label in labels for job in label["jobs"][:2]}
    found = []
    for label in labels:
        label["attempts"] = sorted(
            (one["job"] in built, bool(one["reused"]), str(one["cause"])) for one in label["attempts"]
        )
        text = json.dumps(_timeless(label), sort_keys=True)
        told = json.loads(UUID.sub(lambda one: one[0] if one[0] in built else "made", text))
        for job in told["jobs"]:
            job["parents"].sort()  # they were in the order of uuids of chance
        found.append(told)
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in OF_TIME_AND_PLACE}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def test_labels_are_those_of_a_campaign_on_pools_of_our_own(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    here = launch(metals(tmp_path / "here"), run_dir=None, pools="threads", progress=quiet())
    file = with_site(metals(tmp_path / "there"), site)
    there = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert (here.status, there.status) == ("finished", "finished"), there.reason
    wanted, found = comparable(here.folder), comparable(there.folder)
    assert [label["flow"] for label in wanted].count("elastic") == 2
    assert all(label["state"] == "done" for label in wanted)
    assert found == wanted
    with there.folder.store() as store:
        labels = list(store.query("labels"))
    assert {one["pid"] for label in labels for one in label["attempts"]} == {worker.pid for worker in workers}
    jobs = sum(len(label["jobs"]) for label in labels)
    assert (
        site.db.fireworks.count_documents({})
        == site.db.fireworks.count_documents({"state": "COMPLETED"})
        == jobs
    )
    specs = [one["spec"] for one in site.db.fireworks.find()]
    told = {(one[ABOUT]["label"], one[ABOUT]["candidate"], one[ABOUT]["purpose"]) for one in specs}
    assert told == {(one["_id"], one["candidate_id"], one["purpose"]) for one in labels}
    assert {(one["_category"], one[ABOUT]["campaign"]) for one in specs} == {("dft", "small")}
    new = [one for one in specs if not one[ABOUT]["begun"]]
    first = {
        purpose: max(one["_priority"] for one in new if one[ABOUT]["purpose"] == purpose)
        for purpose in ("reference", "candidate")
    }
    assert first["reference"] > first["candidate"]


def calm(folder: Path, log: Path, **labels: Any) -> Path:
    """Write the driver's small campaign with labels that take a second."""
    folder.mkdir(exist_ok=True)
    options = {
        "calculator": "components:CountingLennardJones",
        "calculator_options": {"log": str(log), "sleep_s": 1.0},
    }
    return small_campaign(folder, labels={"engine_options": options, **labels})


def test_a_driver_and_a_worker_are_killed_and_nothing_is_lost_or_done_twice(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    log = tmp_path / "executions.jsonl"
    wanted = labels_of(
        launch(calm(tmp_path / "here", log), run_dir=None, pools="threads", progress=quiet()).folder
    )
    log.unlink()
    file = with_site(calm(tmp_path / "there", log), site, lost_after_seconds=5.0)
    driver = command_line.start("launch", file, "--pools", "threads")
    until(lambda: len(executions(tmp_path)) == 3, 120)
    driver.kill()
    driver.wait()
    open_then = site.db.fireworks.count_documents({"state": {"$ne": "COMPLETED"}})
    assert open_then, "work goes on without a driver"
    driver = command_line.start("resume", file, "--pools", "threads")
    victim = until(lambda: running(site, workers), 60)
    os.kill(victim.pid, signal.SIGKILL)
    _, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err

    run = RunFolder(file.parent / "small")
    assert labels_of(run) == wanted
    with run.store() as store:
        attempts = [one for label in store.query("labels") for one in label["attempts"]]
        jobs = sum(len(label["jobs"]) for label in store.query("labels"))
    lost = [one for one in attempts if one["cause"]]
    assert [one["cause"] for one in lost] == ["node_lost"]
    assert "has not reported" in lost[0]["message"]
    assert len(attempts) == jobs + 1
    assert site.db.fireworks.count_documents({}) == jobs + 1, "no Firework was added twice"
    begun: dict[str, int] = {}
    for one in executions(tmp_path):
        begun[one["folder"]] = begun.get(one["folder"], 0) + 1
    assert sorted(begun.values())[-2:] == [1, 2], "only what the killed worker had begun was begun again"


def running(site: Site, workers: list[Worker]) -> Worker | None:
    """Return a worker that is in the middle of an engine's job."""
    for folder in site.folder.parent.glob("there/small/work/*/*"):
        noted = [one for one in executions(site.folder.parent) if one["folder"] == str(folder)]
        if noted and not (folder / "result.json").exists() and time.time() - noted[-1]["time"] < 0.5:
            return next((worker for worker in workers if worker.pid == noted[-1]["pid"]), None)
    return None


def test_stop_now_takes_back_what_waits_and_resume_goes_on(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "executions.jsonl"
    file = with_site(calm(tmp_path / "there", log), site)
    driver = command_line.start("launch", file, "--pools", "threads")
    until(lambda: site.db.fireworks.count_documents({"state": "READY"}) == 3, 60)
    assert command_line.campaign("stop", file.parent / "small", "--now").code == 0
    driver.communicate(timeout=60)
    assert site.db.fireworks.count_documents({"state": "DEFUSED"}) == 3
    worker = site.worker()
    outcome = resume(file.parent / "small", config_file=None, pools="threads", progress=quiet())
    worker.end()
    assert outcome.status == "finished"
    with outcome.folder.store() as store:
        jobs = sum(len(label["jobs"]) for label in store.query("labels"))
    assert site.db.fireworks.count_documents({"state": "COMPLETED"}) == jobs
    assert len({one["folder"] for one in executions(tmp_path)}) == len(executions(tmp_path))


def test_labels_that_fail_fail_with_the_same_cause_and_tries(
    site: Site, workers: list[Worker], tmp_path: Path
) -> None:
    options = {"calculator": "components:Fragile", "calculator_options": {"log": str(tmp_path / "log")}}
    causes = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        file = calm(folder, tmp_path / "log", engine_options=options)
        file = with_site(file, site) if folder.name == "there" else file
        outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
        with outcome.folder.store() as store:
            labels = sorted(store.query("labels", {"state": "failed"}), key=lambda one: one["_id"])
        causes.append([(one["_id"], one["failure"]["message"], len(one["attempts"])) for one in labels])
    assert causes[0] == causes[1] != []
