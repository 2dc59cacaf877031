"""From the spread of an ensemble to uncertainties that hold: a scale for each crystal, and quantiles of the errors.

The spread of a few networks says little, and errors have heavy tails. So the scale of an error is

    scale = sqrt(floor² + (slope · spread)²),

with floor and slope under which held-out errors are likeliest as Laplace's (Gauss's would follow the few largest),
and intervals are mean ± q(level) · scale, q being the split-conformal quantile of |error| / scale on held-out crystals
(Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, J. Am. Stat. Assoc. 113, 1094 (2018); Angelopoulos and Bates,
arXiv:2107.07511). Where some held-out crystals tell more about what will be asked than others, they weigh more (Barber,
Candès, Ramdas and Tibshirani, Ann. Stat. 51, 816 (2023)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from models.errors import OptionsError
from models.heads.held_out import Errors, HeldOut
from models.metrics import INTERVAL_LEVELS, normal_half_width

Array = npt.NDArray[np.float64]

LEVELS: Array = np.arange(1, 100) / 100.0
"""(99,) levels whose quantiles are kept."""

MIN_STD = 1e-6
"""Floor of standard deviations, in the unit of the property."""

FEWEST = 3
"""With fewer held-out crystals a calibration stays as it is."""

PRIOR_WEIGHT = 3.0
"""So many crystals' worth of Laplace's distribution are added, for where there are few."""


def normal_quantiles() -> Array:
    """Return (99,) the half-widths of a normal distribution's central intervals at `LEVELS`."""
    return np.array([normal_half_width(level) for level in LEVELS])


@dataclass(frozen=True)
class Calibration:
    """How a spread becomes an uncertainty, for one property."""

    floor: float = 0.0
    """Scale of the errors where the members agree, in the unit of the property."""
    slope: float = 1.0
    """Growth of the scale with the spread."""
    quantiles: Array = field(default_factory=normal_quantiles)
    """(99,) half-widths of the intervals at `LEVELS`, in scales."""

    def scale(self, spread: Array) -> Array:
        """Return the scales of the errors (n,) from spreads (n,), above 0."""
        return np.maximum(np.hypot(self.floor, self.slope * spread), MIN_STD)

    def half_width(self, spread: Array, level: float) -> Array:
        """Return half of the intervals' width (n,), in the unit of the property.

        Raises:
            OptionsError: The level is not above 0 and at most 0.99.
        """
        return self.scale(spread) * self.quantile(level)

    def quantile(self, level: float) -> float:
        """Return the half-width of an interval in scales; levels are rounded up to a hundredth."""
        if not 0.0 < level <= LEVELS[-1]:
            raise OptionsError("no interval has this level", value=level, allowed=f"above 0, to {LEVELS[-1]}")
        return float(self.quantiles[int(np.searchsorted(LEVELS, level - 1e-9))])

    def std(self, spread: Array) -> Array:
        """Return standard deviations (n,) whose normal distribution has the central 90 % that the errors have."""
        return np.maximum(self.half_width(spread, 0.9) / normal_half_width(0.9), MIN_STD)

    def state(self) -> dict[str, object]:
        """Return the calibration as a plain document, which `of` reads."""
        return {"floor": self.floor, "slope": self.slope, "quantiles": self.quantiles.tolist()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """Read what `state` gave.

        Raises:
            ValueError: It is no calibration.
        """
        floor, slope = float(state["floor"]), float(state["slope"])
        quantiles = np.array(state["quantiles"], dtype=np.float64)
        sound = (
            np.isfinite(quantiles).all() and (quantiles >= 0.0).all() and (np.diff(quantiles) >= 0.0).all()
        )
        if quantiles.shape != LEVELS.shape or not sound or not (0.0 <= min(floor, slope) < np.inf):
            raise ValueError("the calibration of the uncertainties is damaged")
        return cls(floor, slope, quantiles)


def fit_calibration(errors: Errors, start: Calibration) -> Calibration:
    """Choose scale and quantiles by held-out crystals.

    Args:
        errors: On held-out crystals.
        start: Given back where there are fewer than `FEWEST`.
    """
    if len(errors.error) < FEWEST or not errors.error.any():
        return start
    floor, slope = _likeliest_scale(errors)
    scale = Calibration(floor, slope).scale(errors.spread)
    return Calibration(floor, slope, _conformal_quantiles(np.abs(errors.error) / scale, errors.weight))


def fit_calibrations(held_out: HeldOut, start: Sequence[Calibration]) -> list[Calibration]:
    """Choose the calibration of every property; `start` as for `fit_calibration`."""
    return [fit_calibration(held_out.errors(place), one) for place, one in enumerate(start)]


def uncertainties(calibrations: Sequence[Calibration], spread: Array) -> tuple[Array, dict[float, Array]]:
    """Return standard deviations (n, n_properties), and by level half of the intervals' widths (n, n_properties)."""
    columns = list(zip(calibrations, spread.T, strict=True))
    std = np.column_stack([one.std(column) for one, column in columns])
    half_widths = {
        level: np.column_stack([one.half_width(column, level) for one, column in columns])
        for level in INTERVAL_LEVELS
    }
    return std, half_widths


def cross_fitted(
    held_out: HeldOut, start: Sequence[Calibration], judged: npt.NDArray[np.bool_]
) -> tuple[Array, dict[float, Array]]:
    """Return `uncertainties` of the crystals `judged` (n,), each by a calibration on the other half of the formulas.

    What is said of calibration with these holds for new crystals, which a calibration chosen on the same crystals
    would not allow.
    """
    std = np.zeros_like(held_out.mean)
    half_widths = {level: np.zeros_like(held_out.mean) for level in INTERVAL_LEVELS}
    for fold in (0, 1):
        own = held_out.fold == fold
        calibrations = fit_calibrations(held_out.take(~own), start)
        std[own], widths = uncertainties(calibrations, held_out.spread[own])
        for level, values in widths.items():
            half_widths[level][own] = values
    return std[judged], {level: values[judged] for level, values in half_widths.items()}


def _likeliest_scale(errors: Errors) -> tuple[float, float]:
    """Return floor and slope under which errors are likeliest as Laplace's, -log p = log(2 scale) + |error| / scale."""
    from scipy.optimize import minimize

    size, weight = np.abs(errors.error), errors.weight / errors.weight.sum()
    unit = float(weight @ size)  # of the errors, so that the optimiser's steps suit every property
    spread_unit = float(weight @ errors.spread) or 1.0

    def loss(logs: Array) -> float:
        scale = np.hypot(np.exp(logs[0]), np.exp(logs[1]) * errors.spread / spread_unit)
        return float(weight @ (np.log(scale) + size / (unit * scale)))

    starts = [np.array([-0.3, -0.3]), np.array([0.0, -3.0]), np.array([-3.0, 0.0])]
    bounds = [(-6.0, 3.0), (-6.0, 3.0)]
    found = min(
        (minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts),
        key=lambda one: float(one.fun),
    )
    floor, slope = np.exp(found.x) * unit
    return float(floor), float(slope / spread_unit)


def _conformal_quantiles(scores: Array, weight: Array) -> Array:
    """Return (99,) the smallest scores up to which `LEVELS` of the weight lie, with 1 beyond all for the next crystal.

    Where the weight is too small for a level, the largest score stands for it.
    """
    n_prior = 60
    # Laplace's |error| / scale is exponential; evenly spaced quantiles of it stand for its distribution.
    prior = -np.log(1.0 - (np.arange(n_prior) + 0.5) / n_prior)
    scores = np.concatenate([scores, prior])
    weight = np.concatenate([weight, np.full(n_prior, PRIOR_WEIGHT / n_prior)])
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(weight[order]) / (weight.sum() + 1.0)
    places = np.minimum(np.searchsorted(below, LEVELS - 1e-12), len(scores) - 1)
    return scores[order][places]


def read_calibrations(state: Mapping[str, Any], n_properties: int) -> list[Calibration]:
    """Read the calibrations of a checkpoint's state, one per property."""
    found = [Calibration.of(one) for one in state["calibrations"]]
    if len(found) != n_properties:
        raise ValueError("the calibrations do not fit the properties")
    return found
