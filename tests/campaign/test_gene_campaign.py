"""A whole campaign on one formula: genes survive to the end, screens ask the campaign's own models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from pymatgen.core import Lattice, Structure
from test_driver import quiet, small_campaign

from campaign.errors import ComponentError
from campaign.launch import launch
from campaign.run_folder import RunFolder
from campaign.views.export import export
from campaign.views.status import result_rows

PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def oxides(folder: Path) -> Path:
    """Write the elements, two oxides and two perovskites."""
    rows = [
        ("Ca", "Fm-3m", Lattice.cubic(5.5), ["Ca"], [[0, 0, 0]], 0.0),
        ("Ti", "P6_3/mmc", Lattice.hexagonal(2.95, 4.68), ["Ti"], [[1 / 3, 2 / 3, 0.25]], 0.0),
        ("O", "Fm-3m", Lattice.cubic(5.4), ["O"], [[0, 0, 0]], 0.0),
        ("CaO", "Fm-3m", Lattice.cubic(4.81), ["Ca", "O"], [[0, 0, 0], [0.5] * 3], -3.0),
        ("TiO", "Fm-3m", Lattice.cubic(4.18), ["Ti", "O"], [[0, 0, 0], [0.5] * 3], -2.5),
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
    known = Structure(Lattice.cubic(3.85), ["Ca", "Ti", "O", "O", "O"], PEROVSKITE)
    entries.append({"material_id": "CaTiO3", "structure": known.as_dict(), "formation_energy_per_atom": -3.3})
    file = folder / "oxides.json"
    file.write_text(json.dumps(entries))
    return file


def perovskites(folder: Path, **blocks) -> Path:
    """Write a campaign on CaTiO3 that ends in seconds."""
    shape = {
        "chemistry": {"formula": "CaTiO3", "spacegroups": [221], "max_atoms": 5},
        "reference": {"crystals": [oxides(folder).name]},
        "generators": [{"kind": "components:PerovskiteTrials"}],
        "surrogate": {"kind": "components:StillSurrogate"},
        "screen": [
            {"kind": "wyckoff", "options": {"max_dof": 0}},
            {"kind": "predicted_energy", "options": {"max_e_above_hull_ev_per_atom": 100.0}},
            {"kind": "relax"},
            {"kind": "best_trial"},
            {"kind": "space_group", "options": {"mode": "kept"}},
            {"kind": "novelty"},
        ],
        "acquisition": {"max_per_formula": 3},
        "stop": {"rounds": 1},
        **blocks,
    }
    file = small_campaign(folder)
    document = yaml.safe_load(file.read_text())
    document.pop("chemistry")
    for key, value in shape.items():
        old = document.get(key)
        document[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    folder = tmp_path_factory.mktemp("genes")
    file = perovskites(folder, reference={"crystals": ["oxides.json"], "exclude": ["TiCaO3"]})
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    return outcome.folder


def test_of_each_gene_one_trial_is_labelled(finished):
    with finished.store() as store:
        rejected = store.count_by("candidates", "rejected_by")
        rows = result_rows(store)
        trials = list(store.query("candidates", {"rejected_by": "best_trial"}, fields=["reason"]))
    assert rejected["best_trial"] == 10
    assert len(rows) == 2
    assert all("eV/atom above" in one["reason"] for one in trials)


def test_the_excluded_formula_is_novel_to_the_campaign(finished, tmp_path):
    """The same campaign without `exclude` recognises the known perovskite."""
    with finished.store() as store:
        assert all(one["predictions"]["novel"] for one in store.query("candidates", {"state": "labelled"}))
        model = store.get("models", "small-generator-0-components.PerovskiteTrials-t0000")
    assert json.loads((Path(model["checkpoint"]) / "seen.json").read_text()) == [
        "Ca",
        "CaO",
        "O2",
        "Ti",
        "TiO",
    ]
    outcome = launch(perovskites(tmp_path), run_dir=None, pools="threads", progress=quiet())
    with outcome.folder.store() as store:
        (known,) = store.query("candidates", {"rejected_by": "novelty"}, fields=["reason"])
    assert known["reason"] == "same as reference CaTiO3"


def test_genes_are_known_from_the_sample_to_the_export(finished, tmp_path):
    with finished.store() as store:
        rows = result_rows(store)
        (label, *_) = store.query("labels", {"purpose": "candidate"})
        (candidate,) = store.query("candidates", {"_id": label["candidate_id"]})
        export(store, "csv", tmp_path / "found.csv")
    built = candidate["structure"]["properties"]
    assert built["gene"].startswith("221|")
    assert candidate["screened_structure"]["properties"] == built == label["structure"]["properties"]
    assert candidate["predictions"]["dof"] == 0
    assert {row["spacegroup"] for row in rows} == {221}
    with (tmp_path / "found.csv").open() as stream:
        assert sorted(row["gene"] for row in csv.DictReader(stream)) == sorted(row["gene"] for row in rows)
    assert len({row["gene"] for row in rows}) == 2


def test_the_models_of_the_term_judge_before_relaxation(finished):
    with finished.store() as store:
        judged = list(store.query("candidates", {"state": "labelled"}, fields=["predictions"]))
    for one in judged:
        foretold = one["predictions"]["unrelaxed_formation_energy_per_atom"]
        # nothing moves in this campaign's relaxations, and the head sees the composition only
        assert foretold == pytest.approx(one["predictions"]["head_formation_energy_per_atom"]["mean"])


def test_too_high_a_prediction_ends_a_candidate_unrelaxed(tmp_path):
    screens = [
        {"kind": "predicted_energy", "options": {"max_e_above_hull_ev_per_atom": -100.0}},
        {"kind": "relax"},
    ]
    outcome = launch(perovskites(tmp_path, screen=screens), run_dir=None, pools="threads", progress=quiet())
    with outcome.folder.store() as store:
        assert store.count_by("candidates", "rejected_by") == {"predicted_energy": 12}
        assert store.count("candidates", {"predictions.energy_per_atom": {"$ne": None}}) == 0


def test_a_judge_that_the_campaign_lacks_is_told_before_anything_runs(tmp_path):
    file = perovskites(tmp_path, screen=[{"kind": "synthesizability"}])
    with pytest.raises(ComponentError, match="needs a discriminator"):
        launch(file, run_dir=None, pools="threads", progress=quiet())
