from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_crystals import binary, toy_crystals

from models.data import LabelledStructure
from models.errors import CheckpointError, ContractError, ModelsError, OptionsError, TrainingDataError
from models.heads.base import Prediction, PropertyHead
from models.heads.cgcnn import CGCNNHead, CGCNNHeadConfig
from models.heads.testing import check_head
from models.metrics import gate
from models.registry import HEADS, build
from models.splitting import split_by_composition

SMALL = {"hidden": 16, "convolutions": 2, "members": 3, "max_epochs": 12, "fine_tune_epochs": 4}


def small_head(**options: object) -> CGCNNHead:
    head = build("cgcnn", HEADS, "head", SMALL | options)
    assert isinstance(head, CGCNNHead)
    return head


@pytest.fixture(scope="module")
def fitted() -> tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]]:
    train, held_out = split_by_composition(toy_crystals(110), 0.3, seed=2)
    head = small_head(max_epochs=25)
    head.fit(train, held_out, seed=1)
    return head, train, held_out


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_every_registered_head_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    fewer = {name: value for name, value in SMALL.items() if kind != "descriptors" or name != "convolutions"}
    head = build(kind, HEADS, "head", fewer)
    assert isinstance(head, PropertyHead)
    check_head(head, toy_crystals(40), tmp_path, seed=5)


def test_the_contract_catches_heads_that_see_the_order_of_atoms(tmp_path: Path) -> None:
    class Wrong(CGCNNHead):
        def predict(self, structures):  # type: ignore[no-untyped-def]
            found = super().predict(structures)
            first = np.array([[float(s[0].specie.Z)] for s in structures]).reshape(-1, 1)
            return Prediction(found.mean + first, found.std)

    with pytest.raises(ContractError, match=r"permuted|shifted|repeated"):
        check_head(Wrong(CGCNNHeadConfig(**SMALL)), toy_crystals(30), tmp_path, seed=5)


def test_the_contract_catches_global_randomness(tmp_path: Path) -> None:
    class Wrong(CGCNNHead):
        def predict(self, structures):  # type: ignore[no-untyped-def]
            torch.rand(1)
            return super().predict(structures)

    with pytest.raises(ContractError, match="random state"):
        check_head(Wrong(CGCNNHeadConfig(**SMALL)), toy_crystals(30), tmp_path, seed=5)


def test_the_head_learns_the_law_behind_the_labels(
    fitted: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    head, _, held_out = fitted
    found = head.evaluate(held_out)
    assert found["mae"] < 0.5 * found["mae_of_mean_predictor"]
    assert found["spearman"] > 0.8
    assert 0.5 < found["z_std"] < 1.5
    json.dumps(found, allow_nan=False)


def test_fit_reports_calibration_that_was_not_chosen_on_the_same_crystals() -> None:
    train, held_out = split_by_composition(toy_crystals(60), 0.3, seed=2)
    head = small_head(max_epochs=4)
    reported = head.fit(train, held_out, seed=1)
    chosen = head.evaluate(held_out)
    assert chosen["coverage_90"] >= 0.9  # by construction
    assert reported["width_90"] != pytest.approx(chosen["width_90"], rel=1e-6)
    assert reported["mae"] == pytest.approx(chosen["mae"])
    assert reported["n_train"] == len(train)


def test_without_validation_crystals_formulas_are_set_aside() -> None:
    items = toy_crystals(40)
    found = small_head(max_epochs=2).fit(items, [], seed=1)
    assert found["n"] > 0
    assert found["n"] + found["n_train"] == 40  # too few to halve them


def test_who_stops_the_training_does_not_calibrate() -> None:
    train, held_out = split_by_composition(toy_crystals(150), 0.4, seed=2)
    found = small_head(max_epochs=2).fit(train, held_out, seed=1)
    assert found["n"] + found["n_stop"] == len(held_out)
    assert found["n_calibration"] == found["n"]
    assert min(found["n"], found["n_stop"]) > 0.3 * len(held_out)


def test_several_properties_with_missing_labels() -> None:
    items = [
        LabelledStructure(
            item.structure,
            {
                "formation_energy_per_atom": None
                if i % 3 == 0
                else item.properties["formation_energy_per_atom"],
                **({"band_gap": 10.0 + i} if i % 2 else {}),
            },
        )
        for i, item in enumerate(toy_crystals(40))
    ]
    head = small_head(properties=["formation_energy_per_atom", "band_gap"], max_epochs=3)
    found = head.fit(items, items, seed=1)
    n_energies = sum(item.known("formation_energy_per_atom") is not None for item in items)
    assert found["n"] == found["formation_energy_per_atom:n"] == n_energies
    assert found["band_gap:n"] == 20
    prediction = head.predict([item.structure for item in items])
    assert prediction.mean.shape == (40, 2)
    assert prediction.mean[:, 1].mean() == pytest.approx(30.0, abs=10.0)


def test_labels_that_are_missing_altogether_are_named() -> None:
    items = [LabelledStructure(item.structure, {"band_gap": 1.0}) for item in toy_crystals(5)]
    with pytest.raises(TrainingDataError, match="formation_energy_per_atom"):
        small_head().fit(items, [], seed=1)
    with pytest.raises(TrainingDataError, match="no training crystal"):
        small_head().fit([], [], seed=1)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_handful_of_crystals_is_enough_to_go_on(n: int) -> None:
    head = small_head(max_epochs=2)
    metrics = head.fit(toy_crystals(n), [], seed=1)
    assert all(np.isfinite(value) for value in metrics.values())
    prediction = head.predict([binary("Na", "Cl", "cscl")])
    assert np.isfinite(prediction.mean).all()
    head.fine_tune(toy_crystals(1, seed=4), [], seed=1)


def test_a_broken_crystal_is_named(
    fitted: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    broken = binary("Na", "Cl", "cscl")
    broken.scale_lattice(0.1)
    with pytest.raises(ModelsError, match="structure 1 of 2"):
        fitted[0].predict([binary("Na", "Cl", "cscl"), broken])


def test_fine_tuning_learns_new_labels_and_the_gate_judges_on_held_out(
    fitted: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, train, held_out = fitted
    before = head.evaluate(held_out)
    head.save(tmp_path)
    tuned = CGCNNHead.load(tmp_path)
    new = toy_crystals(150)[110:]
    log = tuned.fine_tune(new, train, seed=3)
    assert log["n_labelled"] == 40
    assert log["mae_labelled_after"] < log["mae_labelled_before"]
    assert gate(before, tuned.evaluate(held_out), "mae", tolerance=0.02).passed

    damaged = CGCNNHead.load(tmp_path)
    upside_down = [
        LabelledStructure(
            i.structure, {"formation_energy_per_atom": -4.0 * i.properties["formation_energy_per_atom"]}
        )
        for i in new
    ]
    damaged.fine_tune(upside_down, [], seed=3)
    verdict = gate(before, damaged.evaluate(held_out), "mae", tolerance=0.02)
    assert not verdict.passed
    assert "gets worse" in verdict.reason
    assert head.evaluate(held_out) == before


def test_recalibration_follows_the_errors(
    fitted: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, _, held_out = fitted
    head.save(tmp_path)
    other = CGCNNHead.load(tmp_path)
    shifted = [
        LabelledStructure(
            i.structure, {"formation_energy_per_atom": i.properties["formation_energy_per_atom"] + 2.0}
        )
        for i in held_out
    ]
    structures = [i.structure for i in held_out]
    before = other.predict(structures)
    other.recalibrate(shifted)
    after = other.predict(structures)
    assert np.allclose(after.mean, before.mean)
    assert (after.std > 2 * before.std).all()
    assert other.evaluate(shifted)["coverage_90"] == pytest.approx(0.9, abs=0.07)
    same = CGCNNHead.load(tmp_path)
    same.recalibrate([])  # nothing to go by
    assert np.array_equal(same.predict(structures).std, before.std)


def test_checkpoints_of_other_configurations_are_refused(
    fitted: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    fitted[0].save(tmp_path)
    manifest = tmp_path / "checkpoint.json"
    whole = manifest.read_text()
    for found, put in [
        ('"hidden": 16', '"hidden": 20'),
        ('"members": 3', '"members": 1'),
        ('"centre"', '"center"'),
    ]:
        assert found in whole
        manifest.write_text(whole.replace(found, put))
        with pytest.raises(CheckpointError):
            CGCNNHead.load(tmp_path)


def test_options_are_checked_by_name() -> None:
    with pytest.raises(OptionsError, match="hiden"):
        build("cgcnn", HEADS, "head", {"hiden": 3})
    with pytest.raises(OptionsError, match="once"):
        build("cgcnn", HEADS, "head", {"properties": ["a", "a"]})


def test_the_seed_that_split_before_does_not_empty_what_is_set_aside() -> None:
    train, _ = split_by_composition(toy_crystals(110), 0.3, seed=2)
    reported = small_head(max_epochs=2, valid_fraction=0.2).fit(train, [], seed=2)
    assert reported["n"] > 0.05 * len(train)
    assert reported["n_train"] < len(train) - 3
