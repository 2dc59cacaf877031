"""jobflow's CURRENT_JOB, one for each job that runs instead of one per process: jobs may run in threads."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

PARTS = ("job", "store")
"""What CURRENT_JOB has."""


def part_for_each_context(name: str) -> property:
    """Return a property that each context, and so each thread, sets for itself.

    A thread that a job starts sees what was set last in the process, as without us.
    """
    own: ContextVar[Any] = ContextVar(f"current_{name}", default=None)
    last: list[Any] = [None]

    def get(state: object) -> Any:  # noqa: ARG001
        found = own.get()
        return last[0] if found is None else found

    def put(state: object, value: Any) -> None:  # noqa: ARG001
        own.set(value)
        last[0] = value

    return property(get, put)


def one_current_job_for_each_thread() -> None:
    """Let jobs in threads each see themselves; saying it twice changes nothing."""
    from jobflow import CURRENT_JOB

    kind = type(CURRENT_JOB)
    for name in PARTS:
        if not isinstance(vars(kind).get(name), property):
            setattr(kind, name, part_for_each_context(name))
