"""How good predictions are, and whether a new model may take over from an old one.

A metric that cannot be computed from what is given (one value, one class, no spread) is left out of the
mapping that is returned; it is never NaN, so that figures can be stored and compared as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.errors import ModelsError, OptionsError

Metrics = dict[str, float]

LOWER_IS_BETTER = frozenset({"mae", "rmse", "nll", "log_loss", "brier", "calibration_error", "reliability"})
HIGHER_IS_BETTER = frozenset({"spearman", "auc", "f1", "precision", "recall", "accuracy"})
INTERVAL_LEVELS = (0.5, 0.68, 0.9, 0.95)
"""Levels whose coverage is reported."""


@dataclass(frozen=True)
class Verdict:
    """Whether a new model is promoted, and why."""

    passed: bool
    """True if the new model may be used."""
    metric: str
    """The metric that decided."""
    before: float | None
    """Its value for the model in use; None if there is none."""
    after: float | None
    """Its value for the new model; None if it could not be computed."""
    reason: str
    """One sentence with both figures."""


def gate(
    before: Mapping[str, float], after: Mapping[str, float], metric: str, tolerance: float = 0.0
) -> Verdict:
    """Decide on a promotion: only if the held-out figure does not get worse.

    Args:
        before: Metrics of the model in use, on the held-out crystals; empty if there is no model in use.
        after: Metrics of the new model on the same crystals.
        metric: A name of `LOWER_IS_BETTER` or `HIGHER_IS_BETTER`; in "property:metric" the part after the
            colon counts.
        tolerance: How much worse it may be, in the metric's own unit.

    Raises:
        OptionsError: The metric is unknown, or the tolerance is negative or not finite.
    """
    name = metric.rpartition(":")[2]
    if name not in LOWER_IS_BETTER | HIGHER_IS_BETTER:
        raise OptionsError(
            "a gate cannot judge by this metric",
            value=metric,
            allowed=sorted(LOWER_IS_BETTER | HIGHER_IS_BETTER),
        )
    if not (math.isfinite(tolerance) and tolerance >= 0.0):
        raise OptionsError("the gate's tolerance must be a number of at least 0", value=tolerance)
    old, new = _finite(before.get(metric)), _finite(after.get(metric))
    if new is None:
        return Verdict(False, metric, old, None, f"{metric} of the new model could not be computed")
    if old is None:
        return Verdict(True, metric, None, new, f"{metric} {new:.4g}; there was no figure to compare with")
    worse_by = new - old if name in LOWER_IS_BETTER else old - new
    passed = worse_by <= tolerance
    said = "does not get worse" if passed else "gets worse"
    reason = f"held-out {metric} {said}: {old:.4g} before, {new:.4g} after, tolerance {tolerance:.4g}"
    return Verdict(passed, metric, old, new, reason)


def mae(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Mean absolute error of (n,) values, in their unit."""
    truth, predicted = _pair(truth, predicted)
    return float(np.abs(truth - predicted).mean())


def rmse(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Root of the mean squared error of (n,) values, in their unit."""
    truth, predicted = _pair(truth, predicted)
    return float(np.sqrt(((truth - predicted) ** 2).mean()))


def spearman(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation of (n,) values; None if one of them does not vary."""
    from scipy.stats import rankdata

    truth, predicted = _pair(truth, predicted)
    if len(truth) < 2 or np.ptp(truth) == 0.0 or np.ptp(predicted) == 0.0:
        return None
    return float(np.corrcoef(rankdata(truth), rankdata(predicted))[0, 1])


def roc_auc(positive: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Args:
        positive: (n,) 1 or 0.
        score: (n,) any increasing measure of being positive.

    Returns:
        A number in [0, 1], or None if one class is missing.
    """
    from scipy.stats import rankdata

    positive, score = _pair(positive, score)
    is_positive = positive > 0.5
    n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    ranks = rankdata(score)  # the rank sum of the positives is Mann and Whitney's U
    above = ranks[is_positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def regression_metrics(
    truth: npt.ArrayLike,
    mean: npt.ArrayLike,
    std: npt.ArrayLike,
    half_widths: Mapping[float, npt.ArrayLike] | None = None,
) -> Metrics:
    """Judge predictions with uncertainties.

    Args:
        truth: (n,) true values; NaN where not known, which is left out.
        mean: (n,) predictions, in the same unit.
        std: (n,) predicted standard deviations, in the same unit.
        half_widths: Level -> (n,) half of the width of the interval about `mean`, for `INTERVAL_LEVELS`; those of a
            normal distribution where not given.

    Returns:
        `n`; `mae`, `rmse`, `mae_of_mean_predictor` (what predicting the mean of these values would give);
        `spearman`; `z_std` (standard deviation of (truth - mean) / std about 0, 1 if honest and normal);
        `coverage_50`, `coverage_68`, `coverage_90`, `coverage_95` (share of the truths within the intervals of these
        levels in per cent) and `width_90`, the mean width of those of 90 %; `nll`, the mean negative log-likelihood
        of a normal distribution.
    """
    truth, mean = _pair(truth, mean)
    std = np.asarray(std, dtype=float)
    widths = half_widths or {level: normal_half_width(level) * std for level in INTERVAL_LEVELS}
    known = np.isfinite(truth)
    truth, mean, std = truth[known], mean[known], std[known]
    found: Metrics = {"n": float(len(truth))}
    if len(truth) == 0:
        return found
    found["mae"] = mae(truth, mean)
    found["rmse"] = rmse(truth, mean)
    found["mae_of_mean_predictor"] = mae(truth, np.full(len(truth), truth.mean()))
    _add(found, "spearman", spearman(truth, mean))
    if (std > 0.0).all():
        z = (truth - mean) / std
        found["z_std"] = float(np.sqrt((z**2).mean()))
        found["nll"] = float((0.5 * z**2 + np.log(std) + 0.5 * math.log(2 * math.pi)).mean())
        for level in INTERVAL_LEVELS:
            half = np.asarray(widths[level], dtype=float)[known]
            found[f"coverage_{round(100 * level)}"] = float((np.abs(truth - mean) <= half).mean())
        found["width_90"] = float(2.0 * np.asarray(widths[0.9], dtype=float)[known].mean())
    return _only_finite(found)


def normal_half_width(level: float) -> float:
    """Return half the width of the central `level` of a normal distribution, in standard deviations."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2.0))


def classification_metrics(positive: npt.ArrayLike, probability: npt.ArrayLike, threshold: float) -> Metrics:
    """Judge probabilities of being positive.

    Args:
        positive: (n,) 1 or 0; NaN where not known, which is left out.
        probability: (n,) in [0, 1].
        threshold: Probabilities of at least this count as «positive».

    Returns:
        `n`, `threshold`, `base_rate` (share of positives), `mean_probability` (equal to it if honest), `auc`,
        `log_loss`, `brier`, `calibration_error` and `reliability` (see the functions of these names), `accuracy`, and
        at the threshold `precision`, `recall`, `f1`.
    """
    positive, probability = _pair(positive, probability)
    known = np.isfinite(positive)
    positive, probability = positive[known], probability[known]
    found: Metrics = {"n": float(len(positive)), "threshold": float(threshold)}
    if len(positive) == 0:
        return found
    is_positive, said = positive > 0.5, probability >= threshold
    hits = float((is_positive & said).sum())
    found["base_rate"] = float(is_positive.mean())
    found["mean_probability"] = float(probability.mean())
    _add(found, "auc", roc_auc(positive, probability))
    clipped = np.clip(probability, 1e-7, 1.0 - 1e-7)
    found["log_loss"] = float(-np.log(np.where(is_positive, clipped, 1.0 - clipped)).mean())
    found["brier"] = float(((probability - is_positive) ** 2).mean())
    found["calibration_error"] = calibration_error(positive, probability)
    found["reliability"] = reliability(positive, probability)
    found["accuracy"] = float((is_positive == said).mean())
    if said.any():
        found["precision"] = hits / float(said.sum())
    if is_positive.any():
        found["recall"] = hits / float(is_positive.sum())
        found["f1"] = 2 * hits / float(is_positive.sum() + said.sum())
    return _only_finite(found)


def best_threshold(positive: npt.ArrayLike, probability: npt.ArrayLike) -> float:
    """Return the threshold on (n,) probabilities with the best F1 for (n,) positives; 0.5 if there is none."""
    positive, probability = _pair(positive, probability)
    is_positive = positive > 0.5
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(is_positive[order])  # (n,) of the most probable ones
    ends = np.append(np.diff(probability[order]) < 0.0, True)  # equal ones are taken together
    f1 = np.where(ends, 2.0 * hits / (is_positive.sum() + np.arange(1, len(order) + 1)), -1.0)
    if not is_positive.any():
        return 0.5
    return float(np.clip(probability[order][int(f1.argmax())], 1e-6, 1.0 - 1e-6))


def calibration_error(positive: npt.ArrayLike, probability: npt.ArrayLike, n_bins: int = 10) -> float:
    """Expected calibration error: |mean probability - share of positives| over equal bins, by their size.

    Of n crystals it is of the order of 0.4 sqrt(bins in use / n) even for honest probabilities.
    """
    gap, _ = _gaps(positive, probability, n_bins)
    return float(np.abs(gap).sum())


def reliability(positive: npt.ArrayLike, probability: npt.ArrayLike, n_bins: int = 10) -> float:
    """Reliability, the part of Brier's score that calibration could remove (Murphy, J. Appl. Meteorol. 12, 595 (1973)).

    It is (mean probability - share of positives)² over equal bins, by their size.
    """
    gap, share = _gaps(positive, probability, n_bins)
    return float((gap[share > 0.0] ** 2 / share[share > 0.0]).sum())


def _gaps(
    positive: npt.ArrayLike, probability: npt.ArrayLike, n_bins: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return (mean probability - share of positives) · share of crystals, and the share of crystals, (n_bins,) each."""
    positive, probability = _pair(positive, probability)
    bins = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    gap = np.bincount(bins, weights=probability - positive, minlength=n_bins)
    return gap / len(positive), np.bincount(bins, minlength=n_bins) / len(positive)


def _pair(
    first: npt.ArrayLike, second: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1:
        raise ModelsError("a metric needs two rows of the same length", value=(a.shape, b.shape))
    return a, b


def _add(found: Metrics, name: str, value: float | None) -> None:
    if value is not None:
        found[name] = value


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _only_finite(found: Metrics) -> Metrics:
    return {name: value for name, value in found.items() if math.isfinite(value)}
