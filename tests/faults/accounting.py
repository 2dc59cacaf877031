"""What faults have cost: labels lost and repeated, and whether every repetition has a recorded cause. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from injecting import Injection
from slurm_campaign import Execution


@dataclass(frozen=True)
class Repeat:
    """An engine that was started again for the same job."""

    folder: str
    time: float
    fault: str
    """The last fault before it; empty: there was none."""
    cause: str
    """Why the try before it had ended, as the store says; empty: it does not."""


def repeats(
    executions: Iterable[Execution],
    injections: Sequence[Injection],
    failed: Mapping[str, Sequence[tuple[float, str]]],
) -> list[Repeat]:
    """Return every execution of a job but its first.

    Args:
        executions: Starts of engines.
        injections: Faults in the order in which they struck.
        failed: Job's folder -> when its failed tries ended [s since 1970], and the recorded causes.
    """
    found = []
    times: dict[str, list[float]] = {}
    for one in sorted(executions, key=lambda one: one.time):
        times.setdefault(one.folder, []).append(one.time)
    for folder, starts in times.items():
        for before, start in itertools.pairwise(starts):
            struck = [one.fault for one in injections if one.time <= start]
            told = [cause for ended, cause in failed.get(folder, ()) if before <= ended <= start]
            found.append(Repeat(folder, start, struck[-1] if struck else "", told[-1] if told else ""))
    return found


def fault_rows(
    faults: Iterable[str],
    injections: Sequence[Injection],
    recovered_s: Sequence[float],
    *,
    lost: int,
    repeated: Sequence[Repeat],
) -> list[dict[str, object]]:
    """Return the table: one row per fault, and one for all.

    Labels can only be lost to the run as a whole, so that column's last row is what counts.
    """
    rows: list[dict[str, object]] = []
    for fault in [*faults, "all"]:
        places = [place for place, one in enumerate(injections) if fault in (one.fault, "all")]
        again = [one for one in repeated if fault in (one.fault, "all")]
        seconds = sorted(recovered_s[place] for place in places)
        rows.append(
            {
                "fault": fault,
                "times": len(places),
                "labels lost": lost if fault == "all" else "",
                "jobs repeated": len(again),
                "without a cause": sum(not one.cause for one in again),
                "recovery [s], median": seconds[len(seconds) // 2] if seconds else "",
                "longest": seconds[-1] if seconds else "",
            }
        )
    return rows
