"""A campaign whose surrogate learns from its labels: frames, versions, what relaxed whom, and a resume after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pymatgen.core import Lattice, Structure
from rich.console import Console

from campaign.frames import label_frames
from campaign.launch import launch, resume
from campaign.run_folder import RunFolder
from campaign.stopping import request_stop
from campaign.views.progress import Progress
from campaign.views.status import summary
from models.surrogates.chgnet import CHGNetSurrogate

KEY = "surrogate-0-chgnet"

KNOWN = [
    ("Al", "Fm-3m", 4.05, ["Al"], [[0, 0, 0]], 0.0),
    ("Cu", "Fm-3m", 3.61, ["Cu"], [[0, 0, 0]], 0.0),
    ("Ni", "Fm-3m", 3.52, ["Ni"], [[0, 0, 0]], 0.0),
    ("AlNi", "Pm-3m", 2.89, ["Al", "Ni"], [[0, 0, 0], [0.5] * 3], -0.66),
    ("AlNi3", "Pm-3m", 3.57, ["Al", "Ni"], [[0, 0, 0], [0, 0.5, 0.5]], -0.43),
    ("AlCu3", "Pm-3m", 3.69, ["Al", "Cu"], [[0, 0, 0], [0, 0.5, 0.5]], -0.17),
    ("CuNi", "Pm-3m", 2.86, ["Cu", "Ni"], [[0, 0, 0], [0.5] * 3], 0.02),
]
"""Name, space group, length of the cell [Å], species, sites, and a formation energy of about what the Materials
Project has [eV/atom]."""


def alloys(folder: Path, **learn: object) -> Path:
    """Write a campaign of alloys with labels by effective medium theory, relaxed by CHGNet."""
    entries = [
        {
            "material_id": name,
            "structure": Structure.from_spacegroup(group, Lattice.cubic(length), species, sites)
            .get_primitive_structure()
            .as_dict(),
            "formation_energy_per_atom": energy,
        }
        for name, group, length, species, sites, energy in KNOWN
    ]
    (folder / "known.json").write_text(json.dumps(entries))
    document = {
        "name": "alloys",
        "seed": 5,
        "chemistry": {"elements": ["Al", "Cu", "Ni"], "n_elements": 2, "max_atoms": 4},
        "reference": {"crystals": ["known.json"]},
        "generators": [{"kind": "components:BinaryGenerator"}],
        "surrogate": {"kind": "chgnet", "options": {"tuning": {"epochs": 2, "batch_size": 4}}},
        "screen": [
            {"kind": "composition"},
            {"kind": "relax", "options": {"max_steps": 15, "unconverged": "keep", "max_volume_change": 3.0}},
            {"kind": "e_above_hull", "options": {"max_ev_per_atom": 5.0, "min_ev_per_atom": -5.0}},
        ],
        "acquisition": {"candidates_per_round": 6, "labels_per_round": 3, "lookahead_rounds": 0},
        "labels": {
            "flow": "relax_static",
            "engine": "mlip",
            "engine_options": {
                "calculator": "components:CountingEMT",
                "calculator_options": {"log": str(folder / "executions.jsonl")},
            },
            "hull": "reference",
        },
        "learn": {
            "heads": [{"kind": "components:ElementHead"}],
            "discriminators": [],
            "generators": False,
            "surrogate": {"enabled": True, "min_labels": 2, "frames_per_label": 4, "gate_tolerance": 9.0}
            | learn,
        },
        "stop": {"rounds": 2},
        "batching": {"sample": 6, "screen": 6},
    }
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def quiet() -> Progress:
    return Progress(Console(), quiet=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("finished")
    outcome = launch(alloys(folder), run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    return outcome.folder


def versions(run: RunFolder) -> dict[int, dict]:
    with run.store() as store:
        return {one["term"]: one for one in store.query("models", {"key": KEY})}


@pytest.mark.slow
def test_versions_of_each_term_are_stored_with_their_figures(finished):
    found = versions(finished)
    assert sorted(found) == [0, 1, 2]
    assert found[0]["state"] == "promoted"
    assert found[0]["checkpoint"] is None
    taught = found[1]
    assert taught["state"] == "promoted", taught["verdict"]
    assert Path(taught["checkpoint"]).is_dir()
    assert taught["labels"]
    assert {"energy:mae", "force:mae"} <= set(taught["metrics_before"]["labels"])
    assert "energy:mae" in taught["metrics_after"]["reference"]
    later = taught["metrics_before"]["later"]
    assert later["labels"] == 3
    assert later["energy:mae"] == later["packaged:mae"]  # nobody had taught it anything yet


@pytest.mark.slow
def test_candidates_and_labels_tell_which_version_relaxed_them(finished):
    found = versions(finished)
    with finished.store() as store:
        candidates = list(store.query("candidates", {"predictions.surrogate": {"$ne": None}}))
        labels = list(store.query("labels", {"purpose": "candidate"}))
    said = {(one["round"], one["predictions"]["surrogate_model"]) for one in candidates}
    assert said == {(0, found[0]["_id"]), (1, found[1]["_id"])}
    words = {one["round"]: one["predictions"]["surrogate"] for one in candidates}
    assert "fine-tuned" not in words[0]
    assert "fine-tuned" in words[1]
    assert all(one["models"][KEY] == one["predicted"]["surrogate_model"] for one in labels)


@pytest.mark.slow
def test_frames_of_labels_are_kept_with_forces_and_stresses(finished):
    with finished.store() as store:
        labels = list(store.query("labels", {"purpose": "candidate", "state": "done"}))
        frames = label_frames(store, labels, 4)
    by_label = {one["_id"]: [f for f in frames if f["label"] == one["_id"]] for one in labels}
    assert all(1 <= len(found) <= 4 for found in by_label.values())
    assert any(len(found) > 1 for found in by_label.values())
    for one in labels:
        last = by_label[one["_id"]][-1]
        assert last["energy_ev_per_atom"] == pytest.approx(0.0, abs=1e-9)
        assert len(last["forces_ev_per_ang"]) == len(last["numbers"]) == one["result"]["n_atoms"]
        assert last["stress_gpa"] is not None


@pytest.mark.slow
def test_the_status_shows_errors_on_labels_that_came_later(finished):
    with finished.store() as store:
        rows = summary(store, "alloys")["surrogate"]
    assert [row["term"] for row in rows] == [0, 1]
    assert [row["labels"] for row in rows] == [3, 3]
    assert all(row["mae"] >= 0 and row["packaged_mae"] >= 0 for row in rows)


@pytest.mark.slow
def test_a_resumed_campaign_screens_with_the_version_that_was_stored(finished, tmp_path):
    """Stopped when the first version is decided: the second driver reads it from its checkpoint, and trains none."""
    file = alloys(tmp_path)

    class Stopping(Progress):
        asked = False

        def on_change(self, state, busy):
            if not self.asked and (KEY, 1) in state.models:
                self.asked = True
                request_stop(file, now=True)

    outcome = launch(file, run_dir=None, pools="threads", progress=Stopping(Console(), quiet=True))
    assert outcome.status == "stopped"
    before = versions(outcome.folder)[1]
    again = resume(outcome.folder.path, config_file=None, pools="threads", progress=quiet())
    assert again.status == "finished"
    after = versions(again.folder)
    assert after[1] == before
    with again.folder.store() as store:
        relaxed = list(store.query("candidates", {"round": 1, "predictions.surrogate": {"$ne": None}}))
    known = CHGNetSurrogate.load(Path(before["checkpoint"])).version
    assert {one["predictions"]["surrogate"] for one in relaxed} == {known}
    assert {one["predictions"]["surrogate_model"] for one in relaxed} == {before["_id"]}
    # weights repeat to rounding, which Adam makes larger: figures may differ in the third digit, what was learned not
    assert after[1]["labels"] and len(after[1]["labels"]) == len(versions(finished)[1]["labels"])
    assert after[1]["metrics_before"] == versions(finished)[1]["metrics_before"]
