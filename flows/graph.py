"""Which jobs of a flow may run next: pure functions on plain records {uuid, index, name, parents}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from flows.errors import LabelFlowError

Record = Mapping[str, Any]
Key = tuple[str, int]


def key_of(record: Record) -> Key:
    """Return (uuid, index): a job that was replaced keeps its uuid and counts its index up."""
    return record["uuid"], record["index"]


def runnable(records: Sequence[Record], done: AbstractSet[Key], running: AbstractSet[Key]) -> list[Key]:
    """Return the jobs that neither run nor are done and whose parents are done, in the order of the records.

    A parent is done when every index of its uuid is.
    """
    unfinished = {record["uuid"] for record in records if key_of(record) not in done}
    return [
        key_of(record)
        for record in records
        if key_of(record) not in done
        and key_of(record) not in running
        and not unfinished.intersection(parent for parent in record["parents"] if parent != record["uuid"])
    ]


def in_order(records: Sequence[Record]) -> list[Key]:
    """Return the jobs so that parents come before children.

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


def descendants(records: Iterable[Record], uuid: str) -> set[str]:
    """Return the uuids that depend on a job, directly or through others."""
    known = list(records)
    found: set[str] = set()
    frontier = {uuid}
    while frontier:
        frontier = {
            record["uuid"]
            for record in known
            if frontier.intersection(record["parents"]) and record["uuid"] not in found | {uuid}
        }
        found |= frontier
    return found
