"""What happens after a failure: decisions by its cause, from a table that campaign.yaml may change. Pure.

A try that the machine cut, because its block ended or its worker was lost, is forgiven: it uses up nothing, as long
as the job cannot be what is to blame.

* Blocks may cut a relaxation as often as they like, if each takes it at least one geometry further, up to
  `MOST_GEOMETRIES`: one that swings to and fro has to end as well, and its own limit of steps is that of one try.
* Of blocks in which a job reached nothing the first `FRUITLESS_BLOCKS` are forgiven, and further ones count as
  walltime: a job that no block is long enough for has to end. Blocks that left it less time than others did say
  nothing, and `MOST_BLOCKS` of them are forgiven.
* Lost workers count while they come in a row, against `node_lost` alone: whatever else a try comes to in between, or
  a relaxation that left a further geometry, shows that the job does not take its node down every time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from flows.cures import Cure
from flows.schemas import FailureCause


@dataclass(frozen=True)
class Policy:
    """What is done about one cause."""

    tries: int | None = None
    """The failure of this number is the last one; None: as `labels.max_attempts` says."""
    cures: tuple[Cure, ...] = ()
    """What the tries after the first, second, ... failure do otherwise; each keeps those before it."""


POLICIES: Mapping[str, Policy] = {
    FailureCause.SCF_NOT_CONVERGED: Policy(3, (Cure.SLOW_MIXING, Cure.OTHER_ALGORITHM)),
    # Each try goes on from the last geometry, so it is progress rather than repetition.
    FailureCause.IONIC_NOT_CONVERGED: Policy(4, (Cure.MORE_STEPS, Cure.OTHER_OPTIMIZER)),
    FailureCause.OUT_OF_MEMORY: Policy(3, (Cure.MORE_MEMORY,)),
    FailureCause.WALLTIME: Policy(6, (Cure.MORE_TIME,)),
    # In a row: the machine's fault, but a job that takes its node down every time has to end some day.
    FailureCause.NODE_LOST: Policy(20),
    # The same again would end the same way.
    FailureCause.BAD_GEOMETRY: Policy(1),
    FailureCause.MISSING_SETUP: Policy(1),
    FailureCause.CANCELLED: Policy(1),
    FailureCause.CODE_CRASHED: Policy(),
    FailureCause.PARSE_ERROR: Policy(),
    FailureCause.UNKNOWN: Policy(),
}
"""What is done about each cause unless `labels.on_failure` says otherwise."""

FREE_CAUSES = frozenset({FailureCause.NODE_LOST, FailureCause.WALLTIME})
"""The machine's fault: they count against themselves only, also where tries are counted together."""


MACHINE = "machine"
"""Value of `forgiven` in a try that the machine cut; true stands for a person who asked for the label again."""

DRIVER = "driver"
"""Value of `forgiven` in a try that was cut off because its driver ended: it says nothing about the job."""

FRUITLESS_BLOCKS = 3
"""Ends of blocks that are forgiven to a job which got nowhere in them."""
AS_LONG = 0.9
"""What part of the longest time that a block gave a job counts as a whole block."""
MOST_BLOCKS = 100
"""Ends of blocks of any length that are forgiven to such a job: all further blocks may be too short for anything."""

MOST_GEOMETRIES = 1000
"""Geometries in all tries of a relaxation that the machine cut: one that takes more will not converge."""

ESCALATION = 1.5
"""What time and memory of a job grow by after each failure for their want."""
MOST_ESCALATION = 4.0
"""What they grow to at most where the configuration says nothing."""


def tries_of(attempts: Sequence[Mapping[str, Any]], job: str, index: int) -> list[Mapping[str, Any]]:
    """Return the tries of one job of a label."""
    return [one for one in attempts if (one["job"], one["index"]) == (job, index)]


def counted(tries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return why the tries of one job failed, in order; what was forgiven is left out, but for losses in a row."""
    silent = len(list(takewhile(_told_nothing, reversed(tries))))
    return [
        one["cause"]
        for place, one in enumerate(tries)
        if one["cause"] and (not one.get("forgiven") or (_lost(one) and place >= len(tries) - silent))
    ]


def causes_of(attempts: Sequence[Mapping[str, Any]], job: str, index: int) -> list[str]:
    """Return why the tries of one job of a label failed, as far as they count."""
    return counted(tries_of(attempts, job, index))


def machine_cut(tries: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> bool:
    """Return whether a failed try is forgiven as the machine's doing.

    Args:
        tries: The earlier tries of the job: `cause`, `block_ended`, `wall_seconds`, `geometries`, `forgiven`.
        new: The failed one.
    """
    if new["cause"] != FailureCause.NODE_LOST and not new.get("block_ended"):
        return False
    if new.get("geometries"):
        cut = (one for one in (*tries, new) if one is new or one.get("forgiven") == MACHINE)
        return sum(one.get("geometries") or 0 for one in cut) <= MOST_GEOMETRIES
    if new["cause"] == FailureCause.NODE_LOST:
        return True
    since = takewhile(lambda one: not (one.get("geometries") or one.get("forgiven") is True), reversed(tries))
    times = [one["wall_seconds"] for one in (new, *since) if one.get("block_ended")]
    enough = AS_LONG * max(times)
    short = new["wall_seconds"] < enough or not new["wall_seconds"]
    return len(times) <= MOST_BLOCKS and (short or sum(one >= enough for one in times) <= FRUITLESS_BLOCKS)


def _lost(one: Mapping[str, Any]) -> bool:
    by_machine = one["cause"] == FailureCause.NODE_LOST and one.get("forgiven") == MACHINE
    return by_machine and not one.get("geometries")


def _unbegun(one: Mapping[str, Any]) -> bool:
    return bool(one.get("block_ended")) and not one["wall_seconds"]


def _told_nothing(one: Mapping[str, Any]) -> bool:
    return _lost(one) or _unbegun(one) or one.get("forgiven") == DRIVER


def try_again(causes: Sequence[str], policies: Mapping[str, Policy], max_attempts: int) -> bool:
    """Return whether a label's job is tried again after these failures.

    Each cause has a count of its own, so the sum of all `tries` bounds what one job can take.

    Args:
        causes: Causes of all its failures so far, the last one last.
        policies: What is done about each cause.
        max_attempts: Tries where a policy says nothing.
    """
    if not causes:
        return True
    tries = _policy(policies, causes[-1]).tries
    return list(causes).count(causes[-1]) < (max_attempts if tries is None else tries)


def cures_for(causes: Sequence[str], policies: Mapping[str, Policy]) -> tuple[Cure, ...]:
    """Return what the next try does otherwise: as many cures of each cause as it has failures."""
    found: dict[Cure, None] = {}
    for cause in dict.fromkeys(causes):
        cures = _policy(policies, cause).cures
        found |= dict.fromkeys(cures[: list(causes).count(cause)])
    return tuple(found)


def allowance(
    limit: float | None,
    cure: Cure,
    causes: Sequence[str],
    policies: Mapping[str, Policy],
    most: float | None = None,
) -> float | None:
    """Return how much of something the next try may take: half as much again after each failure that `cure` is for.

    Args:
        limit: What the first try may take; None: any.
        cure: The cure that stands for more of it.
        causes: Causes of all failures so far that count.
        policies: What is done about each cause.
        most: What no try may exceed; `MOST_ESCALATION` times the limit where left out.
    """
    if limit is None:
        return None
    wanting = [cause for cause in causes if cure in _policy(policies, cause).cures]
    return min(limit * ESCALATION ** len(wanting), limit * MOST_ESCALATION if most is None else most)


def _policy(policies: Mapping[str, Policy], cause: str) -> Policy:
    return policies.get(cause) or policies[FailureCause.UNKNOWN]


def try_task_again(causes: Sequence[str], max_attempts: int, max_free: int) -> bool:
    """Return whether a task that is no label's job is tried again.

    Args:
        causes: Causes of all its failures so far that count (`counted`).
        max_attempts: Tries of all other causes together.
        max_free: Lost nodes and walltimes beside those.
    """
    free = sum(cause in FREE_CAUSES for cause in causes)
    return free <= max_free and len(causes) - free < max_attempts
