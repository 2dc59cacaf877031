"""The process that hands a pool's tasks to its blocks: Parsl's interchange with our placement.

Run as `python -P interchange.py` by the executor, which writes the interchange's settings to its standard input. Tasks
carry `expected_s` in their resource specification; managers say when they stop taking tasks (`drain_time`).
"""

from __future__ import annotations

import pickle
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from parsl.executors.high_throughput.interchange import Interchange

_PARENT = Path(__file__).resolve().parents[2]
if __name__ == "__main__" and Path(sysconfig.get_path("purelib")).resolve() != _PARENT:
    sys.path.insert(0, str(_PARENT))  # a checkout, as in block_script.worker_init

from campaign.parallel.placement import Room, place  # noqa: E402  (found only now)

LOOKED_AT = 1000
"""Tasks that are looked at for one placement, first come first; more would only cost time."""
HELD_SILENT_S = 20.0
"""Silence after which a held manager counts as lost [s]: its block is to end, or the batch system says that it has."""


class PlacingInterchange(Interchange):
    """Places each task on the block with the least time left in which it fits."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._whole: dict[bytes, float] = {}
        self._queued = 0

    def process_tasks_to_send(self, interesting_managers: set[bytes], monitoring_radio: Any) -> None:
        """Send tasks to managers, if there is a new task, or a manager has room that it had not before."""
        known = set(self._ready_managers)
        for manager_id in known - self._whole.keys():
            self._whole[manager_id] = self._ready_managers[manager_id]["drain_time"] - time.time()
        for manager_id in self._whole.keys() - known:
            del self._whole[manager_id]
        news = bool(interesting_managers) or len(self.pending_task_queue) > self._queued
        if news and self.pending_task_queue:
            self._place_tasks(monitoring_radio)
        # A task that fits nowhere now will not fit later either: what is left waits for news.
        interesting_managers.clear()
        self._queued = len(self.pending_task_queue)

    def expire_bad_managers(self, interesting_managers: set[bytes], monitoring_radio: Any) -> None:
        """Give up managers that are silent for too long, with their tasks; held ones soon."""
        for record in self._ready_managers.values():
            if not record["active"] and time.time() - record["last_heartbeat"] > HELD_SILENT_S:
                record["last_heartbeat"] = 0.0  # longer ago than any threshold
        super().expire_bad_managers(interesting_managers, monitoring_radio)

    def _place_tasks(self, monitoring_radio: Any) -> None:
        now = time.time()
        managers, rooms = [], []
        for manager_id, record in self._ready_managers.items():
            free = record["max_capacity"] - len(record["tasks"])
            if free > 0 and record["active"] and not record["draining"]:
                managers.append(manager_id)
                rooms.append(
                    Room(free, record["drain_time"] - now, self._whole[manager_id], len(record["tasks"]))
                )
        if not rooms:
            return
        entries = list(self.pending_task_queue[-LOOKED_AT:])[::-1]  # the queue's end is its front
        chosen = place([_expected(entry[-1]) for entry in entries], rooms)
        batches: dict[bytes, list[dict[str, Any]]] = {}
        for entry, index in zip(entries, chosen, strict=True):
            if index is not None:
                self.pending_task_queue.remove(entry)
                batches.setdefault(managers[index], []).append(entry[-1])
        for manager_id, tasks in batches.items():
            self.manager_sock.send_multipart([manager_id, pickle.dumps(tasks)])
            record = self._ready_managers[manager_id]
            record["tasks"].extend(task["task_id"] for task in tasks)
            record["idle_since"] = None
            self.count += len(tasks)
            self._send_monitoring_info(monitoring_radio, record)


def _expected(message: dict[str, Any]) -> float | None:
    expected: float | None = message["context"].get("resource_spec", {}).get("expected_s")
    return expected


def main() -> None:
    """Serve until the driver, whose settings come through a pipe of its own, ends this process."""
    from parsl.utils import setproctitle

    setproctitle("campaign: interchange")
    PlacingInterchange(**pickle.Unpickler(sys.stdin.buffer).load()).start()


if __name__ == "__main__":
    main()
