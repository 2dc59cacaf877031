"""Policies, beliefs and choices."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.acquisition import (
    SURROGATE_PRIOR_EV_PER_ATOM,
    Belief,
    belief_of,
    choose,
    combine,
    rank,
    surrogate_error,
)
from campaign.config import AcquisitionConfig

energies = st.floats(-1, 2, allow_nan=False)
spreads = st.floats(0.001, 1)


def candidate(name: str, above: float, std: float = 0.05, **more: float) -> dict:
    head = {"mean": above, "std": std}
    return {"_id": name, "formula": name[0], "predictions": {"head_e_above_hull": head, **more}}


@given(energies, spreads, energies, spreads)
def test_combined_belief_lies_between_and_is_sharper(surrogate, surrogate_std, mean, std):
    belief = combine(surrogate, surrogate_std, Belief(mean, std))
    assert min(surrogate, mean) - 1e-9 <= belief.mean <= max(surrogate, mean) + 1e-9
    assert belief.std <= min(surrogate_std, std) + 1e-12


def test_a_belief_needs_one_finite_source():
    assert combine(None, 0.1, None) is None
    assert combine(float("nan"), 0.1, None) is None
    assert belief_of({"e_above_hull": 0.2}, 0.1) == Belief(pytest.approx(0.2), pytest.approx(0.1))


def test_surrogate_error_starts_at_the_prior_and_follows_the_labels():
    assert surrogate_error([]) == pytest.approx(SURROGATE_PRIOR_EV_PER_ATOM)
    assert surrogate_error([(0.0, 0.3)] * 40) == pytest.approx(0.3, rel=0.1)
    assert surrogate_error([(0.1, 0.1)] * 2) > 0.6 * SURROGATE_PRIOR_EV_PER_ATOM


def test_policies_rank_as_they_say():
    candidates = [candidate("a", 0.10, 0.01), candidate("b", 0.12, 0.20), candidate("c", 0.05, 0.01)]
    greedy = rank(candidates, AcquisitionConfig(policy="greedy"), 0.1, seed=1)
    assert [one.id for one in greedy] == ["c", "a", "b"]
    ucb = rank(candidates, AcquisitionConfig(policy="ucb", kappa=2.0), 0.1, seed=1)
    assert ucb[0].id == "b"


def test_random_depends_on_seed_and_id_only():
    candidates = [candidate(name, 0.1) for name in "abcdefgh"]
    config = AcquisitionConfig(policy="random")
    one = [item.id for item in rank(candidates, config, 0.1, seed=1)]
    assert one == [item.id for item in rank(candidates[::-1], config, 0.1, seed=1)]
    assert one != [item.id for item in rank(candidates, config, 0.1, seed=2)]


@given(st.lists(energies, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_rank_does_not_depend_on_arrival(values, shuffler):
    candidates = [candidate(f"{number:02d}", value) for number, value in enumerate(values)]
    shuffled = list(candidates)
    shuffler.shuffle(shuffled)
    config = AcquisitionConfig()
    assert rank(candidates, config, 0.1, 0) == rank(shuffled, config, 0.1, 0)
    assert all(math.isfinite(one.score) for one in rank(candidates, config, 0.1, 0))


def test_conditions_keep_candidates_from_a_label():
    candidates = [candidate("a", 0.4, stable_probability=0.9), candidate("b", 0.0, stable_probability=0.1)]
    low = AcquisitionConfig(max_e_above_hull_ev_per_atom=0.2)
    assert [one.id for one in rank(candidates, low, 0.5, 0)] == ["b"]
    sure = AcquisitionConfig(min_stable_probability=0.5)
    assert [one.id for one in rank(candidates, sure, 0.5, 0)] == ["a"]


def test_choice_spreads_over_formulas():
    ranked = rank(
        [candidate(f"a{n}", 0.01 * n) for n in range(5)] + [candidate("b", 1.0)], AcquisitionConfig(), 0.1, 0
    )
    assert choose(ranked, 3, max_per_formula=2) == ["a0", "a1", "b"]
    assert choose(ranked, 0, max_per_formula=2) == []
