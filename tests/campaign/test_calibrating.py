"""A campaign's training task: no formula on both sides, labels foreseen before they are learnt, figures kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Structure

from campaign.judging import Judges
from campaign.references.catalogue import prepare_reference, read_reference
from campaign.references.entries import ReferenceSet
from campaign.training_task import train_model, training_sets
from models.heads.wyckoff import WyckoffHead

SMALL = {"hidden": 8, "convolutions": 1, "members": 2, "max_epochs": 2, "fine_tune_epochs": 1}


@pytest.fixture(scope="module")
def reference() -> ReferenceSet:
    return read_reference(["builtin:quickstart"], base_dir=Path.cwd())


def task_of(reference: ReferenceSet, place: Path, role: str, **changes: object) -> dict[str, Any]:
    """A training task of term 0; its labels are crystals of the reference with other lattices and energies."""
    labelled = []
    for number, structure in enumerate(reference.structures[::2]):
        bent = Structure(structure.lattice.matrix * 1.02, structure.species, structure.frac_coords)
        labelled.append(
            {
                "id": f"label{number}",
                "round": number % 2,
                "fresh": number % 2 == 1,
                "structure": bent.as_dict(),
                "e_above_hull": 0.3 + 0.01 * (number % 7),
            }
        )
    options: dict[str, Any] = dict(SMALL)
    if role == "head":
        options["properties"] = ["formation_energy_per_atom", "e_above_hull"]
    task: dict[str, Any] = {
        "role": role,
        "kind": "wyckoff",
        "options": options,
        "parent": None,
        "reference": str(prepare_reference(reference, place / "reference")),
        "exclude": [],
        "labelled": labelled,
        "quarantined": [],
        "conditions": {},
        "holdout_fraction": 0.3,
        "stable_ev_per_atom": 0.05,
        "max_reference": 500,
        "gate_tolerance": 0.02,
        "split_seed": 5,
        "seed": 1,
        "folder": str(place / "model"),
    }
    return {**task, **changes}


def test_no_formula_is_learnt_and_held_out(reference: ReferenceSet, tmp_path: Path) -> None:
    sets = training_sets(task_of(reference, tmp_path, "head"))

    def formulas(items: list[Any]) -> set[str]:
        return {one.structure.composition.reduced_formula for one in items}

    learnt = formulas(sets.train) | formulas(sets.labelled)
    held_out = formulas(sets.held_out) | formulas(sets.every_held_out_label)
    assert learnt
    assert held_out
    assert not learnt & held_out


@pytest.mark.parametrize("role", ["head", "discriminator"])
def test_versions_keep_how_well_they_are_calibrated(
    reference: ReferenceSet, tmp_path: Path, role: str
) -> None:
    first = train_model(task_of(reference, tmp_path, role, labelled=[], folder=str(tmp_path / "first")))
    assert first["promoted"], first["verdict"]
    task = task_of(reference, tmp_path, role, parent=first["checkpoint"])
    sets = training_sets(task)
    found = train_model(task)
    json.dumps(found, allow_nan=False)
    calibration = found["metrics_after"]["calibration"]
    assert "mae" not in calibration
    assert "log_loss" not in calibration
    if role == "discriminator":
        assert calibration["n"] == len(sets.every_held_out_label)
        assert {"calibration_error", "reliability", "temperature"} <= calibration.keys()
        return
    held = [one.structure for one in sets.every_held_out_label]
    fresh = [one for one in sets.fresh if one.structure not in held]
    assert 0 < len(fresh) < len(sets.labelled)  # of the second round alone: the parent has learnt the first
    assert found["metrics_before"]["foreseen"]["n"] == len(fresh)
    assert calibration["n"] == len(fresh) + len(held)
    assert calibration["n_calibration"] == len(fresh) + len(held) + len(sets.held_out)
    for name in ("formation_energy_per_atom", "e_above_hull"):
        assert 0.0 <= calibration[f"{name}:coverage_90"] <= 1.0
        assert calibration[f"{name}:width_90"] > 0.0


def test_a_head_that_names_e_above_hull_is_believed_about_it(reference: ReferenceSet, tmp_path: Path) -> None:
    compounds = [one for one in reference.structures if len(one.composition) > 1]  # elements have a hull of 0
    structures, said = compounds[:3], {}
    for properties in (("formation_energy_per_atom",), ("formation_energy_per_atom", "e_above_hull")):
        options = {**SMALL, "properties": list(properties)}
        folder = str(tmp_path / str(len(properties)))
        task = task_of(reference, tmp_path, "head", options=options, labelled=[], folder=folder)
        found = train_model(task)
        judges = Judges(
            [{"key": "h", "role": "head", "kind": "wyckoff", "checkpoint": found["checkpoint"]}],
            task["reference"],
        )
        said[properties] = judges.predictions(structures)
        head = WyckoffHead.load(Path(found["checkpoint"])).predict(structures)
        for row, one in enumerate(said[properties]):
            direct = one["head_e_above_hull"]["mean"] == pytest.approx(head.mean[row, -1])
            assert direct == (len(properties) == 2)
    for one in said[("formation_energy_per_atom",)]:
        assert one["head_e_above_hull"]["std"] == one["head_formation_energy_per_atom"]["std"]
