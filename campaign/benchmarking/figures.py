"""What steering is worth: figures of discovery curves, with bootstrap confidence intervals. Pure.

A curve counts the stable crystals among the first n labels of a campaign; labels that failed count as labels. Means
and ratios are over seeds; an interval is the 95 % percentile interval of a bootstrap that draws seeds with replacement
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), the same draws for two variants that are
compared, which ran with the same seeds.

Enhancement and acceleration are those of Rohr et al., Chem. Sci. 11, 2696 (2020), doi 10.1039/C9SC05999G: how much
more is found than by random choice with equal effort, and how much less effort finds as much. There the figure of
merit is one of several; here it is the number of stable crystals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 2000
"""Bootstrap draws."""

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval; NaN where it cannot be told."""

    value: float
    low: float
    high: float

    def document(self) -> dict[str, float | None]:
        """Return it as JSON has it."""
        return {name: None if np.isnan(one) else float(one) for name, one in vars(self).items()}


def curves(flags: Sequence[Sequence[bool]], n_labels: int) -> Array:
    """Return (n_seeds, n_labels + 1) finds after each label, beginning with none.

    Args:
        flags: Of each campaign, whether each label was a find; a campaign that ended early finds nothing more.
        n_labels: The budget.
    """
    found = np.zeros((len(flags), n_labels + 1))
    for row, one in enumerate(flags):
        counted = np.cumsum(np.array(one[:n_labels], dtype=float))
        found[row, 1 : len(counted) + 1] = counted
        found[row, len(counted) + 1 :] = counted[-1] if len(counted) else 0.0
    return found


def draws(n_seeds: int) -> npt.NDArray[np.int64]:
    """Return (DRAWS, n_seeds) numbers of seeds, drawn with replacement; the same for all figures of a benchmark."""
    return np.random.default_rng(0).integers(n_seeds, size=(DRAWS, n_seeds))


def interval(figure: Callable[..., float], *samples: Array) -> Interval:
    """Return a figure of samples, whose rows belong to the same seeds, with its interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure(*samples))
        drawn = np.array([figure(*(one[rows] for one in samples)) for rows in draws(len(samples[0]))])
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < len(drawn) / 2:
        return Interval(value if np.isfinite(value) else np.nan, np.nan, np.nan)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def band(found: Array) -> tuple[Array, Array, Array]:
    """Return mean, lower and upper end (n_labels + 1,) of curves (n_seeds, n_labels + 1)."""
    means = np.stack([found[rows].mean(axis=0) for rows in draws(len(found))])
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return found.mean(axis=0), low, high


def finds(found: Array) -> float:
    """Return the mean number of finds at the budget."""
    return float(found[:, -1].mean())


def enhancement(found: Array, random: Array) -> float:
    """Return finds over random's finds at the budget."""
    return _ratio(finds(found), finds(random))


def acceleration(found: Array, random: Array) -> float:
    """Return the labels that random needs for what it finds at the budget, over those needed to find as many.

    The labels are where the mean curve first reaches that number, interpolated between two labels; NaN where it never
    does, or where random finds nothing.
    """
    budget, wanted, mean = found.shape[1] - 1, finds(random), found.mean(axis=0)
    if wanted <= 0:
        return float("nan")
    needed_by_random, needed = _labels_for(random.mean(axis=0), wanted), _labels_for(mean, wanted)
    if needed is None:
        return float("nan")
    return _ratio(needed_by_random if needed_by_random is not None else budget, needed)


def _labels_for(mean: Array, wanted: float) -> float | None:
    """Return after how many labels a rising curve reaches a number of finds."""
    reached = np.flatnonzero(mean >= wanted - 1e-12)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0 or mean[at] == mean[at - 1]:
        return float(at)
    return float(at - 1 + (wanted - mean[at - 1]) / (mean[at] - mean[at - 1]))


def area(found: Array) -> float:
    """Return the mean area under the curves [finds × labels]."""
    return float(np.trapezoid(found, axis=1).mean())


def area_of_ideal(n_labels: int, n_stable: float) -> float:
    """Return the area of one who labels the stable crystals first."""
    ideal = np.minimum(np.arange(n_labels + 1), n_stable).astype(float)
    return float(np.trapezoid(ideal))


def area_of_chance(n_labels: int, n_stable: float, n_pool: int) -> float:
    """Return the area that random choice has on average: n labels find n × stable / pool."""
    return n_stable / n_pool * n_labels**2 / 2


def variant_figures(
    stable: Mapping[str, Array], sun: Mapping[str, Array], baseline: str, pool: tuple[float, int] | None
) -> dict[str, dict[str, Any]]:
    """Return the figures of each variant.

    Args:
        stable: Variant -> curves of stable crystals (n_seeds, n_labels + 1), the same seeds in all.
        sun: The same of crystals that are stable, unique and novel.
        baseline: The variant that others are held against.
        pool: Stable crystals, on average, and all crystals that a campaign chooses from, where there is a pool.
    """
    random = stable[baseline]
    rows = {}
    for name, found in stable.items():
        n_labels = found.shape[1] - 1
        row = {
            "finds": interval(finds, found),
            "finds_per_label": interval(lambda one, n=n_labels: finds(one) / n, found),
            "enhancement": interval(enhancement, found, random),
            "acceleration": interval(acceleration, found, random),
            "area_over_baseline": interval(lambda one, other: _ratio(area(one), area(other)), found, random),
            "sun_per_label": interval(lambda one, n=n_labels: finds(one) / n, sun[name]),
        }
        if pool is not None:
            ideal, chance = area_of_ideal(n_labels, pool[0]), area_of_chance(n_labels, *pool)
            row["area_over_ideal"] = interval(lambda one, a=ideal: _ratio(area(one), a), found)
            row["area_chance_to_ideal"] = interval(
                lambda one, a=ideal, c=chance: _ratio(area(one) - c, a - c), found
            )
        rows[name] = {key: one.document() for key, one in row.items()}
    return rows


def paired(stable: Mapping[str, Array]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return variant -> other variant -> finds over the other's finds, with the same seeds drawn for both."""
    return {
        one: {
            other: interval(enhancement, stable[one], stable[other]).document()
            for other in stable
            if other != one
        }
        for one in stable
    }


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
