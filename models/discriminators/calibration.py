"""From a network's scores to log-odds that mean what they say: a temperature and a shift.

Platt's scaling: logit' = logit / T + b, with T and b chosen on held-out crystals by maximum likelihood. T = 1
and the shift that undoes the class weights are the prior, so that few crystals move them little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRIOR_WIDTH_LOG_TEMPERATURE = 1.0
"""Standard deviation of log T about 0, before any crystal is seen."""

PRIOR_WIDTH_SHIFT = 1.0
"""Standard deviation of b about its start, before any crystal is seen."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How scores become log-odds."""

    temperature: float = 1.0
    """Above 0; above 1 the scores were too sure."""
    shift: float = 0.0
    """Added log-odds."""

    def apply(self, scores: FloatArray) -> FloatArray:
        """Return (n,) log-odds from (n,) scores; the order stays."""
        return scores / self.temperature + self.shift


def fit_calibration(scores: FloatArray, positive: FloatArray, start: Calibration) -> Calibration:
    """Choose temperature and shift.

    Args:
        scores: (n,) of held-out crystals.
        positive: (n,) 1 or 0.
        start: What is believed without held-out crystals; returned as it is if there are none.
    """
    from scipy.optimize import minimize

    if len(scores) == 0:
        return start
    sign = np.where(positive > 0.5, 1.0, -1.0)

    def loss(parameters: FloatArray) -> float:
        log_temperature, shift = parameters
        log_odds = scores * np.exp(-log_temperature) + shift
        likelihood = float(np.logaddexp(0.0, -sign * log_odds).sum())
        prior = (log_temperature - np.log(start.temperature)) ** 2 / PRIOR_WIDTH_LOG_TEMPERATURE**2
        prior += (shift - start.shift) ** 2 / PRIOR_WIDTH_SHIFT**2
        return likelihood + 0.5 * float(prior)

    x0 = np.array([np.log(start.temperature), start.shift])
    log_temperature, shift = minimize(loss, x0, method="L-BFGS-B", bounds=[(-3.0, 3.0), (None, None)]).x
    return Calibration(temperature=float(np.exp(log_temperature)), shift=float(shift))


def fit_calibrations(
    scores: Sequence[FloatArray], positive: Sequence[FloatArray], start: Calibration
) -> Calibration:
    """Choose temperature and shift by several sets, what one asks for being the start for the next; see above."""
    for some, classes in zip(scores, positive, strict=True):
        start = fit_calibration(some, classes, start)
    return start


def probability_from(log_odds: FloatArray) -> FloatArray:
    """Return the logistic function of (n,) log-odds, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * log_odds))
