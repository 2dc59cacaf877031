"""Several aims at once: stability, and properties that lie in windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from campaign.acquisition.beliefs import Array, Candidates
from campaign.acquisition.config import ObjectiveConfig
from campaign.acquisition.policies import log_probability_between

SORTED_FRONTS = 2_000
"""So many candidates are sorted into fronts, more than anybody computes; the rest comes behind, by score."""


def log_windows(candidates: Candidates, objectives: Sequence[ObjectiveConfig]) -> Array:
    """Return the logarithm of each window's probability (n, n_objectives) by the heads' Gaussian beliefs."""
    columns = [
        log_probability_between(*candidates.properties[one.property], *one.window) for one in objectives
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(candidates.ids), 0))


def product(log_gain: Array, windows: Array, objectives: Sequence[ObjectiveConfig]) -> Array:
    """Return the logarithm (n,) of the gain times each window's probability to the power of its weight."""
    weights = np.array([one.weight for one in objectives])
    with np.errstate(invalid="ignore"):  # a window that cannot be reached stays minus infinity
        return log_gain + windows @ weights if len(weights) else log_gain


def pareto(score: Array, windows: Array) -> Array:
    """Return a score (n,) that sorts by fronts, and within a front by crowding distance.

    Non-dominated sorting and crowding distance as in NSGA-II (Deb, Pratap, Agarwal and Meyarivan, IEEE Trans. Evol.
    Comput. 6, 182 (2002), section III). The first front lies in (0, 1], the second in (-1, 0], ...; the ends of a
    front come before its middle.

    Args:
        score: (n,) the policy's score.
        windows: (n, n_objectives) higher is better in each.
    """
    values = np.column_stack([score, windows])
    found = np.zeros(len(values))
    left, front = np.arange(len(values)), 0
    while len(left) and len(values) - len(left) < SORTED_FRONTS:
        best = left[_not_dominated(values[left])]
        found[best] = -front + _within_one(_crowding(values[best]))
        left, front = np.setdiff1d(left, best, assume_unique=True), front + 1
    if len(left):
        places = np.empty(len(left))
        places[np.argsort(-score[left], kind="stable")] = np.arange(len(left))
        found[left] = -front + 1 / (2 + places)
    return found


def _not_dominated(values: Array) -> npt.NDArray[np.int64]:
    """Return the rows of values (n, n_objectives) that no other row equals or beats everywhere and beats somewhere."""
    left = np.lexsort(
        [np.arange(len(values)), *(-values.T)]
    )  # by the last column first; nobody beats the first row
    kept = []
    while len(left):
        first = left[0]
        kept.append(first)
        others = values[left]
        better = (others > values[first]).any(axis=1)
        equal = (others == values[first]).all(axis=1)
        kept += list(left[equal & (left != first)])
        left = left[better]
    return np.sort(np.array(kept, dtype=np.int64))


def _crowding(values: Array) -> Array:
    """Return the crowding distance (n,) of the rows of one front; infinite at its ends."""
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        finite = ordered[np.isfinite(ordered)]
        span = float(finite[-1] - finite[0]) if len(finite) > 1 else 0.0
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            with np.errstate(invalid="ignore"):
                gaps = (ordered[2:] - ordered[:-2]) / span
            distance[order[1:-1]] += np.nan_to_num(gaps, nan=0.0, posinf=np.inf)
    return distance


def _within_one(distance: Array) -> Array:
    """Return distances of [0, infinity] squeezed into (0, 1]."""
    return 1 - 1 / (2 + distance)
