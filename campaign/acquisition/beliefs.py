"""What the models together say about candidates' e_above_hull [eV/atom], as arrays over candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

SURROGATE_PRIOR_EV_PER_ATOM = 0.06
"""Error of the surrogate before any label is known: CHGNet against DFT hulls, of the order of its reported MAE."""

PRIOR_LABELS = 4
"""Number of labels that the prior error counts for."""

MIN_STD_EV_PER_ATOM = 1e-4
"""Nobody is believed to be surer than this."""


@dataclass(frozen=True)
class Candidates:
    """Candidates about which something is believed, one row each; NaN where a model was not asked."""

    ids: tuple[str, ...]
    formulas: tuple[str, ...]
    mean: Array
    """(n,) mean of e_above_hull [eV/atom]."""
    std: Array
    """(n,) standard deviation of e_above_hull [eV/atom], above 0."""
    stable_probability: Array
    """(n,) what the discriminator says."""
    oracle: Array
    """(n,) true e_above_hull [eV/atom], known to benchmarks alone."""
    features: Array
    """(n, n_features) see `features.features`."""
    core_seconds: Array
    """(n,) expected cost of a label."""
    properties: Mapping[str, tuple[Array, Array]]
    """Property -> mean (n,) and standard deviation (n,) by the heads."""

    def take(self, rows: npt.NDArray[Any]) -> Candidates:
        """Return these rows, by number or by truth."""
        places = np.arange(len(self.ids))[rows]
        return replace(
            self,
            ids=tuple(self.ids[place] for place in places),
            formulas=tuple(self.formulas[place] for place in places),
            mean=self.mean[places],
            std=self.std[places],
            stable_probability=self.stable_probability[places],
            oracle=self.oracle[places],
            features=self.features[places],
            core_seconds=self.core_seconds[places],
            properties={name: (mean[places], std[places]) for name, (mean, std) in self.properties.items()},
        )


@dataclass(frozen=True)
class SurrogateErrors:
    """Root-mean-square errors of the surrogate's versions [eV/atom]."""

    others: float
    """Of a version of which no label is known: that of all the others together."""
    by_version: Mapping[str, float]

    def of(self, predictions: Sequence[Mapping[str, Any]]) -> Array:
        """Return the error (n,) of the version that relaxed each candidate."""
        versions = [str(one.get("surrogate_model") or "") for one in predictions]
        return np.array([self.by_version.get(version, self.others) for version in versions], dtype=np.float64)


def surrogate_errors(pairs: Sequence[tuple[str, float, float]]) -> SurrogateErrors:
    """Return the errors of versions from (version, predicted, DFT) e_above_hull [eV/atom] of labels.

    A label tells of the version that relaxed its candidate. What the other versions did is where a version begins.
    """
    told = [(predicted, found) for _, predicted, found in pairs]
    by_version = {}
    for version in {version for version, *_ in pairs}:
        own = [(predicted, found) for name, predicted, found in pairs if name == version]
        rest = [(predicted, found) for name, predicted, found in pairs if name != version]
        by_version[version] = surrogate_error(own, surrogate_error(rest))
    return SurrogateErrors(surrogate_error(told), by_version)


def surrogate_error(
    pairs: Sequence[tuple[float, float]], prior: float = SURROGATE_PRIOR_EV_PER_ATOM
) -> float:
    """Return the surrogate's root-mean-square error [eV/atom] from (predicted, DFT) e_above_hull of labels.

    The prior error counts like `PRIOR_LABELS` labels, so that two lucky labels do not make it look exact.
    """
    squares = sum((predicted - found) ** 2 for predicted, found in pairs)
    return math.sqrt((squares + PRIOR_LABELS * prior**2) / (len(pairs) + PRIOR_LABELS))


def combine(
    surrogate: Array, surrogate_std: float | Array, head_mean: Array, head_std: Array
) -> tuple[Array, Array]:
    """Return the precision-weighted mean of surrogate and head (independent Gaussian errors), and its std.

    Args:
        surrogate: (n,) e_above_hull by the surrogate [eV/atom], not finite where it is not known.
        surrogate_std: Its error [eV/atom], one for all or (n,).
        head_mean: (n,) mean by the head [eV/atom].
        head_std: (n,) standard deviation by the head [eV/atom].

    Returns:
        mean (n,) and std (n,), NaN where neither is known.
    """
    told, judged = np.isfinite(surrogate), np.isfinite(head_mean) & np.isfinite(head_std)
    by_surrogate = np.where(told, 1 / surrogate_std**2, 0.0)
    by_head = np.where(judged, 1 / np.fmax(head_std, MIN_STD_EV_PER_ATOM) ** 2, 0.0)
    weight = np.where(told | judged, by_surrogate + by_head, np.nan)
    total = by_surrogate * np.where(told, surrogate, 0.0) + by_head * np.where(judged, head_mean, 0.0)
    return total / weight, 1 / np.sqrt(weight)


def belief_of(
    predictions: Sequence[Mapping[str, Any]], surrogate_std: float | SurrogateErrors
) -> tuple[Array, Array]:
    """Return mean and std of e_above_hull [eV/atom] from candidates' predictions."""
    error = surrogate_std.of(predictions) if isinstance(surrogate_std, SurrogateErrors) else surrogate_std
    head_mean, head_std = mean_and_std(predictions, "head_e_above_hull")
    return combine(numbers(one.get("e_above_hull") for one in predictions), error, head_mean, head_std)


def mean_and_std(predictions: Sequence[Mapping[str, Any]], name: str) -> tuple[Array, Array]:
    """Return the columns mean (n,) and std (n,) of a prediction {mean, std}, NaN where it is missing."""
    found = [one.get(name) for one in predictions]
    pairs = [one if isinstance(one, Mapping) else {} for one in found]
    return numbers(one.get("mean") for one in pairs), numbers(one.get("std") for one in pairs)


def numbers(values: Iterable[Any]) -> Array:
    """Return values as a column, NaN for what is no number."""
    return np.array([one if isinstance(one, int | float) else math.nan for one in values], dtype=np.float64)
