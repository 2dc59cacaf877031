"""What a Firework's documents mean for the job it stands for, and how urgent a job is. Pure: nothing is asked here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from campaign.parallel.launchpad import Sight

Verdict = Literal["wait", "done", "missing", "failed", "lost", "release", "cancelled"]
"""wait: look again later. done: its result is in the folder or stored. missing: it ended, and no result is to be seen.
failed: FIZZLED. lost: its worker went silent. release: whoever reserved it went silent. cancelled: a person's doing."""

RESULT_GRACE_S = 60.0
"""A shared disk may show a new file this much later than the LaunchPad says that it was written [s]."""

_ROUND = 10_000  # more labels than a round chooses
_URGENT = 10**9  # more than all rounds together


def priority(about: Mapping[str, Any], base: int) -> int:
    """Return the `_priority` of a job: higher runs first, in the order in which `plan` hands jobs out.

    Labels that have begun come first, then references, then earlier rounds and better ranks.
    """
    first = 2 * bool(about["begun"]) + (about["purpose"] == "reference")
    return base + int(_URGENT * first - _ROUND * about["round"] - about["rank"])


def verdict(
    sight: Sight | None, quiet_s: float, *, lost_after_s: float, reserved_after_s: float, has_result: bool
) -> Verdict:
    """Return what becomes of a job.

    Args:
        sight: Its Firework; None if it is gone from the LaunchPad.
        quiet_s: How long the Firework has not changed in any way, by the driver's own clock: clocks of workers
            may differ from it [s].
        lost_after_s: Silence after which a run is lost [s].
        reserved_after_s: Time that a reservation may wait in a batch queue [s].
        has_result: Its result is in the job's folder, or on the LaunchPad.
    """
    state = sight.state if sight else "DELETED"
    if state == "COMPLETED":
        late = quiet_s > max(RESULT_GRACE_S, lost_after_s)
        return "done" if has_result else ("missing" if late else "wait")
    if state == "RUNNING" and quiet_s > lost_after_s:
        return "done" if has_result else "lost"  # a worker may die between the result and the word of it
    if state == "RESERVED":
        launched = sight is not None and sight.launched
        return "release" if quiet_s > (reserved_after_s if launched else lost_after_s) else "wait"
    ended: dict[str, Verdict] = {"FIZZLED": "failed"}
    ended |= dict.fromkeys(("DEFUSED", "ARCHIVED", "DELETED"), "cancelled")
    return ended.get(state, "wait")


def failed_result(sight: Sight) -> dict[str, Any]:
    """Return what a FIZZLED Firework's job would have given on a pool of our own: `ok` false, and the failure."""
    raised = sight.stored.get("_exception") or {}
    details = raised.get("_details") or {}
    if isinstance(details, Mapping) and "result" in details:
        result: dict[str, Any] = json.loads(details["result"])
        return {**whereabouts(sight), **result}
    trace = str(raised.get("_stacktrace") or "")
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    if lines:
        return failure(
            "unknown", f"the worker could not run the job: {lines[-1]}"[:500], sight, trace[-4000:]
        )
    return failure("node_lost", "its run was marked FIZZLED without a word: lost", sight)


def failure(cause: str, message: str, sight: Sight | None, detail: str = "") -> dict[str, Any]:
    """Return a job's result that is a failure, told by the pool and not by the job."""
    told = {"cause": cause, "message": message, "detail": detail}
    return {**(whereabouts(sight) if sight else {}), "ok": False, "failure": told}


def whereabouts(sight: Sight) -> dict[str, Any]:
    """Return where a Firework last ran, and what that took up to its last report, on one core at least."""
    if not sight.started:
        return {}
    begin, end = datetime.fromisoformat(sight.started), datetime.fromisoformat(sight.reported)
    seconds = max(0.0, (end - begin).total_seconds())
    return {
        "host": sight.host,
        "started": sight.started,
        "ended": sight.reported,
        "wall_seconds": seconds,
        "core_hours": seconds / 3600,
    }
