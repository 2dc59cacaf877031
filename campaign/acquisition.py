"""Acquisition policies: a ranked choice from scored candidates, given what was already chosen.

Every policy is a function `(mean, std, candidate_id, settings) -> score`, higher is better, with mean and std of
the predicted e_above_hull [eV/atom]. To add one, write the function and a line in `POLICIES`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.config import AcquisitionConfig
from campaign.documents import derive_seed

SURROGATE_PRIOR_EV_PER_ATOM = 0.06
"""Error of the surrogate before any label is known: CHGNet against DFT hulls, of the order of its reported MAE."""

PRIOR_LABELS = 4
"""Number of labels that the prior error counts for."""


@dataclass(frozen=True)
class Belief:
    """What the models together say about a candidate's e_above_hull [eV/atom]."""

    mean: float
    std: float


@dataclass(frozen=True)
class Scored:
    """A candidate with its belief and score, ready to be ranked."""

    id: str
    formula: str
    belief: Belief
    score: float


def surrogate_error(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the surrogate's root-mean-square error [eV/atom] from (predicted, DFT) e_above_hull of labels.

    The prior error counts like `PRIOR_LABELS` labels, so that two lucky labels do not make it look exact.
    """
    squares = sum((predicted - found) ** 2 for predicted, found in pairs)
    prior = PRIOR_LABELS * SURROGATE_PRIOR_EV_PER_ATOM**2
    return math.sqrt((squares + prior) / (len(pairs) + PRIOR_LABELS))


def combine(surrogate: float | None, surrogate_std: float, head: Belief | None) -> Belief | None:
    """Return the precision-weighted mean of surrogate and head (independent Gaussian errors), None without either."""
    beliefs = []
    if surrogate is not None and math.isfinite(surrogate):
        beliefs.append(Belief(surrogate, surrogate_std))
    if head is not None and math.isfinite(head.mean) and math.isfinite(head.std):
        beliefs.append(Belief(head.mean, max(head.std, 1e-4)))
    if not beliefs:
        return None
    weights = [1 / belief.std**2 for belief in beliefs]
    mean = sum(weight * belief.mean for weight, belief in zip(weights, beliefs, strict=True)) / sum(weights)
    return Belief(mean, 1 / math.sqrt(sum(weights)))


def belief_of(predictions: Mapping[str, Any], surrogate_std: float) -> Belief | None:
    """Return the belief about e_above_hull from a candidate's predictions."""
    surrogate = predictions.get("e_above_hull")
    head = predictions.get("head_e_above_hull")
    return combine(
        surrogate if isinstance(surrogate, int | float) else None,
        surrogate_std,
        Belief(head["mean"], head["std"]) if isinstance(head, Mapping) else None,
    )


def greedy(belief: Belief, candidate_id: str, config: AcquisitionConfig, seed: int) -> float:
    """Score by the mean alone."""
    return -belief.mean


def ucb(belief: Belief, candidate_id: str, config: AcquisitionConfig, seed: int) -> float:
    """Score by the optimistic bound: kappa standard deviations below the mean."""
    return -belief.mean + config.kappa * belief.std


def random(belief: Belief, candidate_id: str, config: AcquisitionConfig, seed: int) -> float:
    """Score by a hash of seed and id: random, but the same whatever the order of arrival."""
    return derive_seed(seed, "random", candidate_id) / 2**32


POLICIES: dict[str, Callable[[Belief, str, AcquisitionConfig, int], float]] = {
    "greedy": greedy,
    "ucb": ucb,
    "random": random,
}


def rank(
    candidates: Sequence[Mapping[str, Any]], config: AcquisitionConfig, surrogate_std: float, seed: int
) -> list[Scored]:
    """Score candidates and sort them, best first; those without any belief, or against a condition, are left out.

    Args:
        candidates: Documents with `_id`, `formula` and `predictions`.
        config: Policy and conditions.
        surrogate_std: The surrogate's error [eV/atom].
        seed: Seed of the choice.
    """
    policy = POLICIES[config.policy]
    scored = []
    for candidate in candidates:
        predictions = candidate.get("predictions") or {}
        belief = belief_of(predictions, surrogate_std)
        if belief is None or not _meets(belief, predictions, config):
            continue
        score = policy(belief, candidate["_id"], config, seed)
        scored.append(Scored(candidate["_id"], candidate["formula"], belief, score))
    return sorted(scored, key=lambda one: (-one.score, one.id))


def choose(ranked: Sequence[Scored], n: int, max_per_formula: int) -> list[str]:
    """Return the ids of the best `n`, at most `max_per_formula` of one reduced formula, best first."""
    taken: Counter[str] = Counter()
    chosen: list[str] = []
    for one in ranked:
        if len(chosen) == n:
            break
        if taken[one.formula] < max_per_formula:
            taken[one.formula] += 1
            chosen.append(one.id)
    return chosen


def _meets(belief: Belief, predictions: Mapping[str, Any], config: AcquisitionConfig) -> bool:
    limit = config.max_e_above_hull_ev_per_atom
    if limit is not None and belief.mean > limit:
        return False
    least = config.min_stable_probability
    if least is None:
        return True
    return float(predictions.get("stable_probability", 0.0)) >= least
