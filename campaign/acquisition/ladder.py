"""What climbs the ladder of fidelities: the most stable crystals expected per core-hour first. Pure.

**The ladder.** A candidate begins on the surrogate, whose error is known (`beliefs.surrogate_error`); the acquisition
decides who gets a first label, the ladder's foot. `labels.ladder` lists the rungs above it in order, for example the
same flow with precise settings, then phonons. Who stands on a rung may climb the next one once its label there is done
and the `when` of the next holds. `labels.then` remains for what is wanted of every candidate that meets a condition,
whatever it costs: it is made at once and nothing weighs it.

**The measure** is the same for a rung and for a fresh candidate: stable crystals expected per expected core-hour,

    value = worth · P(done) · P(stable) / core-hours.

P(stable) comes from the highest judged rung that is done. What lies between that and the truth are the errors of the
judged rungs above and of the topmost itself: each has a bias and a spread, learned from the pairs of labels that some
candidates have on it and below it (`learned_error`), and they add up. A candidate's own belief stands in for a first
label where there is none yet. So a rung is worth most where a crystal is most likely stable, and that is meant: what a
campaign delivers are crystals that have passed the rungs, the next rungs are only of use for them, and the unit is that
of a fresh candidate's first label. Information about the verdict, P (1 - P), which is largest for toss-ups, was not
taken: it would leave the surest finds unconfirmed for ever, and cannot be weighed against finding a new one.

P(done) is the share of labels of the rung that did not fail. Core-hours are learned (`campaign.label_costs`). A judged
rung that nobody has climbed yet needs references at its settings first: their cost is shared by those that wait for it.

**The share.** Of all core-hours expected of labels so far, first ones and those of the ladder, the ladder takes at most
`ladder_share`; beyond `ladder_floor` it only takes what is worth more than the least fresh candidate that the round
chose. So neither starves: fresh candidates keep at least 1 - `ladder_share`, the ladder gets `ladder_floor` even while
fresh candidates promise more. The last one that climbs may overdraw the account, and later rounds pay for it: else what
costs more than a round could never climb. When no round is left, nothing competes any more, and everything climbs
whose condition holds, in the same order, as long as the budgets of `stop` last.

**Numbers, not timing.** A step of the ladder belongs to a round. It knows the first labels that the round may know, and
the rungs climbed `ladder_lag_rounds` earlier; whatever came later is pending, finished or not: it has its place in the
account, and its outcome is unknown. Rounds learn from the same rungs and wait for them alike. A step's choice is one
document, written before its labels are; it is never taken again (`campaign.climbing`).

**The verdict** of a candidate is that of the highest judged rung that is done. Each rung's energies are compared only
with references of its own settings: errors of methods cancel within one hull, and never between two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from campaign.acquisition.beliefs import PRIOR_LABELS

TOP_STD_EV_PER_ATOM = 0.024
"""Of the topmost rung against nature: errors of PBE energies between solids (G. Hautier et al., Phys. Rev. B 85, 155208
(2012))."""

PRIOR_BIAS_PAIRS = 1
"""Number of pairs that no bias, the prior, counts for."""

PRIOR_DONE, PRIOR_FAILED = 9, 1
"""Labels of a rung that count as done and as failed before any has ended."""


@dataclass(frozen=True)
class RungError:
    """How e_above_hull changes from a judged rung to the next [eV/atom]."""

    bias: float
    std: float
    pairs: int
    """Candidates that it was learned from."""


def learned_error(pairs: Sequence[tuple[float, float]], prior_std: float) -> RungError:
    """Return bias and spread of a rung from (e_above_hull below, e_above_hull on it) of candidates that have both.

    The posterior of a normal distribution of unknown mean and variance (Gelman et al., Bayesian Data Analysis, 3rd
    edition, section 3.3), whose prior has no bias and `prior_std`; the spread is that of the next pair, so that it
    holds what is not known of the bias.

    Args:
        pairs: [eV/atom].
        prior_std: Spread expected before any pair is known, worth `PRIOR_LABELS` pairs [eV/atom].
    """
    n, weight = len(pairs), PRIOR_BIAS_PAIRS + len(pairs)
    changes = [above - below for below, above in pairs]
    mean = math.fsum(changes) / n if n else 0.0
    squares = math.fsum((one - mean) ** 2 for one in changes) + PRIOR_BIAS_PAIRS * n / weight * mean**2
    variance = (PRIOR_LABELS * prior_std**2 + squares) / (PRIOR_LABELS + n)
    return RungError(n * mean / weight, math.sqrt(variance * (1 + 1 / weight)), n)


def stable_probability(
    e_above_hull: float, errors: Sequence[RungError], limit: float, std: float = 0.0
) -> float:
    """Return the probability that a candidate is stable.

    Args:
        e_above_hull: On the highest judged rung that is done, or what is believed of it [eV/atom].
        errors: Of the judged rungs above.
        limit: A crystal is stable at most so far above the hull [eV/atom].
        std: Of a belief [eV/atom]; 0 for a label.
    """
    mean = e_above_hull + math.fsum(one.bias for one in errors)
    variance = std**2 + TOP_STD_EV_PER_ATOM**2 + math.fsum(one.std**2 for one in errors)
    return 0.5 * math.erfc((mean - limit) / math.sqrt(2 * variance))


def done_probability(done: int, failed: int) -> float:
    """Return the probability that a label of a rung will not fail."""
    return (done + PRIOR_DONE) / (done + failed + PRIOR_DONE + PRIOR_FAILED)


@dataclass(frozen=True)
class Contender:
    """A candidate that waits for a rung whose condition holds."""

    candidate: str
    root: str
    """Id of its first label."""
    rung: str
    stable_probability: float
    gain: float
    """Stable crystals that the rung's label is worth."""
    core_hours: float
    """Expected of the label."""


@dataclass(frozen=True)
class Account:
    """Expected core-hours of labels up to a step."""

    fresh: float
    """Of the first labels of all rounds so far."""
    climbed: float = 0.0
    """Of what climbed in earlier steps, references included."""

    def room(self, share: float) -> float:
        """Return the core-hours that are left to the ladder with this share of all."""
        return math.inf if share >= 1 else self.fresh * share / (1 - share) - self.climbed


@dataclass(frozen=True)
class Climb:
    """A decision: this candidate gets the label of this rung."""

    contender: Contender
    value: float
    """Stable crystals expected per core-hour, by which it was taken."""
    core_hours: float
    """Expected of its label, and of the references if it is the first one on the rung."""


def choose_climbs(
    contenders: Sequence[Contender],
    opening: Mapping[str, float],
    account: Account,
    *,
    price: float,
    floor: float,
    share: float,
) -> list[Climb]:
    """Return what climbs in one step, the best first.

    Args:
        contenders: Those that wait.
        opening: Rung -> core-hours of its references, for rungs that nobody has climbed yet.
        account: What was spent so far.
        price: Value of the least fresh candidate that the step's round chose; 0 if there is none.
        floor: Share of core-hours below which the price does not matter.
        share: Share of core-hours that the ladder may not exceed, but by its last one.
    """
    waiting = {rung: sum(one.rung == rung for one in contenders) for rung in opening}

    def value(one: Contender) -> float:
        shared = opening.get(one.rung, 0.0) / max(1, waiting.get(one.rung, 1))
        return one.gain / (one.core_hours + shared)

    spent, opened, chosen = 0.0, set[str](), list[Climb]()
    for one in sorted(contenders, key=lambda one: (-value(one), one.candidate)):
        dear = value(one) < price
        if account.room(floor if dear else share) - spent <= 0:
            break  # whatever follows is worth less
        first = opening.get(one.rung, 0.0) if one.rung not in opened else 0.0
        opened.add(one.rung)
        chosen.append(Climb(one, value(one), one.core_hours + first))
        spent += one.core_hours + first
    return chosen
