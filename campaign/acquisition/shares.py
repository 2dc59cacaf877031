"""How the samples of a round are shared between generators, by what each has yielded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betainc, betaincinv

N_QUANTILES = 2_000
"""Points of the integral over a generator's yield."""


@dataclass(frozen=True)
class Yielded:
    """What came of a generator's crystals in the rounds whose labels are known."""

    asked: int
    """Crystals asked of it: those that no screen let pass count as well."""
    stable: int
    """Labels that turned out stable, or nearly so."""


def adapted(yielded: Sequence[Yielded], floor: float) -> tuple[float, ...]:
    """Return the share of each generator: the chance that its yield is the highest, and at least a floor.

    Thompson sampling over Beta posteriors gives every crystal to the generator with the highest draw (Chapelle and Li,
    NeurIPS 2011, algorithm 2); for the many crystals of a round the shares are the probabilities of that themselves,

        P(g is best) = ∫ ∏_{h≠g} F_h(θ) f_g(θ) dθ = ∫_0^1 ∏_{h≠g} F_h(F_g⁻¹(u)) du,

    so that nothing is drawn and a round that opens twice opens with the same shares. The prior counts as one stable
    label at the yield of all generators together: yields of a per cent would vanish beside a uniform prior.

    Args:
        yielded: What is known of each generator.
        floor: Least share of each, at most one by their number.

    Returns:
        Shares with sum 1, rounded to six digits.
    """
    asked, stable = sum(one.asked for one in yielded), sum(one.stable for one in yielded)
    common = (stable + 1) / (asked + 2)
    a = np.array([1 + one.stable for one in yielded], dtype=np.float64)
    b = np.array([(1 - common) / common + one.asked - one.stable for one in yielded])
    u = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
    best = []
    for place in range(len(yielded)):
        theta = betaincinv(a[place], b[place], u)
        others = [betainc(a[h], b[h], theta) for h in range(len(yielded)) if h != place]
        best.append(float(np.prod(others, axis=0).mean()) if others else 1.0)
    total = sum(best)
    left = 1 - floor * len(yielded)
    return tuple(round(floor + left * one / total, 6) for one in best)
