"""Which jobs of a flow may run next: pure functions on plain records {uuid, index, name, parents, ...}.

A job that replaces itself keeps its uuid and counts its index up, so a record is known by (uuid, index); parents
are uuids, and a parent is done when every index of its uuid is. `runnable` asks every job; where a flow has
thousands of them, `flows.progress.FlowProgress` keeps the answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

Record = Mapping[str, Any]
Key = tuple[str, int]


def key_of(record: Record) -> Key:
    """Return (uuid, index) of a record."""
    return record["uuid"], record["index"]


def runnable(
    records: Sequence[Record],
    done: AbstractSet[Key],
    running: AbstractSet[Key],
    failed: AbstractSet[str] = frozenset(),
) -> list[Key]:
    """Return the jobs that may begin now, in the order of the records.

    Args:
        records: All jobs of the flow as far as they are known.
        done: Jobs whose output is stored.
        running: Jobs that run, or that shall not run for another reason.
        failed: Uuids that will never be done; see `waits`.

    Returns:
        Keys of jobs that neither run nor are done and whose parents are done.
    """
    unfinished = {record["uuid"] for record in records if key_of(record) not in done}
    return [
        key_of(record)
        for record in records
        if key_of(record) not in done
        and key_of(record) not in running
        and record["uuid"] not in failed
        and not waits(record, unfinished, failed)
    ]


def waits(record: Record, unfinished: Collection[str], failed: Collection[str]) -> bool:
    """Tell whether a job has to wait, perhaps for ever.

    Args:
        record: The job.
        unfinished: Uuids that are not done.
        failed: Those that will never be done. Whoever needs one never runs, unless its record says `runs_without`
            (jobflow's jobs that take a missing input for nothing).
    """
    return any(
        parent in unfinished and (parent not in failed or parent in needs(record))
        for parent in record["parents"]
        if parent != record["uuid"]
    )


def needs(record: Record) -> set[str]:
    """Return the parents without which a job never runs; for its other parents, it only waits until they end."""
    if record.get("runs_without"):
        return set()
    return set(record["parents"]) - set(record.get("after", ())) - {record["uuid"]}


def with_new_jobs(
    records: Sequence[Record], finished: str, new_jobs: Sequence[Record]
) -> list[dict[str, Any]]:
    """Return the flow after one of its jobs asked for more jobs; saying it twice changes nothing.

    Replacements and detours have to end before the children of the job that asked for them begin, so they get them
    as further parents (`delayed`). Additions wait for nothing and nobody waits for them.

    Args:
        records: The flow so far.
        finished: Uuid of the job that asked.
        new_jobs: Its `new_jobs`, each with `via`: replace, detour or addition.
    """
    known = {key_of(record) for record in records}
    between = inserted(new_jobs)
    old = [
        delayed(record, between)
        if finished in record["parents"] and record["uuid"] not in between
        else dict(record)
        for record in records
    ]
    return old + [dict(record) for record in new_jobs if key_of(record) not in known]


def inserted(new_jobs: Sequence[Record]) -> set[str]:
    """Return the uuids of new jobs that the children of the job that asked for them wait for."""
    return {record["uuid"] for record in new_jobs if record.get("via") in ("replace", "detour")}


def delayed(record: Record, between: AbstractSet[str]) -> dict[str, Any]:
    """Return a job that also waits until other jobs have ended, whether they succeed or not."""
    parents = set(record["parents"])
    further = between - parents
    if not further:
        return dict(record)
    after = sorted({*record.get("after", ()), *further})
    return {**record, "parents": sorted(parents | further), "after": after}
