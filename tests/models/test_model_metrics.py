from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ModelsError, OptionsError
from models.metrics import (
    best_threshold,
    calibration_error,
    classification_metrics,
    gate,
    mae,
    regression_metrics,
    reliability,
    rmse,
    roc_auc,
    spearman,
)


def test_errors_by_hand() -> None:
    assert mae([1.0, 2.0, 4.0], [1.0, 3.0, 2.0]) == pytest.approx(1.0)
    assert rmse([1.0, 2.0, 4.0], [1.0, 3.0, 2.0]) == pytest.approx(math.sqrt(5 / 3))
    assert spearman([1, 2, 3, 4], [10, 20, 30, 45]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1.0)
    assert spearman([1, 2, 3], [5, 5, 5]) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[bool, int]]) -> None:
    positive = [score for is_positive, score in pairs if is_positive]
    negative = [score for is_positive, score in pairs if not is_positive]
    found = roc_auc([float(p) for p, _ in pairs], [float(s) for _, s in pairs])
    if not positive or not negative:
        assert found is None
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in positive for b in negative)
    assert found == pytest.approx(wins / (len(positive) * len(negative)))


def test_honest_uncertainties_get_honest_figures() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=4000), rng.uniform(0.5, 2.0, size=4000)
    truth = mean + std * rng.normal(size=4000)
    found = regression_metrics(truth, mean, std)
    assert found["z_std"] == pytest.approx(1.0, abs=0.05)
    for level in (50, 68, 90, 95):
        assert found[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.03)
    assert found["width_90"] == pytest.approx(2 * 1.645 * std.mean(), rel=0.01)
    too_sure = regression_metrics(truth, mean, std / 3)
    assert too_sure["z_std"] == pytest.approx(3.0, abs=0.1)
    assert too_sure["coverage_68"] < 0.4
    assert too_sure["nll"] > found["nll"]


def test_intervals_that_are_given_are_judged_instead_of_normal_ones() -> None:
    widths = {0.5: [0.1, 0.1], 0.68: [0.1, 0.1], 0.9: [0.1, 2.0], 0.95: [2.0, 2.0]}
    found = regression_metrics([1.0, 1.0], [0.0, 0.0], [1.0, 1.0], widths)
    assert [found[f"coverage_{level}"] for level in (50, 68, 90, 95)] == [0.0, 0.0, 0.5, 1.0]
    assert found["width_90"] == pytest.approx(2.1)


def test_unknown_truths_are_left_out() -> None:
    found = regression_metrics([1.0, math.nan, 3.0], [1.0, 99.0, 2.0], [1.0, 1.0, 1.0])
    assert found["n"] == 2.0
    assert found["mae"] == pytest.approx(0.5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_sets_give_no_nan(n: int) -> None:
    regression = regression_metrics([1.0] * n, [1.0] * n, [0.0] * n)
    classes = classification_metrics([1.0] * n, [1.0] * n, 0.5)
    assert all(math.isfinite(value) for value in [*regression.values(), *classes.values()])
    assert "spearman" not in regression
    assert "auc" not in classes


def test_classes_by_hand() -> None:
    found = classification_metrics([1, 1, 0, 0, math.nan], [0.9, 0.4, 0.6, 0.1, 0.5], 0.5)
    assert found["n"] == 4.0
    assert found["threshold"] == 0.5
    assert found["precision"] == pytest.approx(0.5)
    assert found["recall"] == pytest.approx(0.5)
    assert found["f1"] == pytest.approx(0.5)
    assert found["auc"] == pytest.approx(0.75)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    stricter = classification_metrics([1, 1, 0, 0], [0.9, 0.4, 0.6, 0.1], 0.8)
    assert stricter["precision"] == 1.0
    assert stricter["threshold"] == 0.8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=1, max_size=30))
def test_no_other_threshold_has_a_better_f1(pairs: list[tuple[bool, int]]) -> None:
    positive, probability = [float(p) for p, _ in pairs], [n / 10 for _, n in pairs]
    found = best_threshold(positive, probability)
    if not any(positive):
        assert found == 0.5
        return
    reached = classification_metrics(positive, probability, found)["f1"]
    others = (classification_metrics(positive, probability, n / 10)["f1"] for n in range(1, 10))
    assert reached == pytest.approx(max(others))


def test_calibration_error_sees_overconfidence() -> None:
    positive = np.array([1.0] * 7 + [0.0] * 3)
    assert calibration_error(positive, np.full(10, 0.7)) == pytest.approx(0.0)
    assert calibration_error(positive, np.full(10, 1.0)) == pytest.approx(0.3)
    assert reliability(positive, np.full(10, 0.7)) == pytest.approx(0.0)
    assert reliability(positive, np.full(10, 1.0)) == pytest.approx(0.09)


def test_rows_of_different_length_are_refused() -> None:
    with pytest.raises(ModelsError, match="same length"):
        mae([1.0, 2.0], [1.0])


def test_the_gate_lets_only_better_or_equal_models_pass() -> None:
    assert gate({"mae": 0.10}, {"mae": 0.09}, "mae").passed
    assert gate({"mae": 0.10}, {"mae": 0.10}, "mae").passed
    refused = gate({"mae": 0.10}, {"mae": 0.11}, "mae")
    assert not refused.passed
    assert "0.1 before, 0.11 after" in refused.reason
    assert gate({"mae": 0.10}, {"mae": 0.11}, "mae", tolerance=0.02).passed
    assert gate({"auc": 0.7}, {"auc": 0.8}, "auc").passed
    assert not gate({"auc": 0.8}, {"auc": 0.7}, "auc").passed
    assert not gate({"e_above_hull:mae": 0.1}, {"e_above_hull:mae": 0.2}, "e_above_hull:mae").passed


def test_the_gate_and_figures_that_are_missing() -> None:
    first = gate({}, {"mae": 0.3}, "mae")
    assert first.passed
    assert first.before is None
    assert not gate({"mae": 0.1}, {}, "mae").passed
    assert not gate({"mae": 0.1}, {"mae": math.nan}, "mae").passed
    assert not gate({}, {}, "mae").passed


@pytest.mark.parametrize(
    ("metric", "tolerance"), [("mea", 0.0), ("n", 0.0), ("mae", -0.1), ("mae", math.nan)]
)
def test_the_gate_refuses_nonsense(metric: str, tolerance: float) -> None:
    with pytest.raises(OptionsError):
        gate({"mae": 0.1}, {"mae": 0.1}, metric, tolerance)
