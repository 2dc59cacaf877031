"""Acquisition policies: how much each candidate is worth a label.

Every policy is a function `(candidates, config, context) -> scores (n,)`, higher is better, from the believed
e_above_hull [eV/atom]. To add one, write the function and a line in `POLICIES`, and name it in `AcquisitionConfig`;
if its score is the logarithm of a positive gain, name it in `GAINS` too.

Gains are kept as logarithms: far from stability the gains themselves are zero in floating point and would rank nobody
(Ament et al., NeurIPS 2023). BoTorch has the same analytic formulas on GPyTorch posteriors; with Gaussian beliefs at
hand, a few lines on `scipy.special` do, and no further package is loaded by the driver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, expit, log_expit, log_ndtr, logit

from campaign.acquisition.beliefs import Array, Candidates
from campaign.acquisition.config import AcquisitionConfig
from campaign.acquisition.features import correlated_normals
from campaign.documents import derive_seed
from campaign.errors import ComponentError

MOST_CERTAIN = 1e-6
"""No discriminator is believed beyond this probability, nor beyond one minus it."""


@dataclass(frozen=True)
class ChoiceContext:
    """What a choice rests on beside candidates and configuration."""

    seed: int
    """Seed of this round's choice."""
    stable_ev_per_atom: float = 0.0
    """A label counts as stable when its e_above_hull is at most this [eV/atom]."""
    discriminated_ev_per_atom: float = 0.05
    """The discriminator's stable class reaches so far above the hull [eV/atom]."""


def greedy(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Array:
    """Score by the mean alone [eV/atom]."""
    return -candidates.mean


def ucb(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Array:
    """Score by the optimistic bound: kappa standard deviations below the mean [eV/atom]."""
    return -candidates.mean + config.kappa * candidates.std


def expected_improvement(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Array:
    """Score by the logarithm of the energy expected below the threshold of stability [eV/atom].

    EI = σ (z Φ(z) + φ(z)) with z = (threshold - mean) / σ (Jones, Schonlau and Welch, J. Glob. Optim. 13, 455
    (1998), equation 15), its logarithm as in Ament et al., NeurIPS 2023, equation 9. It improves on the threshold and
    not on the best label so far: many stable crystals are looked for, each on the hull of its own formula, and how
    deep one of them lies says nothing about the others.
    """
    z = (context.stable_ev_per_atom - candidates.mean) / candidates.std
    return np.log(candidates.std) + _log_h(z)


def probability_of_stability(
    candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext
) -> Array:
    """Score by the logarithm of the probability that e_above_hull is at most the threshold of stability.

    Where there is a discriminator, its say is about another event, A: e_above_hull at most its own threshold. The two
    probabilities of A, Gaussian and discriminator's, are pooled with equal weights in log-odds (the logarithmic opinion
    pool, Genest and Zidek, Stat. Sci. 1, 114 (1986)), and the Gaussian is conditioned on the pooled probability
    (Jeffrey's rule): P = P(stable | A) p(A) + P(stable | not A) (1 - p(A)).
    """
    stable = log_ndtr((context.stable_ev_per_atom - candidates.mean) / candidates.std)
    z = (context.discriminated_ev_per_atom - candidates.mean) / candidates.std
    within, beyond = log_ndtr(z), log_ndtr(-z)
    said = np.clip(candidates.stable_probability, MOST_CERTAIN, 1 - MOST_CERTAIN)
    odds = (within - beyond + logit(said)) / 2
    if context.stable_ev_per_atom <= context.discriminated_ev_per_atom:
        pooled = stable - within + log_expit(odds)
    else:
        share = np.exp(np.minimum(0.0, _log_difference(stable, within) - beyond))
        pooled = np.log(expit(odds) + share * expit(-odds))
    found: Array = np.where(np.isfinite(candidates.stable_probability), pooled, stable)
    return np.minimum(found, 0.0)  # rounding may carry it beyond certainty


def thompson(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Array:
    """Score by one draw from the belief [eV/atom]: the chance of being chosen is the chance of being best.

    Errors of the models are alike for crystals that are alike, and so are the draws (`features.correlated_normals`);
    each depends on the seed of the round, the candidate's id and its features alone.
    """
    draws = correlated_normals(candidates.features, candidates.ids, context.seed)
    return -(candidates.mean + candidates.std * draws)


def random(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Array:
    """Score by a hash of seed and id: random, but the same whatever the order of arrival."""
    return np.array([derive_seed(context.seed, "random", name) / 2**32 for name in candidates.ids])


def oracle(candidates: Candidates, config: AcquisitionConfig, context: ChoiceContext) -> Array:
    """Score by the true e_above_hull [eV/atom], the most that any policy could reach; for benchmarks alone.

    Raises:
        ComponentError: A candidate's truth is not known.
    """
    unknown = ~np.isfinite(candidates.oracle)
    if unknown.any():
        raise ComponentError(
            "the policy oracle needs the truth of every candidate in predictions.oracle",
            value=candidates.ids[int(unknown.argmax())],
            cure="choose another policy, or write the truth with a screen of your own",
        )
    return -candidates.oracle


POLICIES: dict[str, Callable[[Candidates, AcquisitionConfig, ChoiceContext], Array]] = {
    "greedy": greedy,
    "ucb": ucb,
    "expected_improvement": expected_improvement,
    "probability_of_stability": probability_of_stability,
    "thompson": thompson,
    "random": random,
    "oracle": oracle,
}


def log_probability_between(mean: Array, std: Array, low: float | None, high: float | None) -> Array:
    """Return the logarithm of a Gaussian's probability (n,) between two values; None is infinity."""
    below = np.full(len(mean), -np.inf) if low is None else (low - mean) / std
    above = np.full(len(mean), np.inf) if high is None else (high - mean) / std
    # In the upper tail both probabilities are 1 in floating point: look from the other side there.
    turned = below > 0
    left, right = np.where(turned, -above, below), np.where(turned, -below, above)
    return _log_difference(log_ndtr(right), log_ndtr(left))


def _log_difference(larger: Array, smaller: Array) -> Array:
    """Return log(exp(larger) - exp(smaller))."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(np.isneginf(larger), -np.inf, larger + np.log1p(-np.exp(smaller - larger)))
    return found


def _log_h(z: Array) -> Array:
    """Return log(φ(z) + z Φ(z)) without loss far below zero.

    φ(z) + z Φ(z) = φ(z) (1 - t) with t = |z| Φ(z) / φ(z) = |z| sqrt(π/2) erfcx(|z| / sqrt(2)) for negative z; where t
    is 1 but for rounding, 1 - t = z⁻² - 3 z⁻⁴ + ...
    """
    density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        near = np.log(np.exp(density) + z * np.exp(log_ndtr(z)))
        t = np.abs(z) * math.sqrt(math.pi / 2) * erfcx(np.abs(z) / math.sqrt(2))
        below = density + np.log1p(-t)
        far = density - 2 * np.log(np.abs(z)) + np.log1p(-3 / z**2)
    return np.where(z > -1, near, np.where(z > -1e3, below, far))
