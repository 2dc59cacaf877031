"""Whether a new version of a model may take over from its parent. Pure: figures in, a verdict out.

Heads and discriminators are compared crystal by crystal on groups that neither has been trained on: reference crystals,
labels that the parent knew of, and new labels. What counts is the mean paired difference of the errors and its standard
error, never a mean over groups: a version that learned a new chemistry must not pay for it with an old one, and labels
that contradict what was trusted before are found out by it.

- A group is `worse` when the error rose by more than the tolerance and `CLEARLY` standard errors, `better` when it fell
  by as much, else `level`: a few held-out labels neither promote nor refuse by chance.
- A version is refused when any group is worse, or when the groups together, each weighing the same, are worse by more
  than the tolerance and one standard error, with the new labels or without: many small steps down would else add up.
- Otherwise it is promoted: it has seen more.

A generator has no error. Its samples must not lose variety, novelty or number, see `judge_generator`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from scipy.stats import t as student

Array = npt.NDArray[np.float64]

CLEARLY = 2.0
"""Standard errors beyond which a group's change is no chance."""

FEWEST = 2
"""Crystals of a group that a standard error needs."""

NEW = "new_labels"
"""Group of the labels that the parent had not seen."""

LARGEST_DROP = 0.25
"""Part of its parent's share of samples that a generator may lose, beyond two standard errors of a count."""

LARGEST_NARROWING = 0.5
"""Part of its parent's effective number of formulas or space groups that a generator may lose."""

SHARES = ("returned", "distinct", "novel", "unlabelled")
"""What is counted among the crystals asked of a generator: how many came back; how many of these are different from
each other; how many of those are not in the reference; how many have no label yet."""

VARIETY = ("formulas", "spacegroups")
"""Of what a generator must make different ones: effective numbers (`effective_number`)."""


@dataclass(frozen=True)
class Verdict:
    """Whether a version is promoted, and the figures that decided."""

    promoted: bool
    reason: str
    """One sentence with the figures."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Group, or property of samples -> what was found."""
    conflict: bool = False
    """New labels are predicted better, and what was trusted before worse: they contradict each other."""


def judge(groups: Mapping[str, tuple[Array, Array]], what: str, tolerance: float) -> Verdict:
    """Hold a version against its parent.

    Args:
        groups: Name -> errors of parent and version (n,) on the same held-out crystals, in the same order.
        what: What the errors are, such as `mae`.
        tolerance: Part of the parent's mean error by which a group may get worse.
    """
    figures = {
        name: _compared(before, after, tolerance)
        for name, (before, after) in groups.items()
        if len(before) >= FEWEST
    }
    if not figures:
        n = sum(len(before) for before, _ in groups.values())
        return Verdict(False, f"cannot be judged: {n} held-out crystals, and no group has {FEWEST}")
    worse = [name for name, one in figures.items() if one["said"] == "worse"]
    trusted = {name: one for name, one in figures.items() if name != NEW}
    harm = _lost(trusted, tolerance)
    lost = harm or _lost(figures, tolerance)
    told = "; ".join(f"{name} {_told(one)}" for name, one in figures.items())
    if worse:
        said = f"{', '.join(worse)} got worse"
    elif lost:
        said = f"together worse by {lost}"
    else:
        said = "no group got worse"
    harmed = bool(harm) or any(name in trusted for name in worse)
    conflict = harmed and figures.get(NEW, {}).get("said") == "better"
    return Verdict(not (worse or lost), f"held-out {what}: {said}: {told}", figures, conflict)


def _lost(figures: Mapping[str, Mapping[str, Any]], tolerance: float) -> str:
    """Return by how much groups that weigh the same got worse together; '' if that may be chance, or is tolerated."""
    if not figures:
        return ""
    change = float(np.mean([one["change"] for one in figures.values()]))
    allowed = tolerance * float(np.mean([one["before"] for one in figures.values()]))
    error = math.sqrt(sum(one["error"] ** 2 for one in figures.values())) / len(figures)
    return f"{change:.3g} ± {error:.2g}" if change > allowed + error else ""


def judge_first(metrics: Mapping[str, float], what: str) -> str:
    """Return what can be said of a first version, which has no parent to be held against.

    Args:
        metrics: Of the held-out reference crystals; empty if there are none.
        what: The figure that later versions are judged by.
    """
    begin = "first version, fitted on the reference"
    if what not in metrics:
        return f"{begin}; it cannot be judged: no held-out crystal has a known answer"
    of = f" of {metrics['n']:.0f} crystals" if "n" in metrics else ""
    said = f"{begin}; held-out {what} {metrics[what]:.3g}{of}"
    plain = metrics.get("mae_of_mean_predictor") if what == "mae" else None
    if plain is not None:
        said += f", that of a constant {plain:.3g}"
        if metrics[what] >= plain:
            said += ": it has learned nothing yet"
    return said + "; no parent to hold it against"


def judge_generator(before: Mapping[str, float], after: Mapping[str, float], asked: int) -> Verdict:
    """Hold the samples of a fine-tuned generator against its parent's.

    Args:
        before: Counts of `SHARES` and effective numbers of `VARIETY`, of the parent's samples.
        after: The same of the fine-tuned one's, same seed.
        asked: Crystals asked of each.
    """
    figures: dict[str, Any] = {}
    for name in SHARES:
        least = (1 - LARGEST_DROP) * before[name] / asked
        least -= 2 * math.sqrt(least * (1 - least) / asked)
        figures[name] = {"before": before[name], "after": after[name], "least": math.ceil(least * asked)}
    for name in VARIETY:
        least = (1 - LARGEST_NARROWING) * before[name]
        figures[name] = {"before": before[name], "after": after[name], "least": round(least, 2)}
    short = [name for name, one in figures.items() if one["after"] < one["least"]]
    told = "; ".join(
        f"{name} {one['before']:.3g} before, {one['after']:.3g} after (at least {one['least']:.3g})"
        for name, one in figures.items()
    )
    said = f"collapsed: too few {', '.join(short)}" if short else "samples keep their variety"
    return Verdict(not short, f"{said}: of {asked} asked, {told}", figures)


def effective_number(counts: Mapping[Any, int]) -> float:
    """Return how many equally frequent kinds would be as varied: the exponential of Shannon's entropy.

    The Hill number of order 1 (Jost, Oikos 113, 363 (2006), equation 3): a few rare kinds beside a common one do
    not make variety.
    """
    total = sum(counts.values())
    if not total:
        return 0.0
    shares = np.array([count / total for count in counts.values() if count])
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _compared(before: Array, after: Array, tolerance: float) -> dict[str, Any]:
    """Return the figures of one group.

    With few crystals the standard error is widened as Student's t says, so that one of them means what it means with
    many: a chance of 16 % on either side.
    """
    n, paired = len(before), after - before
    widening = float(student.ppf(norm.cdf(1.0), n - 1))
    error = widening * float(paired.std(ddof=1)) / math.sqrt(n)
    change, old = float(paired.mean()), float(before.mean())
    margin = tolerance * old + CLEARLY * error
    said = "worse" if change > margin else "better" if change < -margin else "level"
    return {
        "n": n,
        "before": old,
        "after": float(after.mean()),
        "change": change,
        "error": error,
        "said": said,
    }


def _told(one: Mapping[str, Any]) -> str:
    return (
        f"{one['before']:.4g} to {one['after']:.4g} ({one['change']:+.3g} ± {one['error']:.2g}, {one['n']})"
    )
