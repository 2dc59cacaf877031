"""What happens after a failure: decisions by its cause, from a table that campaign.yaml may change. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    # The machine's fault. A job that takes its node down every time has to end some day all the same.
    FailureCause.WALLTIME: Policy(6, (Cure.MORE_TIME,)),
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


def causes_of(attempts: Sequence[Mapping[str, Any]], job: str, index: int) -> list[str]:
    """Return why the tries of one job of a label failed, in order; what was forgiven is left out."""
    return [
        one["cause"]
        for one in attempts
        if (one["job"], one["index"]) == (job, index) and one["cause"] and not one.get("forgiven")
    ]


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
    limit: float | None, cure: Cure, causes: Sequence[str], policies: Mapping[str, Policy]
) -> float | None:
    """Return how much of something the next try may take: twice as much after each failure that `cure` is for."""
    if limit is None:
        return None
    wanting = [cause for cause in causes if cure in _policy(policies, cause).cures]
    return limit * 2.0 ** len(wanting)


def _policy(policies: Mapping[str, Policy], cause: str) -> Policy:
    return policies.get(cause) or policies[FailureCause.UNKNOWN]


def try_task_again(causes: Sequence[str], max_attempts: int, max_free: int) -> bool:
    """Return whether a task that is no label's job is tried again.

    Args:
        causes: Causes of all its failures so far.
        max_attempts: Tries that count, of all causes together.
        max_free: Lost nodes and walltimes that are forgiven.
    """
    free = sum(cause in FREE_CAUSES for cause in causes)
    return free <= max_free and len(causes) - free < max_attempts
