"""How long tasks are expected to take, learned from those that have ended. Pure: no clock, no store.

The time t of a task of one kind grows as a power of its size n (atoms for a label's jobs, crystals otherwise), with a
spread that is a factor, not a number of seconds:

    ln t = a + b ln n + s z,    z normal

a and b are those of least squares, drawn towards the kind's prior as by Bayes' rule with normal priors; s likewise
begins at a prior value. What is expected is the 90 % quantile: a task that is given too little time is cut, one that
is given too much only waits for another block.

A task that was cut at t says that it takes longer. Such a one stands in with the mean of what the fit says of times
above t, until fit and means agree: the expectation-maximisation of a censored regression (A. P. Dempster et al.,
J. R. Stat. Soc. B 39, 1 (1977); J. Tobin, Econometrica 26, 24 (1958)).

Sums are all that is kept of the past, so that it fits into a document, and the order of tasks does not matter. A
relaxation that goes on from its last geometry is expected to take as long as a whole one: how much of it is left
nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

QUANTILE_Z = 1.2816
"""Of the normal distribution, 90 %."""
PRIOR_SPREAD = 0.5
"""Of the logarithm of times of tasks of one kind and size: a factor of 1.6."""
SPREAD_WEIGHT = 2.0
"""How many tasks the prior spread counts for."""
PRIOR_ERROR = 1.5
"""Of the logarithm of a prior time: a factor of 4.5."""
EXPONENT_ERROR = 0.5
"""Of a prior exponent."""
ROUNDS = 30
"""Of fit and means; they settle to better than a per cent."""
CUT_STEP = 0.05
"""Times of cut tasks are kept to this in their logarithm: equal ones are counted, not listed."""
LEAST_S = 1e-3
"""Less time than this is none [s]."""


@dataclass(frozen=True)
class Prior:
    """What is expected of a kind of task before any has ended."""

    seconds: float
    """Median time of one task [s] ..."""
    size: float = 1.0
    """... of this size."""
    exponent: float = 1.0
    """Power of the size that times grow with."""


@dataclass(frozen=True)
class Observation:
    """How long a task took, or that it took longer."""

    kind: str
    size: float
    seconds: float
    whole: bool = True
    """False where it was cut."""


@dataclass(frozen=True)
class _Sums:
    """Sums over tasks, x the logarithm of the size and y that of the time."""

    n: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def plus(self, x: float, y: float, variance: float = 0.0, weight: float = 1.0) -> _Sums:
        return _Sums(
            self.n + weight,
            self.x + weight * x,
            self.y + weight * y,
            self.xx + weight * x * x,
            self.xy + weight * x * y,
            self.yy + weight * (y * y + variance),
        )


@dataclass
class _Past:
    """What is known of one kind."""

    sums: _Sums = field(default_factory=_Sums)
    cuts: dict[tuple[float, int], int] = field(default_factory=dict)
    """(size, step of the logarithm of the time) -> number of tasks that were cut there."""
    line: _Line | None = None
    """Fit to all this; None where something came since."""


@dataclass(frozen=True)
class _Line:
    """A fit: at the logarithm x of a size the logarithm of the time is y + slope (x - centre)."""

    centre: float
    y: float
    slope: float
    spread: float
    n: float

    def at(self, x: float) -> float:
        return self.y + self.slope * (x - self.centre)

    def quantile(self, x: float) -> float:
        # the fit's own error is put in as that of a mean: a term that grew away from the data would let a smaller
        # task seem longer than a larger one
        error = self.spread**2 / (self.n + self.spread**2 / PRIOR_ERROR**2)
        return self.at(x) + QUANTILE_Z * math.sqrt(self.spread**2 + error)


class Durations:
    """What each kind of task is expected to take.

    Args:
        priors: Kind -> what is expected before any has ended. A kind `a/b/c` without a prior has that of `a/b`, or
            of `a`, or the one of the empty name.
    """

    def __init__(self, priors: Mapping[str, Prior]) -> None:
        self._priors = dict(priors)
        self._pasts: dict[str, _Past] = {}

    def learn(self, one: Observation) -> None:
        """Take a task in that has ended."""
        past = self._pasts.setdefault(one.kind, _Past())
        x, y = math.log(max(1.0, one.size)), math.log(max(LEAST_S, one.seconds))
        past.line = None
        if one.whole:
            past.sums = past.sums.plus(x, y)
        else:
            bin_ = (max(1.0, one.size), math.floor(y / CUT_STEP))
            past.cuts[bin_] = past.cuts.get(bin_, 0) + 1

    def expected_s(self, kind: str, size: float) -> float:
        """Return the time within which nine of ten tasks of a kind and size should end [s]."""
        return _seconds(self._line(kind).quantile(math.log(max(1.0, size))))

    def median_s(self, kind: str, size: float) -> float:
        """Return the time within which every other task of a kind and size should end [s]."""
        return _seconds(self._line(kind).at(math.log(max(1.0, size))))

    def _line(self, kind: str) -> _Line:
        past = self._pasts.get(kind) or _Past()
        if past.line is None:
            past.line = _fit(past, self.prior(kind))
        return past.line

    def prior(self, kind: str) -> Prior:
        """Return the prior of a kind."""
        name = kind
        while name not in self._priors and name:
            name = name.rpartition("/")[0]
        return self._priors.get(name) or Prior(3600.0)

    def document(self, kinds: Iterable[str]) -> dict[str, Any]:
        """Return what is known of some kinds as a plain document."""
        wanted = set(kinds)
        return {
            kind: {
                "sums": [past.sums.n, past.sums.x, past.sums.y, past.sums.xx, past.sums.xy, past.sums.yy],
                "cuts": [[size, step, count] for (size, step), count in sorted(past.cuts.items())],
            }
            for kind, past in self._pasts.items()
            if kind in wanted
        }

    def read(self, document: Mapping[str, Any]) -> None:
        """Take in what `document` gave, in place of what was known of its kinds."""
        for kind, one in document.items():
            cuts = {(float(size), int(step)): int(count) for size, step, count in one["cuts"]}
            self._pasts[kind] = _Past(_Sums(*map(float, one["sums"])), cuts)

    def kinds(self) -> list[str]:
        """Return the kinds that something is known of."""
        return list(self._pasts)


def _seconds(logarithm: float) -> float:
    # exp() overflows beyond 709; nothing takes longer than a century
    return min(math.exp(min(700.0, logarithm)), 3.2e9)


def _fit(past: _Past, prior: Prior) -> _Line:
    line = _least_squares(past.sums, prior)
    for _ in range(ROUNDS if past.cuts else 0):
        sums = past.sums
        for (size, step), count in sorted(past.cuts.items()):
            x = math.log(size)
            mean, variance = _above(CUT_STEP * step, line.at(x), line.spread)
            sums = sums.plus(x, mean, variance, count)
        line = _least_squares(sums, prior)
    return line


def _least_squares(sums: _Sums, prior: Prior) -> _Line:
    """Return the line through tasks, drawn towards the prior; no larger task is expected to take less time."""
    guess = math.log(max(LEAST_S, prior.seconds))
    # the prior counts as this many tasks at its own size, and holds the exponent as this sum of squares would
    weight = (PRIOR_SPREAD / PRIOR_ERROR) ** 2
    stiffness = (PRIOR_SPREAD / EXPONENT_ERROR) ** 2
    all_ = sums.plus(math.log(max(1.0, prior.size)), guess, weight=weight)
    x, y = all_.x / all_.n, all_.y / all_.n
    xx = max(0.0, all_.xx - all_.n * x * x) + stiffness
    xy = all_.xy - all_.n * x * y + stiffness * prior.exponent
    slope = max(0.0, xy / xx)
    # squares of what the tasks alone miss the line by: a prior that was far off must not look like spread
    a = y - slope * x
    squares = sums.yy - 2 * a * sums.y - 2 * slope * sums.xy
    squares += sums.n * a * a + 2 * a * slope * sums.x + slope * slope * sums.xx
    variance = SPREAD_WEIGHT * PRIOR_SPREAD**2 + max(0.0, squares)
    return _Line(x, y, slope, math.sqrt(variance / (SPREAD_WEIGHT + sums.n)), sums.n)


def _above(bound: float, mean: float, spread: float) -> tuple[float, float]:
    """Return mean and variance of a normal distribution above a bound."""
    z = (bound - mean) / spread
    if z > 30.0:  # where density and tail both vanish, their ratio is z
        return bound, 0.0
    tail = 0.5 * math.erfc(z / math.sqrt(2.0))
    hazard = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi) / tail
    return mean + spread * hazard, spread**2 * max(0.0, 1.0 + z * hazard - hazard**2)
