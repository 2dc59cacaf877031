from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_crystals import toy_crystals

from models.data import LabelledStructure
from models.discriminators.base import Discriminator
from models.discriminators.calibration import Calibration, fit_calibration, probability_from
from models.discriminators.cgcnn import CGCNNDiscriminator
from models.errors import CheckpointError, TrainingDataError
from models.heads.cgcnn import CGCNNHead
from models.heads.testing import check_discriminator
from models.metrics import gate
from models.registry import DISCRIMINATORS, build
from models.splitting import split_by_composition

SMALL = {"hidden": 16, "convolutions": 2, "members": 2, "max_epochs": 12, "fine_tune_epochs": 4}


def small_discriminator(**options: object) -> CGCNNDiscriminator:
    found = build("cgcnn", DISCRIMINATORS, "discriminator", SMALL | options)
    assert isinstance(found, CGCNNDiscriminator)
    return found


@pytest.mark.parametrize("kind", sorted(DISCRIMINATORS))
def test_every_registered_discriminator_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    fewer = {name: value for name, value in SMALL.items() if kind != "descriptors" or name != "convolutions"}
    found = build(kind, DISCRIMINATORS, "discriminator", fewer)
    assert isinstance(found, Discriminator)
    check_discriminator(found, toy_crystals(40), tmp_path, seed=5)


def test_it_learns_to_tell_classes_and_the_gate_refuses_a_damaged_one(tmp_path: Path) -> None:
    train, held_out = split_by_composition(toy_crystals(120), 0.3, seed=2)
    found = small_discriminator(threshold=0.6)
    reported = found.fit(train, held_out, seed=1)
    assert reported["threshold"] == 0.6
    assert reported["auc"] > 0.9
    before = found.evaluate(held_out)
    assert before["log_loss"] < 0.5
    json.dumps(reported, allow_nan=False)

    found.save(tmp_path)
    damaged = CGCNNDiscriminator.load(tmp_path)
    wrong = [LabelledStructure(i.structure, {"stable": 1.0 - i.properties["stable"]}) for i in train]
    log = damaged.fine_tune(wrong, [], seed=3)
    assert log["log_loss_labelled_after"] < log["log_loss_labelled_before"]
    assert not gate(before, damaged.evaluate(held_out), "log_loss", tolerance=0.01).passed
    assert found.evaluate(held_out) == before
    with pytest.raises(CheckpointError, match="another kind"):
        CGCNNHead.load(tmp_path)


def test_one_class_is_not_enough() -> None:
    items = [LabelledStructure(item.structure, {"stable": 1.0}) for item in toy_crystals(6)]
    with pytest.raises(TrainingDataError, match="6 stable, 0 unstable"):
        small_discriminator(valid_fraction=0.0).fit(items, [], seed=1)
    with pytest.raises(TrainingDataError, match="0 stable, 0 unstable"):
        small_discriminator().fit([], [], seed=1)
    halves = [LabelledStructure(item.structure, {"stable": 0.5}) for item in toy_crystals(6)]
    with pytest.raises(TrainingDataError, match="1 or 0"):
        small_discriminator().fit(halves, [], seed=1)


def test_the_seed_that_split_before_does_not_empty_what_is_set_aside() -> None:
    train, _ = split_by_composition(toy_crystals(120), 0.3, seed=2)
    reported = small_discriminator(max_epochs=2, valid_fraction=0.2).fit(train, [], seed=2)
    assert reported["n"] > 0.3 * len(train)  # three members, each with a fold of its own
    assert reported["n_train"] == len(train)


def test_the_threshold_is_that_of_the_best_f1_if_none_is_given(tmp_path: Path) -> None:
    found = small_discriminator(threshold=None)
    reported = found.fit(toy_crystals(120), [], seed=1)
    assert reported["threshold"] != 0.5
    found.save(tmp_path)
    again = CGCNNDiscriminator.load(tmp_path).evaluate(toy_crystals(30))
    assert again["threshold"] == reported["threshold"]


def test_properties_that_are_learned_beside_stability_may_be_missing() -> None:
    known = toy_crystals(60)
    bare = [LabelledStructure(item.structure, {"stable": item.properties["stable"]}) for item in known]
    structures = [item.structure for item in known[:5]]
    for items in (bare, [*known[:30], *bare[30:]]):
        found = small_discriminator(max_epochs=3)
        found.fit(items, [], seed=1)
        assert np.isfinite(found.logit(structures)).all()
    alone = small_discriminator(max_epochs=3, auxiliary=())
    alone.fit(known, [], seed=1)
    assert not np.allclose(alone.logit(structures), found.logit(structures))


def test_balanced_weights_do_not_distort_the_probabilities() -> None:
    # Labels that nothing explains: an honest discriminator says the base rate, whatever the weights.
    rng = np.random.default_rng(0)
    items = [
        LabelledStructure(item.structure, {"stable": float(rng.random() < 0.15)})
        for item in toy_crystals(150)
    ]
    found = small_discriminator(max_epochs=3)
    found.fit(items[:110], items[110:], seed=1)
    mean = found.probability([item.structure for item in items[110:]]).mean()
    assert 0.05 < mean < 0.35


def test_recalibration_follows_the_labels_and_its_figures_are_cross_fitted(tmp_path: Path) -> None:
    train, held_out = split_by_composition(toy_crystals(170), 0.5, seed=2)
    found = small_discriminator(max_epochs=8)
    found.fit(train, [], seed=1)
    found.save(tmp_path)
    # Labels of another world, in which nothing is stable: the reference must not drown them.
    reference, labels = held_out[:40], held_out[40:]
    unstable = [LabelledStructure(one.structure, {"stable": 0.0}) for one in labels]
    structures = [one.structure for one in labels]
    before = found.probability(structures).mean()
    told = found.recalibrate(reference, unstable)
    assert found.probability(structures).mean() < 0.5 * before
    assert told["n"] == len(labels)
    assert 0.0 < told["reliability"] <= told["calibration_error"]
    assert told["log_loss"] > found.evaluate(unstable)["log_loss"]  # which knew the answers
    other = CGCNNDiscriminator.load(tmp_path)
    assert other.recalibrate(reference)["n"] == 40
    assert other.recalibrate([]).keys() == {"temperature"}


def test_calibration_finds_temperature_and_shift() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(scale=6.0, size=4000)
    positive = (rng.random(4000) < probability_from(scores / 3.0 + 0.7)).astype(float)
    found = fit_calibration(scores, positive, Calibration())
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.shift == pytest.approx(0.7, abs=0.15)
    assert found.apply(np.array([-1.0, 2.0]))[0] < found.apply(np.array([-1.0, 2.0]))[1]


def test_calibration_with_little_to_go_on_stays_near_its_start() -> None:
    start = Calibration(shift=-1.0)
    assert fit_calibration(np.zeros(0), np.zeros(0), start) == start
    one = fit_calibration(np.array([5.0]), np.array([1.0]), start)
    assert 0.3 < one.temperature < 3.0
    assert abs(one.shift - start.shift) < 1.0


def test_probabilities_do_not_overflow() -> None:
    assert probability_from(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
