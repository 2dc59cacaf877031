"""What happens after a failure: one decision, by its cause."""

from __future__ import annotations

from collections.abc import Sequence

FREE_CAUSES = frozenset({"node_lost", "walltime"})
"""The machine's fault: tried again without using up an attempt."""

HOPELESS_CAUSES = frozenset({"bad_geometry", "cancelled"})
"""The crystal's fault, where the same again would fail the same way; or a person's wish."""

MOST_FREE_TRIES = 20
"""A job that takes its node down every time has to end some day."""


def try_again(causes: Sequence[str], max_attempts: int, max_free: int = MOST_FREE_TRIES) -> bool:
    """Return whether a task is tried again after these failures.

    Args:
        causes: Causes of all its failures so far, the last one last.
        max_attempts: Tries that count, from `labels.max_attempts`.
        max_free: Lost nodes and walltimes that are forgiven.
    """
    if not causes:
        return True
    if causes[-1] in HOPELESS_CAUSES:
        return False
    free = sum(cause in FREE_CAUSES for cause in causes)
    return free <= max_free and len(causes) - free < max_attempts
