"""Which of the tasks that could run now the pools take; part of `campaign.plan`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from campaign.actions import Action, RunJob

JOB_KEY = "job/"
"""How the keys of labels' jobs begin."""
JOB_POOL = "dft"
"""Where they run."""
ALONE = "/alone"
"""How the keys of those end that have the pool to themselves."""


def fitting(wanted: Iterator[Action], free: Mapping[str, int], running: AbstractSet[str]) -> list[Action]:
    """Return as many tasks as the pools can take, in order.

    A job that must run alone waits until its pool is empty, and whatever comes after it waits with it.
    """
    left, tasks = dict(free), []
    jobs = {key for key in running if key.startswith(JOB_KEY)}
    if any(key.endswith(ALONE) for key in jobs):
        left[JOB_POOL] = 0
    for action in wanted:
        if not any(left.values()):
            break
        pool = action.pool or ""
        if action.key in running or left.get(pool, 0) <= 0:
            continue
        alone = isinstance(action, RunJob) and action.alone
        if not alone or not jobs:
            tasks.append(action)
            jobs |= {action.key} if isinstance(action, RunJob) else set()
        left[pool] = 0 if alone else left[pool] - 1
    return tasks
