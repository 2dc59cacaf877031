"""What a campaign has used, worked out from its documents, and how much of its budgets that is. Pure.

Nothing here is a counter that a crash could lose: node-hours and the time of drivers follow from the documents of
blocks, core-hours of labels from their attempts. Only tasks that leave no document of their own are summed up, and
each is written down before its result is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from campaign.blocks import Spent, last_seen, seconds_of, spent_by

if TYPE_CHECKING:
    from campaign.config import StopConfig

WARN_AT = 0.8
"""Share of a budget at which its near end is told."""

TASK_CORE_HOURS = "task_core_hours"
"""Core-hours of all tasks but labels' jobs, among the sums of tasks."""

EVERY_POOL = "all"
"""Pool of the block that stands for all workers beside the driver, where they have no blocks of their own."""

SPENDING = ("core_hours", "node_hours", "wall_time_hours")
"""Budgets that `stop.hard` is about: what work uses up while it runs."""


@dataclass(frozen=True)
class Budget:
    """A limit of `stop`, and how much of it is used."""

    name: str
    used: float
    limit: float

    @property
    def share(self) -> float:
        """Used part of the limit; more than 1 if it was exceeded."""
        return self.used / self.limit

    def document(self) -> dict[str, Any]:
        """Return it as `campaign status --json` shows it."""
        return {
            "name": self.name,
            "used": self.used,
            "limit": self.limit,
            "percent": round(100 * self.share, 1),
        }


def total_usage(
    tasks: Mapping[str, float],
    label_core_hours: float,
    blocks: Iterable[Mapping[str, Any]],
    current: float | None,
    ended: Spent | None = None,
) -> dict[str, float]:
    """Return what was used.

    Args:
        tasks: Sums over tasks that are kept: `<kind>_tasks`, `<kind>_seconds`, and their core-hours.
        label_core_hours: Core-hours of labels, failed and lost tries included.
        blocks: Documents of all blocks, those of drivers among them; or of some, with `ended` for the others.
        current: Seconds since 1970; None where no driver lives: then what did not end counts until its driver was
            last seen.
        ended: What those have used that are not among `blocks`.

    Returns:
        The sums, `core_hours`, `node_hours` and `wall_seconds` (of drivers).
    """
    documents = [dict(one) for one in blocks]
    seen = last_seen(documents)
    spent = ended or Spent()
    for one in documents:
        spent += spent_by(one, current if current is not None else seconds_of(seen.get(one["epoch"])))
    return {
        **tasks,
        "core_hours": tasks.get(TASK_CORE_HOURS, 0.0) + label_core_hours,
        "node_hours": spent.node_seconds / 3600,
        "wall_seconds": spent.driver_seconds,
    }


def lost_seconds(pool: str, waited_s: float, blocks: Iterable[Mapping[str, Any]], current: float) -> float:
    """Return how long a task has run at most whose worker was lost [s]; it may have waited for a block for hours.

    It ran on the block of its pool that ended last while it was under way, or, if none did, no longer than since the
    newest one began. Where none has begun it has cost nothing.

    Args:
        pool: The task's pool.
        waited_s: Time since it was submitted [s].
        blocks: Documents of blocks.
        current: Seconds since 1970.
    """
    submitted, lives = current - waited_s, []
    for one in blocks:
        begun, ended = seconds_of(one["started"]), seconds_of(one["ended"])
        if one["pool"] in (pool, EVERY_POOL) and begun is not None and (ended is None or ended >= submitted):
            lives.append((ended or 0.0, begun))
    if not lives:
        return 0.0
    ended, begun = max(lives)
    return max(0.0, min(ended or current, current) - max(begun, submitted))


def kept_sums(usage: Mapping[str, float]) -> dict[str, float]:
    """Return the sums over tasks among what a campaign's document says of its use."""
    worked_out = {"core_hours", "node_hours", "wall_seconds"}
    return {name: number for name, number in usage.items() if name not in worked_out}


def budgets(stop: StopConfig, usage: Mapping[str, float], *, stable: int) -> list[Budget]:
    """Return the limits that end a campaign by what was used or found, in the order in which they are told."""
    known = (
        ("core_hours", stop.core_hours, usage.get("core_hours", 0.0)),
        ("node_hours", stop.node_hours, usage.get("node_hours", 0.0)),
        ("wall_time_hours", stop.wall_time_hours, usage.get("wall_seconds", 0.0) / 3600),
        ("stable_found", stop.stable_found, float(stable)),
    )
    return [Budget(name, used, limit) for name, limit, used in known if limit is not None]


def to_warn_of(found: Iterable[Budget], warned: Mapping[str, float]) -> list[Budget]:
    """Return the budgets that are nearly used up and were not warned of yet; a raised one is warned of anew."""
    return [
        one
        for one in found
        if one.name in SPENDING and one.share >= WARN_AT and warned.get(one.name) != one.limit
    ]


def yields(usage: Mapping[str, float], *, labels: int, stable: int) -> dict[str, float | None]:
    """Return labels done and stable crystals found per node-hour and core-hour; None where none was used."""
    found = {}
    for what, number in (("labels", labels), ("stable", stable)):
        for unit in ("node_hour", "core_hour"):
            hours = usage.get(unit + "s", 0.0)
            found[f"{what}_per_{unit}"] = number / hours if hours > 0 else None
    return found
