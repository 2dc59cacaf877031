"""A flow while its jobs run: which may begin, which never will, kept up to date from one ended job to the next.

It says what `flows.graph.runnable` says of all jobs, but asks only those that an event touches, so that a flow of
thousands of jobs costs each of them the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from flows.graph import Key, Record, delayed, inserted, key_of, needs, waits
from flows.schemas import FailureInfo


class FlowProgress:
    """What has become of the jobs of one flow.

    Args:
        records: The jobs, as `flows.building.job_records` gives them.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self.records: dict[Key, Record] = {}
        self.done: set[Key] = set()
        self.failed: dict[Key, FailureInfo] = {}
        self.never: set[str] = set()
        """Uuids that failed, and all that will not run because of them."""
        self._ended = False  # whether a job stopped the whole flow
        self._unfinished: Counter[str] = Counter()  # jobs of a uuid that are not done
        self._children: dict[str, dict[Key, None]] = {}  # a dict for its order
        self._look: dict[Key, None] = {}  # jobs that may have become ready
        self._begun: set[Key] = set()
        self._add(records)

    @property
    def left(self) -> set[Key]:
        """Jobs that are neither done nor failed."""
        return self.records.keys() - self.done - self.failed.keys()

    def ready(self) -> list[Key]:
        """Return the jobs to begin now, each only once."""
        asked, self._look = self._look, {}
        if self._ended:
            return []
        found = [
            key
            for key in asked
            if key not in self._begun
            and key[0] not in self.never
            and not waits(self.records[key], self._unfinished, self.never)
        ]
        self._begun.update(found)
        return found

    def take(self, key: Key, result: Mapping[str, Any]) -> None:
        """Note the end of a job.

        Args:
            key: The job.
            result: What `run_job_once` gave: its failure; or the jobs it asked for, and whether it stopped others.
        """
        if not result["ok"]:
            self.failed[key] = FailureInfo(**result["failure"])
            self._lose(key[0])
            return
        self.done.add(key)
        self._less(key[0])
        self._delay_children(key[0], inserted(result["new_jobs"]))
        self._add(result["new_jobs"])
        if result["stop_children"]:
            self._stop_children(key[0])
        self._ended = self._ended or result["stop_flow"]
        self._look |= self._children.get(key[0], {})

    def _add(self, records: Iterable[Record]) -> None:
        fresh = {key_of(record): record for record in records if key_of(record) not in self.records}
        self.records |= fresh
        self._unfinished.update(uuid for uuid, _ in fresh)
        self._look |= dict.fromkeys(fresh)
        for key, record in fresh.items():
            for parent in record["parents"]:
                self._children.setdefault(parent, {})[key] = None
        for key, record in fresh.items():
            if needs(record) & self.never:
                self._lose(key[0])

    def _less(self, uuid: str) -> None:
        self._unfinished[uuid] -= 1
        if not self._unfinished[uuid]:
            del self._unfinished[uuid]

    def _delay_children(self, uuid: str, between: set[str]) -> None:
        for key in self._children.get(uuid, {}):
            if between and key[0] not in between:
                self.records[key] = delayed(self.records[key], between)
                for parent in between:
                    self._children.setdefault(parent, {})[key] = None

    def _lose(self, uuid: str) -> None:
        """Note a uuid that will never be done, and with it all that need it; others wait for it no longer."""
        frontier = [uuid]
        while frontier:
            lost = frontier.pop()
            self.never.add(lost)
            children = self._children.get(lost, {})
            self._look |= children
            frontier += [
                key[0] for key in children if key[0] not in self.never and lost in needs(self.records[key])
            ]

    def _stop_children(self, uuid: str) -> None:
        """Note that whatever has a job for its parent will not run, even if it could without its output."""
        frontier, seen = [uuid], {uuid}
        while frontier:
            stopped = frontier.pop()
            for key in self._children.get(stopped, {}):
                if key[0] not in seen and stopped not in self.records[key].get("after", ()):
                    seen.add(key[0])
                    frontier.append(key[0])
                    self._lose(key[0])
