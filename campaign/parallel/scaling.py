"""How many blocks a pool needs: out with the work, in when it idles, replaced when they end. Pure.

A block is never ended while it works or starts. What is looked at is a moment's view of one pool; whoever calls this
(`campaign.parallel.blocks`) does so every second and carries the decision out.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SPENT_AFTER_S = 5.0
"""A block that has stayed free for so long, while tasks wait, has too little time left for any of them [s]."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""Pause after a block that did not start; it doubles with each further one [s]."""


@dataclass(frozen=True)
class BlockView:
    """One block at one moment."""

    block_id: str
    state: Literal["queued", "starting", "running", "ended"]
    """`starting`: its job runs, its workers have not answered yet."""
    workers: int = 0
    """Workers that take tasks."""
    busy: int = 0
    """Tasks that it has."""
    idle_s: float = 0.0
    """How long it has had none [s]."""
    remaining_s: float = math.inf
    """How long it will yet take tasks [s]."""
    ending: bool = False
    """It gets no more tasks, and is ended once it has none."""
    failed: str = ""
    """Why it ended before its workers answered; empty if they did, or if it was ended on purpose."""


@dataclass(frozen=True)
class Limits:
    """What a site allows a pool."""

    workers_per_block: int
    min_blocks: int
    max_blocks: int
    idle_s: float
    """A block without work for so long is given back [s]."""
    failures: int
    """Blocks in a row that may fail to start."""
    first_failure_ends: bool = False
    """One that fails is enough where none ever started: on this machine the second would fail like the first."""


@dataclass(frozen=True)
class Decision:
    """What to do now."""

    submit: int = 0
    end: tuple[str, ...] = ()
    """Ids of blocks that get no more tasks and are then ended."""
    give_up: str = ""
    """Why the pool cannot work at all; empty while it can."""


def decide(
    tasks: Sequence[float | None],
    blocks: Sequence[BlockView],
    limits: Limits,
    *,
    quiet_s: float = 0.0,
    since_failure_s: float = math.inf,
) -> Decision:
    """Decide how many blocks to submit and which to end.

    Args:
        tasks: How long each task takes that was submitted and is not done [s]; None where nobody knows.
        blocks: All blocks, ended ones too, oldest first.
        limits: What the site allows.
        quiet_s: How long there has been no task at all [s].
        since_failure_s: Time since a block last failed to start [s].
    """
    live = [block for block in blocks if block.state != "ended"]
    failures = failures_in_a_row(blocks)
    never_any = len(failures) == len(blocks)
    if failures and not live:
        allowed = 1 if limits.first_failure_ends and never_any else limits.failures
        if len(failures) >= allowed:
            return Decision(give_up=failures[0])
    missing = unplaced(tasks, live, limits.workers_per_block)
    wanted = math.ceil(missing / limits.workers_per_block)
    wanted = max(wanted, limits.min_blocks - sum(not block.ending for block in live))
    room = limits.max_blocks - len(live)
    free = [block for block in live if block.state == "running" and not block.busy and not block.ending]
    free.sort(key=lambda block: -block.idle_s)
    if missing and room <= 0:  # whatever is free has too little time left
        spent = [block.block_id for block in free if block.idle_s >= SPENT_AFTER_S]
        return Decision(end=tuple(spent[:wanted]))
    surplus = sum(not block.ending for block in live) - limits.min_blocks
    idle = [block.block_id for block in free if block.idle_s >= limits.idle_s]
    if not tasks and quiet_s >= limits.idle_s:
        idle += [block.block_id for block in live if block.state == "queued" and not block.ending]
    end = tuple(idle[: max(0, surplus)])
    if failures and since_failure_s < pause_s(len(failures)):
        return Decision(end=end)
    return Decision(submit=max(0, min(wanted, room)), end=end)


def failures_in_a_row(blocks: Sequence[BlockView]) -> list[str]:
    """Return why the newest blocks failed to start, newest first, back to the last one that did not fail."""
    ended = [block for block in reversed(blocks) if block.state == "ended" or block.workers]
    return [block.failed for block in itertools.takewhile(lambda block: block.failed, ended)]


def pause_s(failures: int) -> float:
    """Return how long to wait after so many blocks in a row that failed to start [s]."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failures - 1))


def unplaced(tasks: Sequence[float | None], live: Sequence[BlockView], workers_per_block: int) -> int:
    """Return how many tasks find no worker in the blocks that are there or on their way.

    Which of the tasks wait and which run is not looked at: as many of them run as workers are busy, and the longest
    are taken for those that wait, since they are the ones that may fit nowhere. Each takes the place that fits most
    tightly.
    """
    waiting = sorted((task or 0.0 for task in tasks), reverse=True)
    waiting = waiting[: max(0, len(tasks) - sum(block.busy for block in live))]
    places: list[float] = []
    for block in live:
        if block.ending:
            continue
        if block.state == "running":
            places += [block.remaining_s] * max(0, block.workers - block.busy)
        else:
            places += [math.inf] * workers_per_block
    places.sort()
    missing = 0
    for task in waiting:
        fitting = bisect.bisect_left(places, task)
        if fitting == len(places):
            missing += 1
        else:
            places.pop(fitting)
    return missing
