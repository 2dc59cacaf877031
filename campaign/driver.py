"""The driver: the only loop, and the only writer of a campaign's documents.

    results -> record -> plan -> own decisions -> submit -> wait for the next result

It keeps no truth of its own: everything in memory can be projected from the store again, and is, on resume.
"""

from __future__ import annotations

import errno
import os
import queue
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from campaign.actions import Action, BuildLabel, Finish, RunJob, Sample, Score, Screen, Train
from campaign.blocks import BlockBook
from campaign.decisions import Decider
from campaign.documents import now
from campaign.errors import DocumentRefusedError, StoreFullError
from campaign.failures import MACHINE, counted, machine_cut, try_task_again
from campaign.orders import OrderBook
from campaign.parallel.pooling import Pools
from campaign.parallel.pools import classify_exception
from campaign.plan import plan
from campaign.recording import Recorder
from campaign.retrying import act_on_requests
from campaign.run_folder import RunFolder
from campaign.state import LABEL_FIELDS, CampaignState, project_label
from campaign.store import CampaignStore
from campaign.substitutes import substitute_result
from campaign.task_times import TaskTimes
from campaign.usage import TASK_CORE_HOURS, budgets, lost_seconds, to_warn_of, total_usage

LEAST_SPACE = 2**20
"""With fewer free bytes a disk is full."""

TICK_S = 0.5
"""How often stop requests, the lease and the clock are looked at while nothing comes back [s]."""

USAGE_PERIOD_S = 5.0
"""How often resource use is written to the campaign's document [s]."""

MAX_TASK_ATTEMPTS = 3
"""Tries of a task that is not a label's job (those have policies by cause)."""

MAX_TASK_LOSSES = 5
"""Lost workers forgiven to such a task; one of its crystals may be what kills them."""

QUEUE_AHEAD = 2
"""Tasks kept waiting per slot of the `gpu` and `cpu` pools, so that a worker never waits for the driver."""


class Holding(Protocol):
    """What the driver needs of its lease."""

    def check(self) -> None:
        """Raise `LeaseError` if another driver has taken over."""


@dataclass
class Driver:
    """Runs one campaign to its end, a stop, or an error that a user has to cure."""

    store: CampaignStore
    pools: Pools
    book: OrderBook
    recorder: Recorder
    decider: Decider
    folder: RunFolder
    lease: Holding
    blocks: BlockBook
    state: CampaignState
    times: TaskTimes
    on_change: Callable[[CampaignState, dict[str, int]], None]
    """Called after each turn with the state and the number of running tasks per pool."""
    cores: Mapping[str, int] = field(default_factory=dict)
    """Cores of a worker of each pool, for tasks whose worker cannot say what they have cost; 1 where none is named."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Sums over tasks so far, see `campaign.usage`."""
    warned: dict[str, float] = field(default_factory=dict)
    """Budgets whose near end was told: name -> limit."""
    grace_s: float | None = None
    """How long a drain may take before running tasks are cancelled [s]; None: as long as they need."""
    _running: dict[str, tuple[Action, float]] = field(default_factory=dict)
    _done: queue.SimpleQueue[tuple[str, Future[Any]]] = field(default_factory=queue.SimpleQueue)
    _held: dict[str, tuple[Sample, dict[str, Any]]] = field(default_factory=dict)
    """Sampled batches that wait for an earlier batch of their round: batches are recorded in order."""
    _failed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Failed tries of tasks that are no labels' jobs."""
    _usage_written: float = 0.0
    _unrecorded: int = 0
    _stop_mode: str | None = None
    _stop_since: float | None = None

    def run(self) -> str:
        """Work until nothing is left to do, and return why.

        Raises:
            CampaignError: The store, the lease or the site failed; everything recorded is whole.
        """
        while True:
            self.lease.check()
            self._look_for_stop()
            self._look_for_retries()
            self._count_usage()
            reason = self._turn()
            self._write_usage(force=reason is not None)
            if reason is not None:
                return reason
            self.on_change(self.state, self._busy())
            self._collect()

    def request_stop(self, mode: str) -> None:
        """Begin to drain (`drain`) or give up what runs (`now`); safe to call from a signal handler.

        It only leaves a note: the state may be in the middle of being replaced.
        """
        self._stop_mode = "now" if "now" in (mode, self._stop_mode) else mode
        self._stop_since = self._stop_since or time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether a stop has been asked for."""
        return self._stop_mode is not None

    def must_leave(self) -> bool:
        """Tell whether a stop was asked for that does not wait for a store that is away.

        Without a store nothing can be drained: a first request waits, a second one, `campaign stop --now` or the end
        of SIGTERM's grace does not. What runs and what was not recorded is repeated, or found in its folder, on resume.
        """
        asked = self.folder.stop_request()
        if asked is not None:
            self.request_stop(asked)
        return self._stop_mode == "now" or self._grace_is_over()

    @property
    def kept(self) -> int:
        """How many results have come that are not recorded yet."""
        return self._done.qsize() + self._unrecorded

    def _turn(self) -> str | None:
        """Decide and submit; return the reason if the campaign has ended."""
        while True:
            actions = plan(self.state, self.book.spec, self._free(), self._running.keys() | self._held.keys())
            own = [action for action in actions if action.pool is None]
            for action in own:
                if isinstance(action, Finish):
                    return action.reason
                self.state = self.decider.do(action, self.state)
            if not own:
                break
        for action in actions:
            self._submit(action)
        if self.state.stop_requested and self._must_cancel():
            return "stopped at once; running tasks will be repeated on resume"
        return None

    def _submit(self, action: Action) -> None:
        function, document = self.book.order(action, self.state)
        if isinstance(action, RunJob):
            self.state = self.recorder.job_started(action, self.state)
        expected_s = self.times.expected_s(action)
        future = self.pools.submit(action.pool or "", function, document, expected_s=expected_s)
        self._running[action.key] = (action, time.monotonic())
        future.add_done_callback(lambda done, key=action.key: self._done.put((key, done)))  # type: ignore[misc]

    def _collect(self) -> None:
        """Wait for a result, then record it and every other that has come."""
        try:
            finished = [self._done.get(timeout=TICK_S)]
        except queue.Empty:
            return
        while not self._done.empty():
            finished.append(self._done.get())
        self._unrecorded = len(finished)
        for key, future in finished:
            action, begun = self._running.pop(key)
            self._record(action, future, time.monotonic() - begun)
            self._unrecorded -= 1

    def _record(self, action: Action, future: Future[Any], waited_s: float) -> None:
        try:
            result = future.result()
        except CancelledError:
            return
        except Exception as error:
            # Whatever a worker raises becomes a typed cause here; the driver itself never stops for it.
            cause, message = classify_exception(error)
            failure = {"cause": cause, "message": message, "detail": ""}
            # a pool knows nothing of a job's own time: it tells of its blocks'
            result = {"ok": False, "failure": {**failure, "block_ended": cause == "walltime"}}
            if isinstance(action, RunJob):  # the worker cannot say what its end has cost
                result |= self.book.lost_job(action, waited_s)
            else:
                blocks = self.blocks.documents()
                result["seconds"] = lost_seconds(action.pool or "", waited_s, blocks, time.time())
        self._stop_without_space(result)
        self._count_task(action, result)
        if isinstance(action, RunJob):
            self._record_job(action, result)
        elif result.get("ok", True):
            self._record_task(action, result)
        else:
            self._failed_task(action, result)
        self.times.ended(action, result)

    def _stop_without_space(self, result: dict[str, Any]) -> None:
        """End the driver when a task failed for want of space where the run lies: no fault of the task, nor the last.

        Raises:
            StoreFullError: It did. The store itself may still find room in its log.
        """
        said = str((result.get("failure") or {}).get("message", ""))
        if os.strerror(errno.ENOSPC) in said and shutil.disk_usage(self.folder.path).free < LEAST_SPACE:
            raise StoreFullError(
                "no space left on the device",
                value=str(self.folder.path),
                cure="free space, then `campaign resume`",
            )

    def _record_job(self, action: RunJob, result: dict[str, Any]) -> None:
        if result["ok"]:
            try:
                self.state = self.recorder.job_done(action, result, self.state)
                return
            except DocumentRefusedError as error:
                # This result's fault: it stays in its folder, and others go on.
                failure = {"cause": "unknown", "message": error.one_line(), "detail": ""}
                result = {**result, "ok": False, "failure": failure}
        self.state = self.recorder.job_failed(action, result, self.decider.config.labels, self.state)

    def _record_task(self, action: Action, result: dict[str, Any]) -> None:
        match action:
            case Sample():
                self._held[action.key] = (action, result)
                self._record_batches(action.round)
            case Screen():
                self.state = self.recorder.screened(action, result, self.state)
            case Score():
                self.state = self.recorder.scored(action, result, self.state)
            case BuildLabel():
                self.state = self.recorder.built(action, result, self.state)
            case Train():
                self.state = self.recorder.trained(action, result, self.state)

    def _record_batches(self, index: int) -> None:
        """Record the batches of a round in their order: which of two equal crystals is kept must not depend on time."""
        for name, *_ in self.book.spec.batches(self.state.rounds[index]):
            if name in self.state.rounds[index].batches:
                continue
            held = self._held.pop(f"sample/{index}/{name}", None)
            if held is None:
                return
            self.state = self.recorder.sampled(*held, self.state)

    def _failed_task(self, action: Action, result: dict[str, Any]) -> None:
        """Try a task again, or after enough tries record what stands in for its result."""
        failure, tries = result["failure"], self._failed.setdefault(action.key, [])
        new = {**failure, "wall_seconds": result.get("seconds"), "geometries": 0}
        tries.append({**new, "forgiven": MACHINE if machine_cut(tries, new) else None})
        self.store.log_event("task_failed", f"{action.key}: {failure['cause']}: {failure['message']}")
        if not try_task_again(counted(tries), MAX_TASK_ATTEMPTS, MAX_TASK_LOSSES):
            self._failed.pop(action.key)
            instead = substitute_result(action, self.state, failure)
            if isinstance(action, BuildLabel):
                self.state = self.recorder.label_failed(action.label, instead["failure"], self.state)
            else:
                self._record_task(action, instead)

    def _free(self) -> dict[str, int]:
        """Return how many more tasks each pool may be given: `dft` exactly its slots, the others a few ahead."""
        busy = self._busy()
        return {
            name: slots * (1 if name == "dft" else 1 + QUEUE_AHEAD) - busy.get(name, 0)
            for name, slots in self.pools.slots.items()
        }

    def _busy(self) -> dict[str, int]:
        busy: dict[str, int] = dict.fromkeys(self.pools.slots, 0)
        for action, _ in self._running.values():
            busy[action.pool or ""] += 1
        return busy

    def _look_for_stop(self) -> None:
        asked = self.folder.stop_request()
        if asked is not None:
            self.request_stop(asked)
        if self._stop_mode is None or self._stop_mode == self.state.stop_requested:
            return
        self.state = replace(self.state, stop_requested=self._stop_mode)
        self.store.log_event("stop_requested", f"mode {self._stop_mode}")

    def _look_for_retries(self) -> None:
        labels = act_on_requests(self.store, self.folder)
        if labels:
            again = self.store.query("labels", {"_id": {"$in": labels}}, fields=LABEL_FIELDS)
            self.state = self.state.with_labels(project_label(one) for one in again)

    def _must_cancel(self) -> bool:
        return bool(self._running) and (self._grace_is_over() or self.state.stop_requested == "now")

    def _grace_is_over(self) -> bool:
        since, grace = self._stop_since, self.grace_s
        return since is not None and grace is not None and time.monotonic() - since > grace

    def _count_usage(self) -> None:
        """Look at the blocks and work out what was used; tell of budgets that come to their end."""
        self.blocks.look(self.pools.blocks())
        spent = sum(label.core_hours for label in self.state.labels.values())
        usage = total_usage(self.tasks, spent, self.blocks.live(), time.time(), self.blocks.ended)
        self.state = replace(self.state, usage=usage)
        found = budgets(self.decider.config.stop, usage, stable=self.book.spec.stable_found(self.state))
        for one in to_warn_of(found, self.warned):
            words = f"{one.name}: {one.used:.3g} of {one.limit:g} used ({100 * one.share:.0f} %)"
            self.store.log_event("budget_warning", words, **one.document())
            self.warned[one.name] = one.limit
            self._set_campaign({"warned": self.warned})

    def _count_task(self, action: Action, result: dict[str, Any]) -> None:
        """Add a task to the sums; what is no label's job leaves no other trace, so it is written down at once."""
        kind = action.key.split("/", 1)[0]
        seconds = float(result.get("seconds") or result.get("wall_seconds") or 0.0)
        spent = {f"{kind}_seconds": seconds, f"{kind}_tasks": 1.0}
        if not isinstance(action, RunJob):
            cores = self.cores.get(action.pool or "", 1)
            spent[TASK_CORE_HOURS] = float(result.get("core_hours") or seconds * cores / 3600)
        for name, number in spent.items():
            self.tasks[name] = self.tasks.get(name, 0.0) + number
        if not isinstance(action, RunJob):
            self._write_usage(force=True)

    def _write_usage(self, *, force: bool) -> None:
        if force or time.monotonic() - self._usage_written > USAGE_PERIOD_S:
            self._usage_written = time.monotonic()
            usage = {**self.state.usage, **self.tasks}
            self._set_campaign({"usage": usage, "durations": self.times.document(), "updated": now()})

    def _set_campaign(self, fields: dict[str, Any]) -> None:
        self.store.set_fields("campaigns", self.decider.config.name, fields)
