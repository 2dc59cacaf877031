"""Which jobs of a flow may run next: pure functions on plain records {uuid, index, name, parents, ...}.

A job that replaces itself keeps its uuid and counts its index up, so a record is known by (uuid, index); parents
are uuids, and a parent is done when every index of its uuid is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from flows.errors import LabelFlowError

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
        failed: Uuids that will never be done. Whoever waits for one never runs, unless its record says
            `runs_without` (jobflow's jobs that take a missing input for nothing).

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
        and not _waits_for(record, unfinished, failed)
    ]


def _waits_for(record: Record, unfinished: AbstractSet[str], failed: AbstractSet[str]) -> set[str]:
    parents = set(record["parents"]) - {record["uuid"]}
    waiting = parents & unfinished
    return waiting - failed if record.get("runs_without") else waiting | (parents & failed)


def in_order(records: Sequence[Record]) -> list[Key]:
    """Return the jobs so that parents come before children; parents outside of the records count as done.

    Raises:
        LabelFlowError: Jobs wait for one another.
    """
    done: set[Key] = set()
    order: list[Key] = []
    while len(order) < len(records):
        ready = runnable(records, done, frozenset())
        if not ready:
            names = sorted(str(record["name"]) for record in records if key_of(record) not in done)
            raise LabelFlowError("jobs of a flow wait for one another", value=names)
        order += ready
        done.update(ready)
    return order


def ancestors(records: Iterable[Record], uuid: str) -> set[str]:
    """Return the uuids that a job depends on, directly or through others: what it may need outputs of."""
    parents: dict[str, set[str]] = {}
    for record in records:
        parents.setdefault(record["uuid"], set()).update(record["parents"])
    found: set[str] = set()
    frontier = set(parents.get(uuid, ())) - {uuid}
    while frontier:
        found |= frontier
        frontier = {one for name in frontier for one in parents.get(name, ())} - found - {uuid}
    return found


def lost(records: Iterable[Record], failed: AbstractSet[str]) -> set[str]:
    """Return the uuids that will never be done: `failed`, and all that wait for one that will never be done."""
    known = [record for record in records if not record.get("runs_without")]
    found = set(failed)
    while True:
        more = {
            record["uuid"] for record in known if found & (set(record["parents"]) - {record["uuid"]})
        } - found
        if not more:
            return found
        found |= more


def with_new_jobs(
    records: Sequence[Record], finished: str, new_jobs: Sequence[Record]
) -> list[dict[str, Any]]:
    """Return the flow after one of its jobs asked for more jobs; saying it twice changes nothing.

    Replacements share their uuid with the job they replace, so its children wait for them by themselves. Additions
    wait for nothing and nobody waits for them. A detour has to end before the children of the job that took it begin,
    so they get its jobs as further parents.

    Args:
        records: The flow so far.
        finished: Uuid of the job that asked.
        new_jobs: Its `new_jobs`, each with `via`: replace, detour or addition.
    """
    known = {key_of(record) for record in records}
    fresh = [dict(record) for record in new_jobs if key_of(record) not in known]
    detour = {record["uuid"] for record in new_jobs if record.get("via") == "detour"}
    old = [
        {**record, "parents": sorted({*record["parents"], *detour})}
        if detour and finished in record["parents"] and record["uuid"] not in detour
        else dict(record)
        for record in records
    ]
    return old + fresh
