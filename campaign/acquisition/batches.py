"""A batch of labels that do not ask the same question twice.

Every choice looks at two sorts of labels whose outcome it does not know: those that are pending, chosen in rounds that
it may not learn from, and those chosen before it in its own batch. What is pending is said by the numbers of rounds
(`Spec.pending`), never by what happens to be finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from scipy.special import log_ndtr

from campaign.acquisition.beliefs import Array, Candidates
from campaign.acquisition.config import AcquisitionConfig
from campaign.acquisition.features import LENGTH, distances, kernel
from campaign.acquisition.ranking import Ranking
from campaign.documents import derive_seed

STEEP = 2.0
"""Standard deviations of its gradient that a random function is taken to rise at the steepest."""


class Spread(Protocol):
    """Lowers the gain of candidates that resemble what was chosen."""

    log_weight: Array
    """(n_points,) what to add to the logarithm of a candidate's gain."""

    def add(self, row: int) -> None:
        """Take a point as chosen."""
        ...


class LocalPenalisation:
    """Penalises a ball around each pending point in which, by what is believed of it, no better one can lie.

    González, Dai, Hennig and Lawrence, Batch Bayesian Optimization via Local Penalization, AISTATS 2016, equation 5:
    φ(x) = erfc(-z) / 2 with z = (L |x - x'| - M + μ(x')) / sqrt(2 σ²(x')), for a maximum M and a Lipschitz constant L;
    here of -e_above_hull, M being the best mean of all points, but no better than the threshold of stability: many
    stable crystals are looked for and not the lowest of all, and a single crystal whose energy is believed to be absurd
    would otherwise make every ball as large as the chemistry. Gains are multiplied by φ. The paper takes L from the
    gradient of the mean; but a mean hardly changes where the models know little, which would make balls as large as the
    whole chemistry. So L is that of what is not known yet: a random function of standard deviation σ and the kernel's
    length has gradients of standard deviation σ / length.
    """

    def __init__(self, points: Array, mean: Array, std: Array, stable_ev_per_atom: float) -> None:
        self._points, self._mean, self._std = points, mean, std
        self._best = max(float(mean.min(initial=np.inf)), stable_ev_per_atom)
        self._slope = STEEP * float(np.median(std)) / LENGTH
        self.log_weight = np.zeros(len(points))

    def add(self, row: int) -> None:
        """Penalise what lies near this point."""
        gap = self._mean[row] - self._best
        self.log_weight += log_ndtr((self._slope * distances(self._points, row) - gap) / self._std[row])


class Determinantal:
    """Greedy maximum of a determinantal point process: gain times how much of a candidate is new.

    Chen, Zhang and Zhou, Fast Greedy MAP Inference for Determinantal Point Process, NeurIPS 2018, algorithm 1: the
    kernel's Cholesky factor grows by one column per chosen point, and d² is what is left of a candidate's variance.
    """

    def __init__(self, points: Array, mean: Array, std: Array, stable_ev_per_atom: float) -> None:  # noqa: ARG002
        self._points = points
        self._factor = np.zeros((len(points), 0))
        self._left = np.ones(len(points))
        self.log_weight = np.zeros(len(points))

    def add(self, row: int) -> None:
        """Take away what this point tells about the others."""
        rest = kernel(self._points, row) - self._factor @ self._factor[row]
        column = rest / np.sqrt(self._left[row])
        self._factor = np.column_stack([self._factor, column])
        self._left = np.maximum(self._left - column**2, 1e-12)
        self.log_weight = np.log(self._left)


SPREADS: dict[str, Callable[[Array, Array, Array, float], Spread]] = {
    "local_penalisation": LocalPenalisation,
    "determinantal": Determinantal,
}


def choose(
    ranking: Ranking, n: int, config: AcquisitionConfig, pending: Candidates | None = None
) -> list[str]:
    """Return the ids of a batch in the order of choice, at most `max_per_formula` of one reduced formula.

    Args:
        ranking: Candidates, best first: the order in which ties are broken.
        n: Labels wanted.
        config: Diversity and its strength.
        pending: Candidates whose labels the choice may not know.
    """
    spread = _spread(ranking, pending, config)
    open_ = np.ones(len(ranking.scores), dtype=bool)
    taken: Counter[str] = Counter()
    chosen: list[str] = []
    formulas = np.array(ranking.candidates.formulas, dtype=object)
    while len(chosen) < n and open_.any():
        if spread is None:
            row = int(open_.argmax())
        else:
            gain = ranking.log_gain + config.diversity_strength * spread.log_weight[: len(open_)]
            rows = np.flatnonzero(open_)
            row = int(rows[gain[rows].argmax()])
            spread.add(row)
        chosen.append(ranking.candidates.ids[row])
        open_[row] = False
        formula = ranking.candidates.formulas[row]
        taken[formula] += 1
        if taken[formula] >= config.max_per_formula:
            open_ &= formulas != formula
    return chosen


def explore(
    ranking: Ranking, n: int, chosen: Sequence[str], config: AcquisitionConfig, seed: int
) -> list[str]:
    """Return the ids of `n` further candidates drawn at random, beside those that were `chosen`.

    Args:
        ranking: Candidates that may have a label.
        n: Labels wanted.
        chosen: Ids of the batch so far; both together keep to `max_per_formula`.
        config: Acquisition.
        seed: Of this round's choice; a candidate's lot depends on it and on the candidate's id alone.
    """
    candidates = ranking.candidates
    formula_of = dict(zip(candidates.ids, candidates.formulas, strict=True))
    taken, found = Counter(formula_of[name] for name in chosen), list[str]()
    for name in sorted(
        set(candidates.ids) - set(chosen), key=lambda one: (derive_seed(seed, "explore", one), one)
    ):
        if len(found) == n:
            break
        if taken[formula_of[name]] < config.max_per_formula:
            found.append(name)
            taken[formula_of[name]] += 1
    return found


def _spread(ranking: Ranking, pending: Candidates | None, config: AcquisitionConfig) -> Spread | None:
    """Return what keeps a batch apart, told of all pending points; None where nothing does."""
    candidates = ranking.candidates
    if config.diversity == "none" or config.diversity_strength == 0 or not candidates.ids:
        return None
    groups: Sequence[Candidates] = [candidates] if pending is None else [candidates, pending]
    spread = SPREADS[config.diversity](
        np.concatenate([one.features for one in groups]),
        np.concatenate([one.mean for one in groups]),
        np.concatenate([one.std for one in groups]),
        ranking.stable_ev_per_atom,
    )
    for row in range(len(candidates.ids), sum(len(one.ids) for one in groups)):
        spread.add(row)
    return spread
