"""Beliefs, policies, conditions, costs and several aims at once."""

from __future__ import annotations

import math
import time
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.acquisition.batches import choose
from campaign.acquisition.beliefs import (
    SURROGATE_PRIOR_EV_PER_ATOM,
    Candidates,
    belief_of,
    combine,
    surrogate_error,
)
from campaign.acquisition.config import GAINS, AcquisitionConfig
from campaign.acquisition.features import OWN_PART, correlated_normals, features
from campaign.acquisition.policies import POLICIES, ChoiceContext, log_probability_between
from campaign.acquisition.ranking import Ranking, rank, read
from campaign.config import parse_config
from campaign.errors import ComponentError, ConfigError

ELEMENTS = ("Ca", "Mg", "Si")
FORMULAS = ("CaSi", "Ca2Si", "MgSi", "Mg2Si", "CaMg2", "CaMgSi")

energies = st.floats(-1, 2, allow_nan=False)
spreads = st.floats(0.001, 1)
policies = st.sampled_from(sorted(POLICIES))


def document(name: str, above: float, std: float = 0.05, **more: Any) -> dict[str, Any]:
    """A candidate's document as the store gives it; further predictions by their names."""
    about = {"formula": "CaSi", "chemsys": "Ca-Si", "n_atoms": 4, "spacegroup": 225}
    about |= {key: more.pop(key) for key in set(about) & set(more)}
    head = {"mean": above, "std": std}
    return {"_id": name, **about, "predictions": {"head_e_above_hull": head, "oracle": above, **more}}


def candidates(
    documents: list[dict], config: AcquisitionConfig | None = None, std: float = 0.1, **options: Any
) -> Candidates:
    config = config or AcquisitionConfig()
    return read(documents, config, elements=ELEMENTS, surrogate_std=std, **options)


def ranked(documents: list[dict], seed: int = 0, **options: Any) -> Ranking:
    config = AcquisitionConfig(**options)
    return rank(candidates(documents, config), config, ChoiceContext(seed))


@st.composite
def documents(draw: st.DrawFn, max_size: int = 20) -> list[dict]:
    found = []
    for number in range(draw(st.integers(1, max_size))):
        more: dict[str, Any] = {
            "formula": draw(st.sampled_from(FORMULAS)),
            "spacegroup": draw(st.integers(1, 230)),
            "n_atoms": draw(st.integers(1, 12)),
            "head_band_gap": {"mean": draw(st.floats(0, 5)), "std": draw(st.floats(0.05, 1))},
        }
        if draw(st.booleans()):
            more["stable_probability"] = draw(st.floats(0, 1))
        found.append(document(f"{number:02d}", draw(energies), draw(spreads), **more))
    return found


# Beliefs


@settings(deadline=None)
@given(energies, spreads, energies, spreads)
def test_combined_belief_lies_between_and_is_sharper(surrogate, surrogate_std, mean, std):
    both, spread = combine(np.array([surrogate]), surrogate_std, np.array([mean]), np.array([std]))
    assert min(surrogate, mean) - 1e-9 <= both[0] <= max(surrogate, mean) + 1e-9
    assert spread[0] <= min(surrogate_std, std) + 1e-12


def test_a_belief_needs_one_finite_source():
    predictions = [
        {},
        {"e_above_hull": float("nan")},
        {"e_above_hull": 0.2},
        {"e_above_hull": None, "head_e_above_hull": {"mean": 0.3, "std": 0.05}},
    ]
    mean, std = belief_of(predictions, 0.1)
    assert np.isnan(mean[:2]).all()
    assert mean[2:] == pytest.approx([0.2, 0.3])
    assert std[2:] == pytest.approx([0.1, 0.05])


def test_surrogate_error_starts_at_the_prior_and_follows_the_labels():
    assert surrogate_error([]) == pytest.approx(SURROGATE_PRIOR_EV_PER_ATOM)
    assert surrogate_error([(0.0, 0.3)] * 40) == pytest.approx(0.3, rel=0.1)
    assert surrogate_error([(0.1, 0.1)] * 2) > 0.6 * SURROGATE_PRIOR_EV_PER_ATOM


# Every policy


def test_every_policy_can_be_named_in_the_configuration():
    assert set(get_args(AcquisitionConfig.model_fields["policy"].annotation)) == set(POLICIES)
    assert set(POLICIES) > GAINS


@settings(deadline=None)
@given(documents(), policies, st.randoms(use_true_random=False), st.integers(0, 9))
def test_rank_does_not_depend_on_arrival(found, policy, shuffler, seed):
    shuffled = list(found)
    shuffler.shuffle(shuffled)
    one, other = ranked(found, seed, policy=policy), ranked(shuffled, seed, policy=policy)
    assert one.updates() == other.updates()
    assert len(set(one.candidates.ids)) == len(found)
    assert np.isfinite(one.scores).all()
    assert (np.diff(one.scores) <= 0).all()
    assert (np.diff(one.log_gain) <= 0).all()


@settings(deadline=None)
@given(
    st.sampled_from(sorted(set(POLICIES) - {"random"})),
    st.lists(energies, min_size=2, max_size=2, unique=True),
    spreads,
    st.none() | st.floats(0, 1),
)
def test_of_two_candidates_that_differ_in_their_means_alone_the_lower_is_worth_more(policy, two, std, said):
    more = {} if said is None else {"stable_probability": said}
    low, high = (one for mean in sorted(two) for one in [document("same", mean, std, **more)])
    scores = [ranked([one], policy=policy).scores[0] for one in (low, high)]
    assert scores[0] >= scores[1]
    certain = policy == "probability_of_stability" and scores[0] > -1e-9  # both are 1 in floating point
    if abs(two[0] - two[1]) > 1e-6 and not certain:
        assert scores[0] > scores[1]


@settings(deadline=None)
@given(documents(), st.integers(0, 5))
def test_without_kappa_ucb_is_greedy(found, seed):
    assert ranked(found, seed, policy="ucb", kappa=0).updates() == ranked(found, policy="greedy").updates()


@settings(deadline=None)
@given(documents(), st.integers(1, 5))
def test_what_competes_beside_a_candidate_does_not_change_its_score(found, seed):
    for policy in POLICIES:
        together = dict(ranked(found, seed, policy=policy).updates())
        for one in found[:3]:
            alone = ranked([one], seed, policy=policy).updates()[0][1]
            assert alone["score"] == pytest.approx(together[one["_id"]]["score"], rel=1e-9, abs=1e-9)


def test_policies_rank_as_they_say():
    found = [document("a", 0.10, 0.01), document("b", 0.12, 0.20), document("c", 0.05, 0.01)]
    assert ranked(found, policy="greedy").candidates.ids == ("c", "a", "b")
    assert ranked(found, policy="ucb", kappa=2.0).candidates.ids[0] == "b"
    assert ranked(found, policy="expected_improvement").candidates.ids[0] == "b"
    assert ranked(found, policy="probability_of_stability").candidates.ids[0] == "b"


# One by one


@settings(deadline=None)
@given(st.floats(-0.3, 1.0), st.floats(0.05, 0.5), st.floats(-0.1, 0.1))
def test_expected_improvement_is_the_integral_that_it_stands_for(mean, std, threshold):
    config = AcquisitionConfig(policy="expected_improvement")
    found = candidates([document("a", mean, std)], config)
    score = POLICIES["expected_improvement"](found, config, ChoiceContext(0, threshold))[0]
    y = np.linspace(min(mean - 12 * std, threshold - 12 * std), threshold, 40_001)
    density = np.exp(-(((y - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    assert score == pytest.approx(math.log(np.trapezoid((threshold - y) * density, y)), abs=2e-3)


def test_expected_improvement_still_ranks_where_it_is_zero_in_floating_point():
    found = [document(name, above, 0.001) for name, above in (("a", 0.9), ("b", 0.8), ("c", 1.9))]
    ranking = ranked(found, policy="expected_improvement")
    assert ranking.candidates.ids == ("b", "a", "c")
    assert (np.diff(ranking.scores) < 0).all()


@settings(deadline=None)
@given(energies, st.floats(0.02, 0.5), st.floats(0.001, 0.999), st.floats(-0.1, 0.2))
def test_the_discriminator_moves_the_probability_of_stability_its_way(mean, std, said, threshold):
    config, name = AcquisitionConfig(), "probability_of_stability"

    def probability(**more: float) -> float:
        found = candidates([document("a", mean, std, **more)])
        return math.exp(POLICIES[name](found, config, ChoiceContext(0, threshold, 0.05))[0])

    def below(limit: float) -> float:
        return 0.5 * math.erfc((mean - limit) / (std * math.sqrt(2)))

    assert probability() == pytest.approx(below(threshold), abs=1e-9)
    assert 0 <= probability(stable_probability=said) <= 1
    if below(0.05) < said:
        assert probability(stable_probability=said) >= probability() - 1e-9
    else:
        assert probability(stable_probability=said) <= probability() + 1e-9
    agreed = probability(stable_probability=below(0.05))
    if 1e-6 < below(0.05) < 1 - 1e-6:
        assert agreed == pytest.approx(probability(), rel=1e-6, abs=1e-9)


def test_draws_have_the_variance_and_the_correlation_that_they_are_said_to_have():
    found = [
        document("a", 0.1, formula="CaSi"),
        document("b", 0.1, formula="CaSi"),
        document("c", 0.1, formula="Mg2Si", spacegroup=1),
    ]
    points = features(found, ELEMENTS)
    draws = np.array([correlated_normals(points, ["a", "b", "c"], seed) for seed in range(1500)])
    spread = np.cov(draws.T)
    assert np.diag(spread) == pytest.approx([1, 1, 1], abs=0.15)
    assert spread[0, 1] == pytest.approx(1 - OWN_PART, abs=0.12)
    assert abs(spread[0, 2]) < 0.15
    assert np.abs(draws.mean(axis=0)).max() < 0.1


def test_random_and_thompson_repeat_with_the_seed():
    found = [document(name, 0.1) for name in "abcdefgh"]
    for policy in ("random", "thompson"):
        one = ranked(found, 1, policy=policy).candidates.ids
        assert one == ranked(found[::-1], 1, policy=policy).candidates.ids
        assert one != ranked(found, 2, policy=policy).candidates.ids


def test_the_oracle_ranks_by_the_truth_and_is_refused_without_it():
    found = [document("a", 0.0, oracle=0.5), document("b", 0.9, oracle=0.1)]
    assert ranked(found, policy="oracle").candidates.ids == ("b", "a")
    del found[0]["predictions"]["oracle"]
    with pytest.raises(ComponentError, match=r"predictions\.oracle; got 'a'; cure: choose another policy"):
        ranked(found, policy="oracle")


def test_conditions_keep_candidates_from_a_label():
    found = [document("a", 0.4, stable_probability=0.9), document("b", 0.0, stable_probability=0.1)]
    assert ranked(found, max_e_above_hull_ev_per_atom=0.2).candidates.ids == ("b",)
    assert ranked(found, min_stable_probability=0.5).candidates.ids == ("a",)
    assert ranked([document("a", 0.4)], min_stable_probability=0.5).candidates.ids == ()


# Several aims, and costs

WINDOW = [{"property": "band_gap", "window": [1.0, 1.8]}]


@settings(deadline=None)
@given(st.floats(-50, 50), st.floats(0.1, 2), st.floats(-5, 5), st.floats(0.1, 5))
def test_a_windows_probability_is_that_of_its_two_sides(mean, std, low, width):
    column, spread = np.array([mean]), np.array([std])
    inside, below, above = (
        math.exp(log_probability_between(column, spread, *ends)[0])
        for ends in ((low, low + width), (None, low), (low + width, None))
    )
    assert inside + below + above == pytest.approx(1)


def test_a_window_far_away_still_ranks():
    found = [
        document(name, 0.0, head_band_gap={"mean": gap, "std": 0.01}) for name, gap in (("a", 9), ("b", 8))
    ]
    ranking = ranked(found, policy="expected_improvement", objectives=WINDOW)
    assert ranking.candidates.ids == ("b", "a")


def test_the_product_prefers_what_is_likely_to_be_in_the_window():
    found = [
        document("metal", -0.1, head_band_gap={"mean": 0.0, "std": 0.2}),
        document("wanted", 0.0, head_band_gap={"mean": 1.4, "std": 0.2}),
        document("unknown", -0.2),
    ]
    ranking = ranked(found, policy="probability_of_stability", objectives=WINDOW)
    assert ranking.candidates.ids == ("wanted", "metal")


@settings(deadline=None)
@given(documents())
def test_no_candidate_of_a_front_beats_another_and_each_later_one_is_beaten(found):
    ranking = ranked(found, policy="greedy", objectives=WINDOW, combine="pareto")
    mean, std = ranking.candidates.properties["band_gap"]
    values = np.column_stack([-ranking.candidates.mean, log_probability_between(mean, std, 1.0, 1.8)])
    fronts = np.ceil(-ranking.scores + 1e-12).astype(int)

    def beats(one: int, other: int) -> bool:
        return bool((values[one] >= values[other]).all() and (values[one] > values[other]).any())

    places = range(len(values))
    for place in places:
        assert not any(beats(other, place) for other in places if fronts[other] >= fronts[place])
        if fronts[place] > fronts[0]:
            assert any(beats(other, place) for other in places if fronts[other] == fronts[place] - 1)


def test_ends_of_a_front_come_before_its_middle():
    gaps = {"a": (0.0, 1.4), "b": (0.01, 1.41), "c": (0.02, 1.42), "d": (-0.5, 0.2)}
    found = [
        document(name, above, head_band_gap={"mean": gap, "std": 0.3}) for name, (above, gap) in gaps.items()
    ]
    ranking = ranked(found, policy="greedy", objectives=WINDOW, combine="pareto")
    assert set(ranking.candidates.ids[:2]) == {"a", "d"}
    assert ranking.scores[2] <= 0 < ranking.scores[1]


def test_a_score_is_divided_by_the_power_of_its_cost():
    config = AcquisitionConfig(policy="expected_improvement", cost_exponent=0.5)
    found = candidates(
        [document("small", 0.1, n_atoms=2), document("large", 0.1, n_atoms=8)],
        config,
        core_seconds=lambda n_atoms, elements: n_atoms**2.0 * len(elements),
    )
    ranking = rank(found, config, ChoiceContext(0))
    assert ranking.candidates.ids == ("small", "large")
    assert ranking.scores[0] - ranking.scores[1] == pytest.approx(0.5 * math.log(16))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (
            {"policy": "ucb", "cost_exponent": 1.0},
            ["cost_exponent", "ucb is no gain", "expected_improvement"],
        ),
        ({"policy": "greedy", "objectives": WINDOW}, ["combine", "greedy is no gain", "pareto"]),
        (
            {"objectives": [{"property": "band_gap", "window": [2.0, 1.0]}], "combine": "pareto"},
            ["objectives.0.window", "lower and a higher end"],
        ),
        ({"objectives": WINDOW * 2, "combine": "pareto"}, ["objectives", "named twice"]),
        ({"share_floor": -0.1}, ["share_floor", "got -0.1"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(block, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({"name": "a", "chemistry": {"elements": ELEMENTS}, "acquisition": block}, "file")
    for word in words:
        assert word in caught.value.one_line()


@pytest.mark.parametrize("policy", ["ucb", "probability_of_stability", "thompson"])
def test_a_backlog_of_a_hundred_thousand_is_ranked_and_chosen_from_within_two_seconds(policy):
    drawn = np.random.default_rng(0)
    rows = zip(drawn.normal(0.2, 0.1, 100_000), drawn.integers(0, len(FORMULAS), 100_000), strict=True)
    found = [
        document(f"{number:06d}", float(above), formula=FORMULAS[which], n_atoms=number % 12 + 1)
        for number, (above, which) in enumerate(rows)
    ]
    config = AcquisitionConfig(policy=policy)
    begin = time.process_time()
    ranking = rank(candidates(found, config), config, ChoiceContext(0))
    chosen = choose(ranking, 8, config)
    assert time.process_time() - begin < 2
    assert len(ranking.scores) == 100_000
    assert len(set(chosen)) == 8
