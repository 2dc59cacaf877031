"""Batches that keep away from pending labels and from themselves."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.acquisition.batches import Determinantal, LocalPenalisation, choose
from campaign.acquisition.beliefs import Candidates
from campaign.acquisition.config import AcquisitionConfig
from campaign.acquisition.features import features, kernel
from campaign.acquisition.policies import POLICIES, ChoiceContext
from campaign.acquisition.ranking import Ranking, rank, read

ELEMENTS = ("Ca", "Mg", "Si")
FORMULAS = ("CaSi", "Ca2Si", "MgSi", "Mg2Si", "CaMg2", "CaMgSi")
DIVERSE = ("local_penalisation", "determinantal")


def document(name: str, above: float, std: float = 0.05, formula: str = "CaSi", **about: Any) -> dict:
    head = {"mean": above, "std": std}
    return {"_id": name, "formula": formula, "chemsys": "Ca-Si", "n_atoms": 4, "spacegroup": 225} | {
        **about,
        "predictions": {"head_e_above_hull": head, "oracle": above},
    }


def candidates(documents: list[dict], **options: Any) -> Candidates:
    return read(documents, AcquisitionConfig(**options), elements=ELEMENTS, surrogate_std=0.1)


def chosen(documents: list[dict], n: int, pending: tuple[dict, ...] = (), **options: Any) -> list[str]:
    return choose(ranked(documents, **options), n, AcquisitionConfig(**options), candidates(list(pending)))


def ranked(documents: list[dict], **options: Any) -> Ranking:
    return rank(candidates(documents, **options), AcquisitionConfig(**options), ChoiceContext(5))


@st.composite
def crowds(draw: st.DrawFn) -> list[dict]:
    return [
        document(
            f"{number:02d}",
            draw(st.floats(-0.5, 1)),
            draw(st.floats(0.01, 0.5)),
            draw(st.sampled_from(FORMULAS)),
            spacegroup=draw(st.integers(1, 230)),
            n_atoms=draw(st.integers(1, 12)),
        )
        for number in range(draw(st.integers(1, 16)))
    ]


diversities = st.sampled_from(("none", *DIVERSE))
policies = st.sampled_from(sorted(POLICIES))


@settings(deadline=None)
@given(crowds(), st.integers(0, 20), st.integers(1, 4), diversities, st.tuples(policies, st.floats(0, 5)))
def test_a_batch_is_as_large_as_it_may_be_and_holds_nobody_twice(found, n, most, diversity, how):
    options = {"policy": how[0], "diversity": diversity, "diversity_strength": how[1]}
    ids = chosen(found, n, max_per_formula=most, **options)
    formula = {one["_id"]: one["formula"] for one in found}
    counts = [sum(formula[name] == each for name in ids) for each in FORMULAS]
    able = sum(min(most, sum(one["formula"] == each for one in found)) for each in FORMULAS)
    assert max(counts) <= most
    assert len(ids) == len(set(ids)) == min(n, able)


@settings(deadline=None)
@given(crowds(), crowds(), diversities, policies, st.randoms(use_true_random=False))
def test_a_batch_does_not_depend_on_arrival(found, waiting, diversity, policy, shuffler):
    options = {"policy": policy, "diversity": diversity}
    pending = [{**one, "_id": f"p{one['_id']}"} for one in waiting]
    calm = chosen(found, 5, tuple(pending), **options)
    shuffler.shuffle(found)
    shuffler.shuffle(pending)
    assert chosen(found, 5, tuple(pending), **options) == calm


@settings(deadline=None)
@given(crowds(), crowds(), st.sampled_from(DIVERSE), policies)
def test_without_strength_a_batch_is_the_top_of_the_ranking(found, pending, diversity, policy):
    options = {"policy": policy, "diversity": diversity, "diversity_strength": 0, "max_per_formula": 99}
    ids = chosen(found, 4, tuple({**one, "_id": f"p{one['_id']}"} for one in pending), **options)
    assert tuple(ids) == ranked(found, **options).candidates.ids[:4]


def test_choice_spreads_over_formulas():
    found = [document(f"a{n}", 0.01 * n) for n in range(5)] + [document("b", 1.0, formula="MgSi")]
    assert chosen(found, 3, max_per_formula=2, diversity="none") == ["a0", "a1", "b"]
    assert chosen(found, 0, max_per_formula=2) == []


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"random", "thompson"}))
@pytest.mark.parametrize("diversity", DIVERSE)
def test_every_policy_sees_labels_that_are_pending(policy, diversity):
    """Two candidates are nearly as good; a crystal like the better one is already being computed."""
    found = [
        document("like", 0.050),
        document("unlike", 0.052, formula="Mg2Si", spacegroup=1),
        *(document(f"z{n}", 0.5 + 0.1 * n, formula="CaMg2", n_atoms=2 * n) for n in range(1, 5)),
    ]
    options = {"policy": policy, "diversity": diversity}
    pending = document("pending", 0.045)
    assert chosen(found, 1, **options) == ["like"]
    assert chosen(found, 1, (pending,), **options) == ["unlike"]
    assert chosen(found, 1, (pending,), policy=policy, diversity="none") == ["like"]


@pytest.mark.parametrize("diversity", DIVERSE)
def test_a_batch_sees_itself_and_the_stronger_the_more(diversity):
    found = [document(f"a{n}", 0.05 + 0.001 * n) for n in range(3)]
    found += [document("b", 0.08, formula="Mg2Si", spacegroup=1), document("c", 0.3, formula="CaMg2")]
    options = {"policy": "greedy", "diversity": diversity, "max_per_formula": 9}
    assert chosen(found, 2, **options, diversity_strength=0.01) == ["a0", "a1"]
    assert chosen(found, 2, **options, diversity_strength=5.0) == ["a0", "b"]


@pytest.mark.parametrize("policy", ["greedy", "ucb", "probability_of_stability"])
def test_one_absurd_belief_does_not_choose_the_whole_batch(policy):
    """A crystal believed to lie 4 eV/atom below the hull says nothing against the other good ones."""
    found = [document("absurd", -4.0, formula="Mg2Si", spacegroup=1)]
    found += [document(f"good{n}", -0.01 * n, n_atoms=2 + n, spacegroup=20 * n + 1) for n in range(5)]
    found += [document(f"bad{n}", 0.4 + 0.1 * n, formula="CaMg2", n_atoms=2 * n) for n in range(1, 9)]
    ids = chosen(found, 6, policy=policy, diversity="local_penalisation", max_per_formula=9)
    assert sum(name.startswith("good") for name in ids) == 5


def test_local_penalisation_is_the_published_factor():
    """A point believed to be best by `gap`: beside it half of the belief is left, far away all of it."""
    points = np.array([[0.0], [0.1], [0.2], [5.0]])
    mean, std = np.array([0.0, 0.1, 0.2, 0.3]), np.full(4, 0.05)
    penalty = LocalPenalisation(points, mean, std, 0.0)
    penalty.add(0)
    assert np.exp(penalty.log_weight[0]) == pytest.approx(0.5)
    assert np.exp(penalty.log_weight[3]) == pytest.approx(1.0)
    assert (np.diff(penalty.log_weight) >= 0).all()
    worse = LocalPenalisation(points, mean, std, 0.0)
    worse.add(3)
    assert np.exp(worse.log_weight[3]) < 1e-6, "a ball as large as its mean lies above the best"


def test_the_greedy_determinant_is_the_determinant():
    """Each step's weight is what the chosen point multiplies the determinant of the kernel by."""
    found = [document(f"{n}", 0.1, formula=FORMULAS[n % 6], spacegroup=7 * n + 1) for n in range(8)]
    points = features(found, ELEMENTS)
    whole = np.column_stack([kernel(points, row) for row in range(8)])
    greedy, rows, determinant = Determinantal(points, np.zeros(8), np.ones(8), 0.0), [], 1.0
    for row in (3, 0, 6, 1, 5):
        determinant *= np.exp(greedy.log_weight[row])
        greedy.add(row)
        rows.append(row)
        assert determinant == pytest.approx(np.linalg.det(whole[np.ix_(rows, rows)]))


def test_a_determinantal_batch_is_nearly_the_best_of_all_batches():
    """With equal scores the greedy batch maximises the determinant up to what greed costs."""
    found = [
        document(f"{n}", 0.1, formula=FORMULAS[n % 6], spacegroup=(1, 62, 225)[n % 3], n_atoms=2 + n % 2)
        for n in range(9)
    ]
    points = features(found, ELEMENTS)
    whole = np.column_stack([kernel(points, row) for row in range(9)])
    ids = chosen(found, 3, policy="greedy", diversity="determinantal")
    rows = [int(name) for name in ids]
    best = max(np.linalg.det(whole[np.ix_(some, some)]) for some in itertools.combinations(range(9), 3))
    assert np.linalg.det(whole[np.ix_(rows, rows)]) > 0.9 * best
