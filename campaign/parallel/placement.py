"""Which block takes which task: the one with the least time left in which the task still fits. Pure.

Old blocks finish on short tasks, and long ones find the young blocks free. A task that fits nowhere waits for a
younger block; one that is longer than any block's life goes onto a fresh one, where it gets as much time as there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WHOLE = 0.9
"""A task never counts on more than this part of a block's usable time: a block's first seconds go for starting."""


@dataclass
class Room:
    """A manager that can take tasks."""

    free: int
    """Workers without a task."""
    remaining_s: float
    """How long it yet takes tasks [s]; inf without a walltime."""
    whole_s: float
    """How long that was when it registered [s]."""
    busy: int = 0
    """Tasks that it has: where nothing else decides, tasks gather, so that other blocks fall idle and can go."""


def place(tasks: Sequence[float | None], rooms: Sequence[Room]) -> list[int | None]:
    """Choose a room for each task.

    Args:
        tasks: How long each takes [s], first come first; None where nobody knows.
        rooms: Where they can run; not changed.

    Returns:
        For each task the index of its room, or None where it has to wait. A task of unknown length goes where most
        time is left.
    """
    free = [room.free for room in rooms]
    busy = [room.busy for room in rooms]
    left = sum(free)
    chosen: list[int | None] = []
    for task in tasks:
        if not left:
            break
        fitting = [i for i, room in enumerate(rooms) if free[i] and fits(task, room)]
        best = None
        if fitting and task is None:
            best = max(fitting, key=lambda i: (rooms[i].remaining_s, busy[i]))
        elif fitting:
            best = min(fitting, key=lambda i: (rooms[i].remaining_s, -busy[i]))
        if best is not None:
            free[best] -= 1
            busy[best] += 1
            left -= 1
        chosen.append(best)
    return chosen + [None] * (len(tasks) - len(chosen))


def fits(task: float | None, room: Room) -> bool:
    """Tell whether a task of this length [s] may start in a room."""
    return task is None or room.remaining_s >= min(task, WHOLE * room.whole_s)
