"""What labels say beyond a head that was trained before them: a Gaussian process on its errors.

A few dozen labels cannot move a network far without harm; they can tell where it errs, and by how much. The errors
r = label - prediction at points x (features of the head) are a Gaussian process (Rasmussen and Williams, Gaussian
Processes for Machine Learning, 2006, chapter 2) with the covariance

    α² σ² (F² exp(-|x - x'|² / 2 l²) + C²),   and noise of variance α² σ² N²,

in units of the head's own held-out error σ: a part that is alike for crystals that are alike, a part common to all
that a campaign makes, and what no neighbour tells. The amplitude α² has an inverse gamma prior about 1 worth
`PRIOR_LABELS` labels, and its most probable value; the length l is the one of `LENGTHS` under which the errors are
most probable (equation 5.8, with α integrated out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LENGTHS = (0.35, 0.5, 0.7, 1.0)
"""l, where the features of unlike crystals are about 2 apart."""
LOCAL = 2.5
"""F"""
COMMON = 2.0
"""C"""
NOISE = 1.0
"""N"""
PRIOR_LABELS = 10.0
"""The prior of the amplitude is worth so many labels."""
MOST_SIGMAS = 10.0
"""Larger errors are cut off at so many σ: a label that is wrong by electronvolts tells nothing of its neighbours."""


@dataclass(frozen=True)
class ResidualProcess:
    """A Gaussian process on the errors of one property."""

    points: Array
    """(n_labels, n_features)"""
    residuals: Array
    """(n_labels,) label - prediction, in the property's unit."""
    sigma: float
    """The head's held-out error, in the property's unit."""
    length: float
    amplitude: float
    """α"""
    factor: Array
    """(n_labels, n_labels) lower Cholesky factor of the covariance of the labels in units of α² σ²."""
    weights: Array
    """(n_labels,) that the covariances with the labels are multiplied with."""

    @classmethod
    def fit(cls, points: Array, residuals: Array, sigma: float) -> Self:
        """Choose length and amplitude by the labels.

        Args:
            points: (n_labels, n_features), at least one row.
            residuals: (n_labels,) label - prediction.
            sigma: The head's held-out error, above 0.
        """
        squares = _square_distances(points, points)
        errors = np.clip(residuals / sigma, -MOST_SIGMAS, MOST_SIGMAS)
        found = [_solved(squares, errors, length) for length in LENGTHS]
        place = int(np.argmax([evidence for evidence, *_ in found]))
        _, amplitude, factor, weights = found[place]
        return cls(points, residuals, sigma, LENGTHS[place], amplitude, factor, weights)

    def correct(self, points: Array) -> tuple[Array, Array]:
        """Return the expected error and the standard deviation of a new label about it, both (n_points,)."""
        from scipy.linalg import solve_triangular

        across = _covariance(_square_distances(points, self.points), self.length)  # (n_points, n_labels)
        known = solve_triangular(self.factor, across.T, lower=True)  # (n_labels, n_points)
        left = np.maximum(LOCAL**2 + COMMON**2 - (known**2).sum(axis=0), 0.0) + NOISE**2
        return self.sigma * (across @ self.weights), self.amplitude * self.sigma * np.sqrt(left)


def _solved(squares: Array, errors: Array, length: float) -> tuple[float, float, Array, Array]:
    """Return evidence, amplitude, Cholesky factor and weights for one length; errors in units of σ."""
    from scipy.linalg import cho_solve, cholesky

    n = len(errors)
    factor = cholesky(_covariance(squares, length) + NOISE**2 * np.eye(n), lower=True)
    weights = cho_solve((factor, True), errors)
    summed = PRIOR_LABELS + float(errors @ weights)
    evidence = -0.5 * (n + PRIOR_LABELS) * np.log(summed) - np.log(np.diag(factor)).sum()
    return float(evidence), float(np.sqrt(summed / (n + PRIOR_LABELS))), factor, weights


def _covariance(squares: Array, length: float) -> Array:
    found: Array = LOCAL**2 * np.exp(-squares / (2.0 * length**2)) + COMMON**2
    return found


def _square_distances(one: Array, other: Array) -> Array:
    """Return (n_one, n_other)."""
    found: Array = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2.0 * one @ other.T
    return np.maximum(found, 0.0)
