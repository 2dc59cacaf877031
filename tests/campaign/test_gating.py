"""The gate: no group of held-out crystals may get worse, and a few of them decide nothing by chance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.gating import NEW, SHARES, effective_number, judge, judge_first, judge_generator

TOLERANCE = 0.02


def errors(n: int, mean: float, seed: int = 0) -> np.ndarray:
    return np.abs(np.random.default_rng(seed).normal(0, mean, n))


def test_a_group_that_gets_worse_is_not_outweighed_by_one_that_gets_better():
    """The mean over groups would promote this one."""
    old, new = errors(60, 0.05), errors(60, 0.5, 1)
    verdict = judge({"reference": (old, old + 0.03), NEW: (new, new * 0.2)}, "mae", TOLERANCE)
    assert not verdict.promoted
    assert verdict.conflict
    assert "reference got worse" in verdict.reason
    assert verdict.figures["reference"]["said"] == "worse"
    assert verdict.figures[NEW]["said"] == "better"


def test_a_change_is_held_against_its_own_scatter():
    before = errors(40, 0.1)
    noise = np.random.default_rng(2).normal(0, 0.05, 40)
    noise -= noise.mean()
    assert (
        judge({"reference": (before, before + noise)}, "mae", TOLERANCE).figures["reference"]["said"]
        == "level"
    )
    assert not judge({"reference": (before, before + noise / 10 + 0.01)}, "mae", TOLERANCE).promoted


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_crystals_with_scattered_changes_refuse_nobody(n):
    """Two large changes of either sign say nothing; the mean alone would refuse half of such versions."""
    refused = 0
    for seed in range(300):
        before = errors(n, 0.1, seed)
        after = errors(n, 0.1, seed + 1000)
        enough = errors(200, 0.05, seed)
        refused += not judge(
            {"labels": (before, after), "reference": (enough, enough)}, "mae", TOLERANCE
        ).promoted
    assert refused / 300 < 0.25


def test_harm_is_refused_however_it_is_spread_over_groups():
    """Each group alone is within its noise; all together are not."""
    rng = np.random.default_rng(3)
    groups = {}
    for name in ("reference", "labels", NEW):
        before = errors(12, 0.1, len(name))
        change = rng.normal(0, 0.03, 12)
        groups[name] = (before, before + change - change.mean() + 0.015)
    verdict = judge(groups, "mae", TOLERANCE)
    assert {one["said"] for one in verdict.figures.values()} == {"level"}
    assert not verdict.promoted
    assert "together worse" in verdict.reason


@given(st.integers(2, 40), st.integers(0, 1000))
def test_a_version_that_says_the_same_is_promoted(n, seed):
    same = errors(n, 0.1, seed)
    assert judge({"reference": (same, same)}, "mae", 0.0).promoted


@given(st.integers(2, 40), st.integers(0, 1000))
def test_a_version_that_is_better_on_every_crystal_is_promoted(n, seed):
    before = errors(n, 0.1, seed)
    assert judge({"reference": (before, before * 0.8)}, "mae", 0.0).promoted


def test_without_held_out_crystals_nothing_is_promoted():
    one = np.array([0.1])
    verdict = judge({"reference": (one, one / 2), "labels": (np.zeros(0), np.zeros(0))}, "mae", TOLERANCE)
    assert not verdict.promoted
    assert "cannot be judged: 1 held-out crystals" in verdict.reason


def test_a_first_version_says_what_can_be_said_of_it():
    assert "cannot be judged" in judge_first({}, "mae")
    known = {"mae": 0.12, "mae_of_mean_predictor": 0.3, "n": 40.0}
    assert "0.12 of 40 crystals, that of a constant 0.3" in judge_first(known, "mae")
    assert "learned nothing" in judge_first({**known, "mae": 0.31}, "mae")


FULL = dict.fromkeys(SHARES, 60.0) | {"formulas": 20.0, "spacegroups": 8.0}


@pytest.mark.parametrize("name", FULL)
def test_a_generator_that_loses_any_property_of_its_samples_is_refused(name):
    verdict = judge_generator(FULL, FULL | {name: FULL[name] / 3}, 64)
    assert not verdict.promoted
    assert f"too few {name}" in verdict.reason
    assert judge_generator(FULL, FULL | {name: 0.95 * FULL[name]}, 64).promoted


def test_a_generator_that_gives_nothing_more_is_refused_and_one_that_gave_nothing_is_not_held_back():
    nothing = dict.fromkeys(FULL, 0.0)
    assert not judge_generator(FULL, nothing, 64).promoted
    assert judge_generator(nothing, FULL, 64).promoted
    assert judge_generator(nothing, nothing, 64).promoted


def test_rare_kinds_beside_a_common_one_make_no_variety():
    assert effective_number(Counter("abcd")) == pytest.approx(4)
    assert effective_number(Counter("a" * 60 + "bcde")) < 2
    assert effective_number({}) == 0


def test_new_labels_do_not_make_up_for_what_earlier_ones_lost():
    """Harm that differs from crystal to crystal is no chance only because it differs."""
    rng = np.random.default_rng(5)
    groups = {
        "reference": (errors(6, 0.02), errors(6, 0.02) + rng.uniform(0, 0.2, 6)),
        "labels": (errors(5, 0.02), errors(5, 0.02) + rng.uniform(0, 0.3, 5)),
        NEW: (errors(2, 0.5), errors(2, 0.5) - np.array([0.4, 0.1])),
    }
    verdict = judge(groups, "mae", TOLERANCE)
    assert not verdict.promoted, verdict.reason
