"""Whole campaigns with small components: the driver's loop, resume, stop, failures. Real store, real jobflow."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from pymatgen.core import Lattice, Structure
from rich.console import Console

from campaign import tasks
from campaign.config import parse_config
from campaign.errors import ConfigError, LeaseError
from campaign.launch import launch, resume
from campaign.recovery import project
from campaign.run_folder import RunFolder
from campaign.stopping import request_stop
from campaign.store import CampaignStore
from campaign.views.progress import Progress
from campaign.views.status import result_rows, summary


@functools.cache
def small_entries() -> str:
    """Return the elements and two compounds of the chemistry, as a reference file has them."""
    rows = [
        ("Ca", "Fm-3m", Lattice.cubic(5.5), ["Ca"], [[0, 0, 0]], 0.0),
        ("Mg", "P6_3/mmc", Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]], 0.0),
        ("Si", "Fd-3m", Lattice.cubic(5.43), ["Si"], [[0.125] * 3], 0.0),
        ("Mg2Si", "Fm-3m", Lattice.cubic(6.35), ["Si", "Mg"], [[0, 0, 0], [0.25] * 3], -0.2),
        ("CaSi", "Pm-3m", Lattice.cubic(3.5), ["Ca", "Si"], [[0, 0, 0], [0.5] * 3], -0.3),
    ]
    entries = [
        {
            "material_id": name,
            "structure": Structure.from_spacegroup(group, cell, species, sites)
            .get_primitive_structure()
            .as_dict(),
            "formation_energy_per_atom": energy,
        }
        for name, group, cell, species, sites, energy in rows
    ]
    return json.dumps(entries)


def small_reference(folder: Path) -> Path:
    """Write the reference of the small campaign."""
    file = folder / "reference.json"
    file.write_text(small_entries())
    return file


def small_campaign(folder: Path, **blocks) -> Path:
    """Write a campaign that ends in seconds: Lennard-Jones labels, a linear head, no surrogate."""
    document = {
        "name": "small",
        "seed": 3,
        "chemistry": {"elements": ["Ca", "Mg", "Si"], "n_elements": 2, "max_atoms": 4},
        "reference": {"crystals": [small_reference(folder).name]},
        "generators": [{"kind": "components:BinaryGenerator"}],
        "screen": [{"kind": "composition"}, {"kind": "min_distance"}, {"kind": "duplicates"}],
        "acquisition": {"candidates_per_round": 12, "labels_per_round": 3, "lookahead_rounds": 1},
        "labels": {
            "flow": "static",
            "engine": "mlip",
            "engine_options": {
                "calculator": "components:CountingLennardJones",
                "calculator_options": {"log": str(folder / "executions.jsonl")},
            },
            "hull": "reference",
        },
        "learn": {"heads": [{"kind": "components:ElementHead"}], "discriminators": []},
        "stop": {"rounds": 2},
        "batching": {"sample": 5, "screen": 4},
    }
    for key, value in blocks.items():
        document[key] = {**document.get(key, {}), **value} if isinstance(value, dict) else value
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def quiet() -> Progress:
    return Progress(Console(), quiet=True)


def executions(folder: Path) -> list[dict]:
    log = folder / "executions.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def labels_of(folder: RunFolder) -> dict[str, float]:
    with folder.store() as store:
        return {
            row["candidate_id"]: round(row["e_above_hull"], 9)
            for row in result_rows(store)
            if row["state"] == "done"
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, RunFolder]:
    folder = tmp_path_factory.mktemp("finished")
    outcome = launch(small_campaign(folder), run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    return folder, outcome.folder


def test_a_campaign_runs_to_its_end(finished):
    _, run = finished
    with run.store() as store:
        found = summary(store, "small")
        labels = list(store.query("labels"))
        versions = {(one["key"], one["term"]) for one in store.query("models")}
    assert found["state"] == "finished"
    assert found["labels"] == {"done": 6}
    assert found["references"] == {"done": 3}
    assert [row["selected"] for row in found["rounds"]] == [3, 3]
    assert all(label["result"]["e_above_hull"] is not None for label in labels)
    assert all(len(label["attempts"]) == len(label["jobs"]) for label in labels)
    assert ("head-0-components.ElementHead", 2) in versions


def test_documents_say_everything_that_the_driver_knew(finished):
    _, run = finished
    with run.store() as store:
        state = project(store, store.get("campaigns", "small"))
        states = store.count_by("candidates", "state")
    assert state.references_known
    assert all(label.final and label.judged for label in state.labels.values())
    assert set(states) <= {"screened", "rejected", "labelled"}
    assert states["labelled"] == 6


def test_nothing_relative_is_stored(finished):
    _, run = finished
    with run.store() as store:
        for name in ("campaigns", "models", "labels"):
            for document in store.query(name):
                for key in ("run_dir", "checkpoint"):
                    if document.get(key):
                        assert Path(document[key]).is_absolute()
        assert Path(store.get("campaigns", "small")["reference"]["path"]).is_absolute()


def test_a_second_launch_is_refused_and_resume_computes_nothing_new(finished):
    folder, run = finished
    before, labels = len(executions(folder)), labels_of(run)
    with pytest.raises(LeaseError, match="campaign resume"):
        launch(folder / "campaign.yaml", run_dir=None, pools="threads", progress=quiet())
    outcome = resume(run.path, config_file=None, pools="threads", progress=quiet())
    assert outcome.status == "finished"
    assert len(executions(folder)) == before
    assert labels_of(run) == labels


def test_same_seed_same_labels(finished, tmp_path):
    _, run = finished
    outcome = launch(small_campaign(tmp_path), run_dir=None, pools="threads", progress=quiet())
    assert labels_of(outcome.folder) == labels_of(run)


def test_a_larger_budget_goes_on_where_the_campaign_ended(tmp_path):
    file = small_campaign(tmp_path, stop={"rounds": 1})
    run = launch(file, run_dir=None, pools="threads", progress=quiet()).folder
    first = labels_of(run)
    assert len(first) == 3
    small_campaign(tmp_path, stop={"rounds": 2})
    resume(file, config_file=None, pools="threads", progress=quiet())
    after = labels_of(run)
    assert len(after) == 6
    assert first.items() <= after.items()


def test_an_edit_that_changes_labels_is_refused_with_the_difference(finished, tmp_path):
    _, run = finished
    edited = small_campaign(tmp_path, chemistry={"max_atoms": 3})
    with pytest.raises(ConfigError, match=r"chemistry\.max_atoms") as caught:
        resume(run.path, config_file=edited, pools="threads", progress=quiet())
    assert "undo the change" in caught.value.one_line()


def test_stop_request_drains_and_resume_completes(tmp_path):
    """The request is written while the campaign runs, from the callback that the driver calls at every turn."""
    file = small_campaign(tmp_path)

    class Stopping(Progress):
        asked = False

        def on_change(self, state, busy):
            if not self.asked and len(state.labels) > 3:
                self.asked = True
                request_stop(file, now=False)

    outcome = launch(file, run_dir=None, pools="threads", progress=Stopping(Console(), quiet=True))
    assert outcome.status == "stopped"
    assert len(labels_of(outcome.folder)) < 6
    with outcome.folder.store() as store:
        assert store.count("labels", {"state": "running"}) == 0 or store.count("labels") > 0
    outcome = resume(file, config_file=None, pools="threads", progress=quiet())
    assert outcome.status == "finished"
    assert len(labels_of(outcome.folder)) == 6


def test_a_label_that_fails_is_typed_and_the_campaign_goes_on(tmp_path):
    file = small_campaign(tmp_path, labels={
        "flow": "static",
        "engine": "mlip",
        "engine_options": {"calculator": "components:Fragile",
                           "calculator_options": {"log": str(tmp_path / "executions.jsonl")}},
        "hull": "reference",
    })  # fmt: skip
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished"
    with outcome.folder.store() as store:
        failed = list(store.query("labels", {"state": "failed"}))
        done = store.count("labels", {"state": "done", "purpose": "candidate"})
    assert failed
    assert done + len(failed) == 6
    assert all(label["failure"]["cause"] == "unknown" for label in failed)
    assert all("magnesium is too much" in label["failure"]["message"] for label in failed)
    assert all(len(label["attempts"]) == 2 for label in failed), "tried as often as labels.max_attempts says"


def test_a_result_that_no_store_takes_fails_its_label_and_the_campaign_goes_on(tmp_path, monkeypatch):
    original = tasks.run_job

    def run_job(task):
        result, about = original(task), task["about"]
        if (about["purpose"], about["round"], about["rank"]) == ("candidate", 0, 0):
            result["docs"][0]["output"]["count"] = 2**70
        return result

    monkeypatch.setattr(tasks, "run_job", run_job)
    outcome = launch(small_campaign(tmp_path), run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished"
    with outcome.folder.store() as store:
        [label] = store.query("labels", {"state": "failed"})
    assert "cannot be stored; got 'output.count" in label["failure"]["message"]
    assert Path(label["attempts"][0]["folder"], "result.json").is_file(), "what was paid for is still there"


def test_a_task_whose_program_took_too_long_is_tried_again(tmp_path, monkeypatch):
    """Only its pool tells of such an end: the worker has said nothing of the time it took."""
    original, calls = tasks.screen, []

    def screen(task):
        calls.append(task)
        if len(calls) == 1:
            raise subprocess.TimeoutExpired("relax", 1.0)
        return original(task)

    monkeypatch.setattr(tasks, "screen", screen)
    outcome = launch(small_campaign(tmp_path), run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished"
    with outcome.folder.store() as store:
        [event] = store.query("events", {"kind": "task_failed"})
        assert ": walltime: " in event["message"]


def test_failed_labels_are_tried_again_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAGILE", "1")
    options = {
        "calculator": "components:Fragile",
        "calculator_options": {"log": str(tmp_path / "executions.jsonl")},
    }
    labels = {"flow": "static", "engine": "mlip", "engine_options": options, "hull": "reference"}
    file = small_campaign(tmp_path, labels=labels)
    run = launch(file, run_dir=None, pools="threads", progress=quiet()).folder
    failed = 6 - len(labels_of(run))
    assert failed
    monkeypatch.setenv("FRAGILE", "0")  # the cause is mended
    resume(file, config_file=None, pools="threads", progress=quiet())
    assert len(labels_of(run)) == 6 - failed, "what was given up stays so"
    resume(file, config_file=None, pools="threads", progress=quiet(), retry=True)
    assert len(labels_of(run)) == 6


def test_a_broken_configuration_harms_nothing(tmp_path):
    file = small_campaign(tmp_path, labels={"engine": "gpau"})
    with pytest.raises(Exception, match="gpau"):
        launch(file, run_dir=None, pools="threads", progress=quiet())
    assert not (tmp_path / "small").exists()
    with pytest.raises(ConfigError):
        parse_config({"name": "x"}, "x")


class Died(BaseException):
    """Stands for the end of the process: nothing may catch it, and nothing is written after it."""


@pytest.mark.parametrize("writes", [3, 9, 17, 26, 38, *range(46, 56), 64, 77, 90])
def test_dying_between_any_two_writes_loses_nothing(finished, tmp_path, monkeypatch, writes):
    """Cut the driver off after so many writes to the store, resume, and compare with a calm run."""
    _, calm = finished
    left = [writes]
    originals = {
        name: getattr(CampaignStore, name) for name in ("insert_new", "put", "set_fields", "set_fields_many")
    }

    def counted(name):
        def write(store, collection, *arguments, **options):
            if collection not in ("meta", "events"):  # lease and audit: never what a decision rests on
                left[0] -= 1
                if left[0] < 0:
                    raise Died
            return originals[name](store, collection, *arguments, **options)

        return write

    for name in originals:
        monkeypatch.setattr(CampaignStore, name, counted(name))
    file = small_campaign(tmp_path)
    with pytest.raises(Died):
        launch(file, run_dir=None, pools="threads", progress=quiet())
    monkeypatch.undo()
    outcome = resume(file, config_file=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    assert labels_of(outcome.folder) == labels_of(calm)
    done = [one["folder"] for one in executions(tmp_path)]
    assert len(done) == len(set(done)), "nothing was computed twice"


def test_dying_between_the_labels_and_their_candidates_chooses_nobody_twice(finished, tmp_path, monkeypatch):
    """The narrowest place: labels are made, and their candidates do not know it yet."""
    _, calm = finished
    original, dead = CampaignStore.set_fields_many, []

    def write(store, collection, updates):
        changes = list(updates)
        if dead or any("label_id" in fields for _, fields in changes):
            dead.append(True)
            raise Died
        return original(store, collection, changes)

    monkeypatch.setattr(CampaignStore, "set_fields_many", write)
    file = small_campaign(tmp_path)
    with pytest.raises(Died):
        launch(file, run_dir=None, pools="threads", progress=quiet())
    monkeypatch.undo()
    outcome = resume(file, config_file=None, pools="threads", progress=quiet())
    assert labels_of(outcome.folder) == labels_of(calm)
