"""Uncertainties of heads: they hold where errors have heavy tails, few labels lead, and every property stands alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from toy_crystals import toy_crystals

from models.data import LabelledStructure
from models.errors import CheckpointError, OptionsError
from models.heads.calibration import (
    LEVELS,
    Calibration,
    cross_fitted,
    fit_calibration,
    fit_calibrations,
)
from models.heads.cgcnn import CGCNNHead, CGCNNHeadConfig
from models.heads.held_out import MOST_FORESEEN, HeldOut
from models.splitting import folds_by_composition, split_by_composition
from models.training import draw_replay

ENERGY = "formation_energy_per_atom"
SMALL = {"hidden": 16, "convolutions": 2, "members": 3, "max_epochs": 15, "fine_tune_epochs": 6}
Array = npt.NDArray[np.float64]


def held_out(n: int, rng: np.random.Generator, *, size: float = 1.0, domain: bool = False) -> HeldOut:
    """Crystals of one property with errors of Student's t with three degrees of freedom, 0.05 eV/atom and growing."""
    spread = 0.05 * np.exp(0.5 * rng.normal(size=(n, 1)))
    error = size * np.hypot(0.05, 2.0 * spread) * rng.standard_t(3, size=(n, 1))
    return HeldOut(error, np.zeros((n, 1)), spread, np.full(n, domain), rng.integers(2, size=n))


def coverage(calibration: Calibration, crystals: HeldOut, level: float) -> float:
    inside = np.abs(crystals.truth - crystals.mean) <= calibration.half_width(crystals.spread, level)
    return float(inside.mean())


def test_intervals_hold_at_every_level_though_errors_have_heavy_tails() -> None:
    rng = np.random.default_rng(0)
    found = fit_calibration(held_out(2000, rng).errors(0), Calibration())
    new = held_out(20000, rng)
    for level in (0.5, 0.68, 0.9, 0.95, 0.99):
        assert coverage(found, new, level) == pytest.approx(level, abs=0.02)
    # Acquisition takes the errors for normal ones: the central 90 % are right then, too.
    normal = np.abs(new.truth) <= 1.6449 * found.std(new.spread)
    assert normal.mean() == pytest.approx(0.9, abs=0.02)
    wide = new.spread[:, 0] > np.median(new.spread)
    for part in (wide, ~wide):
        assert coverage(found, new.take(part), 0.9) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_intervals_of_few_crystals_are_rather_too_wide(n: int) -> None:
    rng = np.random.default_rng(n)
    new = held_out(4000, rng)
    covered = [
        coverage(fit_calibration(held_out(n, rng).errors(0), Calibration()), new, 0.9) for _ in range(60)
    ]
    assert 0.87 < np.mean(covered) < 0.98


def test_a_campaigns_own_labels_decide_as_soon_as_there_are_some() -> None:
    rng = np.random.default_rng(0)
    reference, new = held_out(800, rng), held_out(5000, rng, size=3.0)
    before = fit_calibration(reference.errors(0), Calibration())
    assert coverage(before, new, 0.9) < 0.6
    covered = []
    for _ in range(40):
        labels = held_out(50, rng, size=3.0, domain=True)
        every = HeldOut.join([reference, labels])
        covered.append(coverage(fit_calibration(every.errors(0), Calibration()), new, 0.9))
    assert 0.87 < np.mean(covered) < 0.93


def test_a_property_without_labels_of_the_campaign_keeps_the_weight_of_its_reference() -> None:
    rng = np.random.default_rng(0)
    reference, labels = held_out(400, rng), held_out(40, rng, size=3.0, domain=True)
    both = HeldOut.join([reference, labels])
    unknown = np.where(both.domain[:, None], np.nan, both.truth)
    pair = HeldOut(
        np.hstack([both.truth, unknown]),
        np.zeros((440, 2)),
        np.hstack([both.spread, both.spread]),
        both.domain,
        both.fold,
    )
    labelled, bare = fit_calibrations(pair, [Calibration(), Calibration()])
    alone = fit_calibration(reference.errors(0), Calibration())
    assert np.allclose(bare.quantiles, alone.quantiles)
    assert labelled.std(np.array([0.05]))[0] > 1.8 * bare.std(np.array([0.05]))[0]


def test_less_than_three_crystals_leave_a_calibration_as_it_is() -> None:
    rng = np.random.default_rng(0)
    start = Calibration(0.1, 2.0)
    for n in (0, 2):
        assert fit_calibration(held_out(n, rng).errors(0), start) is start


def test_figures_are_cross_fitted_by_formula() -> None:
    # One half of the formulas has errors of 1, the other one of 3, all of one spread.
    fold = np.array([0, 1] * 30)
    truth = np.where(fold == 0, 1.0, 3.0)[:, None]
    crystals = HeldOut(truth, np.zeros((60, 1)), np.ones((60, 1)), np.zeros(60, dtype=bool), fold)
    std, half_widths = cross_fitted(crystals, [Calibration()], np.ones(60, dtype=bool))
    assert (std[fold == 0] > 2 * std[fold == 1]).all()
    assert (half_widths[0.5][fold == 0] > 2.0).all()
    assert (half_widths[0.5][fold == 1] < 2.0).all()


def test_levels_that_no_interval_has_are_refused() -> None:
    for level in (0.0, 0.995, 1.0, -1.0, float("nan")):
        with pytest.raises(OptionsError, match="level"):
            Calibration().quantile(level)
    assert Calibration().quantile(0.9) == pytest.approx(1.6449, abs=1e-3)
    assert Calibration().quantile(0.6827) == pytest.approx(Calibration().quantiles[68])
    assert (np.diff([Calibration().quantile(level) for level in LEVELS]) > 0).all()


@pytest.fixture(scope="module")
def two_properties() -> tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]]:
    """A head of two properties, the second of which only every fourth crystal has."""
    items = [
        LabelledStructure(
            one.structure,
            {ENERGY: one.properties[ENERGY], "hardness": 5.0 - 2.0 * float(one.properties[ENERGY] or 0.0)}
            if place % 4 == 0
            else {ENERGY: one.properties[ENERGY]},
        )
        for place, one in enumerate(toy_crystals(170))
    ]
    train, held = split_by_composition(items, 0.35, seed=2)
    head = CGCNNHead(CGCNNHeadConfig(properties=(ENERGY, "hardness"), **SMALL))
    head.fit(train, held, seed=1)
    return head, train, held


def test_every_property_is_calibrated_on_what_is_known_of_it(
    two_properties: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, _, held = two_properties
    found = head.evaluate(held)
    assert found["hardness:n"] < found[f"{ENERGY}:n"] / 2
    for name in (ENERGY, "hardness"):
        assert found[f"{name}:coverage_90"] > 0.75
    head.save(tmp_path)
    other = CGCNNHead.load(tmp_path)
    structures = [one.structure for one in held]
    energies = [LabelledStructure(one.structure, {ENERGY: 9.0}) for one in held]
    other.recalibrate(energies)
    assert np.array_equal(other.predict(structures).std[:, 1], head.predict(structures).std[:, 1])
    assert (other.predict(structures).std[:, 0] > head.predict(structures).std[:, 0]).all()


def test_labels_of_one_property_do_not_wreck_the_other(
    two_properties: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, train, held = two_properties
    head.save(tmp_path)
    tuned = CGCNNHead.load(tmp_path)
    new = [LabelledStructure(one.structure, {ENERGY: one.properties[ENERGY]}) for one in toy_crystals(40, 5)]
    log = tuned.fine_tune(new, train, seed=3)
    assert log["mae_labelled_after"] < log["mae_labelled_before"]
    before, after = head.evaluate(held), tuned.evaluate(held)
    assert after["hardness:mae"] < 1.15 * before["hardness:mae"]
    forgetful = CGCNNHead.load(tmp_path)
    upside_down = [LabelledStructure(one.structure, {ENERGY: 3.0}) for one in new]
    forgetful.fine_tune(upside_down, [], seed=3)
    assert forgetful.evaluate(held)["hardness:mae"] > after["hardness:mae"]


def test_a_property_that_few_crystals_have_is_shown_again_as_often_as_others(
    two_properties: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]],
) -> None:
    train = two_properties[1]
    n_rare = sum(one.known("hardness") is not None for one in train)
    drawn = draw_replay(train, 40, 0, (ENERGY, "hardness"))
    assert len(drawn) == len({id(one) for one in drawn}) == 40
    assert sum(one.known("hardness") is not None for one in drawn) >= min(20, n_rare)
    assert [one for one in train if any(one is other for other in drawn)] == drawn
    assert draw_replay(train, 1000, 0, (ENERGY,)) == train


def test_intervals_are_centred_and_survive_a_checkpoint(
    two_properties: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, _, held = two_properties
    structures = [one.structure for one in held[:10]]
    said, narrow, wide = (
        head.predict(structures),
        head.interval(structures, 0.5),
        head.interval(structures, 0.9),
    )
    assert np.allclose((wide.low + wide.high) / 2, said.mean)
    assert (wide.low < narrow.low).all()
    assert np.allclose(wide.high - wide.low, 2 * 1.6449 * said.std, rtol=1e-3)
    head.save(tmp_path)
    assert np.allclose(CGCNNHead.load(tmp_path).interval(structures, 0.9).high, wide.high)
    manifest = tmp_path / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"slope": ', '"slope": -', 1))
    with pytest.raises(CheckpointError):
        CGCNNHead.load(tmp_path)


def test_labels_foreseen_before_they_are_learnt_widen_the_intervals(
    two_properties: tuple[CGCNNHead, list[LabelledStructure], list[LabelledStructure]], tmp_path: Path
) -> None:
    head, train, held = two_properties
    head.save(tmp_path)
    tuned = CGCNNHead.load(tmp_path)
    new = [
        LabelledStructure(one.structure, {ENERGY: float(one.properties[ENERGY] or 0.0) + 4.0})
        for one in toy_crystals(40, 5)
    ]
    told = tuned.foresee(new)
    assert told["coverage_90"] < 0.2
    assert told["hardness:n"] == 0.0
    tuned.fine_tune(new, train, seed=3)
    tuned.save(tmp_path / "next")  # the next version knows of them, too
    tuned = CGCNNHead.load(tmp_path / "next")
    found = tuned.recalibrate(held)
    assert found[f"{ENERGY}:n"] == 40
    assert found["n_calibration"] == 40 + len(held)
    structures = [one.structure for one in held]
    assert np.median(tuned.predict(structures).std[:, 0] / head.predict(structures).std[:, 0]) > 2
    many = [new[place % 40] for place in range(MOST_FORESEEN)]
    tuned.foresee(many)
    assert tuned.recalibrate(held)[f"{ENERGY}:n"] == MOST_FORESEEN


def test_polymorphs_never_calibrate_each_other() -> None:
    folds = folds_by_composition(toy_crystals(150), 0.5, 2, 0)
    by_formula: dict[str, set[int]] = {}
    for one, fold in zip(toy_crystals(150), folds.tolist(), strict=True):
        by_formula.setdefault(one.structure.composition.reduced_formula, set()).add(fold)
    assert {fold for found in by_formula.values() for fold in found} == {0, 1}
    assert all(len(found) == 1 for found in by_formula.values())
