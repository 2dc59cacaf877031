"""Are the labels of a round what they claim to be? They are held against what was believed before they were computed.

A round of labels whose energies are shifted by a constant, or swapped among its crystals, looks consistent with itself:
held-out labels of the same round are as wrong as the others. What knows better are the beliefs of the models, which
rest on labels that were trusted before. So a round's residuals r = computed - believed e_above_hull [eV/atom] are held
against those of the rounds before it:

- `high`, `low`: their median lies further from what is usual than rounds differ and than it is uncertain itself.
- `scattered`: their spread about it is larger than the models' standard deviations announced, and than what is usual.

Models that are just bad raise no alarm, as far as they say so: residuals of both signs widen the uncertainty of the
median, and large standard deviations make large residuals ordinary. The first labels of a campaign have nothing behind
them but the reference, which may be of another code or functional: they are trusted, at most with a warning.

What an alarm does, and what ends it, is said in `campaign.quarantine`. How often honest labels raise one, and how often
shifted or swapped ones do, is measured by `python tests/benchmarks/label_alarms.py`. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom
from scipy.stats import t as student

Array = npt.NDArray[np.float64]

FEWEST, FEWEST_SCATTERED = 3, 5
"""Labels of a round that a judgement of their shift needs, and one of their spread."""

SMALLEST_EV_PER_ATOM = 0.1
"""A shift or a spread below this harms nobody much: no alarm, however certain."""

SHIFT_ERRORS = 4.0
"""Standard errors from the usual shift that make an alarm."""

ROUNDS_EV_PER_ATOM = 0.1
"""How much the shifts of rounds differ, before any is known."""

PRIOR_ROUNDS = 2
"""Rounds that this counts for."""

SCATTER_RATIO = 4.0
"""The residuals' spread must exceed the usual one by this factor ..."""

SCATTER_CHANCE = 3e-4
"""... and be less probable than this under Student's t with `TAILS` degrees of freedom."""

TAILS = 4
"""Errors of models have heavier tails than a normal distribution."""

PRIOR_SCALE, PRIOR_LABELS = 1.5, 6
"""Errors in units of the standard deviations believed, before any is known; labels that this counts for."""

SMALLEST_STD_EV_PER_ATOM = 0.02
"""Nobody is believed to be surer than this about a label."""

MEMORY = 5
"""Trusted rounds that say what is usual, the last ones: models improve."""

_NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

_MEDIAN = math.sqrt(math.pi / 2)
"""Standard error of a median in units of that of a mean."""


@dataclass(frozen=True)
class Inspection:
    """What the labels of one round say against what was believed of them; energies in eV/atom."""

    n: int
    """Labels with a belief."""
    shift: float = 0.0
    """Median residual."""
    error: float = 0.0
    """Its standard error."""
    expected: float = 0.0
    """Usual shift."""
    allowed: float = 0.0
    """Distance from it that makes an alarm."""
    size: float = 0.0
    """Median distance of the residuals from their own median."""
    scale: float = 1.0
    """The residuals' spread about it, in standard deviations believed."""
    usual_scale: float = 1.0
    """The same of the rounds trusted before."""
    alarm: str = ""
    """`high`, `low`, `scattered`, or empty."""
    first: bool = False
    """Nothing was trusted before: an alarm is a warning."""

    @property
    def suspect(self) -> bool:
        """Whether the labels go into quarantine."""
        return bool(self.alarm) and not self.first

    def document(self) -> dict[str, Any]:
        """Return it as the round's document keeps it."""
        return asdict(self) | {"suspect": self.suspect, "message": self.message()}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Inspection:
        """Return what a round's document keeps."""
        return cls(**{one.name: document[one.name] for one in fields(cls)})

    def message(self) -> str:
        """Say what was found, and how large it is."""
        if self.n < FEWEST:
            return f"{self.n} labels with a belief are too few to judge"
        if self.alarm == "scattered":
            return (
                f"scatter by {_NORMAL * self.size:.2f} eV/atom about what the promoted models believed: "
                f"{self.scale:.1f} of their standard deviations; expected {self.usual_scale:.1f}"
            )
        where = "above" if self.shift >= 0 else "below"
        usual = round(self.expected, 2) + 0.0  # no minus before a zero
        return (
            f"lie {abs(self.shift):.2f} ± {self.error:.2f} eV/atom {where} what the promoted models believed; "
            f"expected {usual if self.shift >= 0 else -usual + 0.0:.2f}"
        )


def inspect(believed: Array, std: Array, found: Array, earlier: Sequence[Inspection]) -> Inspection:
    """Hold the labels of a round against what was believed of them, and against the rounds trusted before.

    Args:
        believed: (n,) mean of e_above_hull when the labels were chosen [eV/atom].
        std: (n,) its standard deviation [eV/atom].
        found: (n,) computed [eV/atom].
        earlier: Inspections of the rounds that are trusted, in order.
    """
    n, residuals = len(found), found - believed
    known = [one for one in earlier if one.n >= FEWEST][-MEMORY:]
    if n < FEWEST:
        return Inspection(n, first=not known)
    expected, between = _usual_shift(known)
    usual_scale = _usual_scale(known)
    announced = np.hypot(std, SMALLEST_STD_EV_PER_ATOM)
    shift = float(np.median(residuals))
    # Of an odd number one is the median itself: it says nothing of their spread.
    apart = np.argsort(np.abs(residuals - shift), kind="stable")[n % 2 :]
    off, announced = np.abs(residuals - shift)[apart], announced[apart]
    size, scale = float(np.median(off)), _NORMAL * float(np.median(off / announced))
    error = _MEDIAN * max(_NORMAL * size, usual_scale * float(np.median(announced))) / math.sqrt(n)
    allowed = max(SMALLEST_EV_PER_ATOM, SHIFT_ERRORS * math.hypot(between, error))
    alarm = ""
    if abs(shift - expected) > allowed:
        alarm = "high" if shift > expected else "low"
    elif (
        size > SMALLEST_EV_PER_ATOM
        and n >= FEWEST_SCATTERED
        and scale > SCATTER_RATIO * usual_scale
        and _chance(off / announced / usual_scale) < SCATTER_CHANCE
    ):
        alarm = "scattered"
    return Inspection(n, shift, error, expected, allowed, size, scale, usual_scale, alarm, first=not known)


def _usual_shift(known: Sequence[Inspection]) -> tuple[float, float]:
    """Return the shift to expect and the standard deviation of rounds about it; nobody's is one round without shift."""
    shifts = np.array([0.0, *(one.shift for one in known)])
    expected = float(shifts.mean())
    squares = float(((shifts - expected) ** 2).sum()) + PRIOR_ROUNDS * ROUNDS_EV_PER_ATOM**2
    return expected, math.sqrt(squares / (len(known) + PRIOR_ROUNDS))


def _usual_scale(known: Sequence[Inspection]) -> float:
    """Return the typical size of residuals in standard deviations believed: a geometric mean over labels."""
    labels = PRIOR_LABELS + sum(one.n for one in known)
    total = PRIOR_LABELS * math.log(PRIOR_SCALE)
    total += sum(one.n * math.log(max(one.scale, 0.1)) for one in known)
    return math.exp(total / labels)


def _chance(in_scales: Array) -> float:
    """Return how probable it is that half of such residuals are as large as half of these are."""
    n = len(in_scales)
    single = 2 * float(student.sf(float(np.median(in_scales)), TAILS))
    return float(binom.sf((n + 1) // 2 - 1, n, single))
