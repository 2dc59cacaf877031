"""Pools whose label jobs are Fireworks: `dft` on a LaunchPad, the other pools on workers of our own.

Each job becomes one workflow of one Firework, with category, priority, campaign and candidate in its spec; workers
that a cluster's `rlaunch` or `qlaunch` starts take it from there. One thread adds what was submitted and asks the
LaunchPad for all open Fireworks at once.

* A Firework is known by campaign, launch, label, job and try: a driver that was killed finds what it had added, and
  adds nothing twice.
* The order and the result lie in the job's folder, so driver and workers share the disk of the run folder.
* A run that does not report for `lost_after_seconds` counts as lost: its job comes back as `node_lost`, which is
  tried again for free. Were it alive after all, the lock of the job's folder keeps the second run waiting, and that
  one finds the first one's result.
* While the LaunchPad is away everything waits; only after half an hour the driver ends, to be resumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import logging.handlers
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.errors import SiteError
from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig
from campaign.parallel.fireworks_verdicts import failed_result, failure, priority, verdict
from campaign.parallel.launchpad import Board, Sight
from campaign.parallel.pooling import Block, PoolLostError, Pools, settle

POOL = "dft"
"""The pool that a LaunchPad can serve: its tasks are label jobs, durable in folders of their own."""
OUTAGE_S = 1800.0
"""How long the LaunchPad may be away before the driver gives up and waits for `campaign resume` [s]."""
WAITING = ("WAITING", "READY", "RESERVED")
_ABOUT = ("campaign", "launched", "label", "candidate", "formula", "purpose", "round", "rank", "job", "index",
          "name", "attempt", "begun")  # fmt: skip


@dataclass
class _Entry:
    """A submitted job and the Firework it became."""

    order: Mapping[str, Any]
    future: Future[Any] = field(default_factory=Future)
    fw_id: int | None = None
    seen: tuple[str, str] = ("", "")
    """State and last report, as they were last."""
    since: float = field(default_factory=time.monotonic)
    """When they last changed, or the LaunchPad last failed to answer."""

    @property
    def folder(self) -> Path:
        return Path(self.order["work_dir"])


def job_key(about: Mapping[str, Any]) -> str:
    """Return what a Firework is found again by: one per campaign, launch of it, label, job and try."""
    parts = [about[name] for name in ("campaign", "launched", "label", "job", "index", "attempt")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def spec_of(about: Mapping[str, Any], config: FireworksPoolConfig) -> dict[str, Any]:
    """Return FireWorks' own keys of a job's spec. Pure."""
    spec: dict[str, Any] = {
        "_priority": priority(about, config.priority_base),
        "_add_launchpad_and_fw_id": True,  # for the reports of `flows.firetasks`
    }
    if config.category is not None:
        spec["_category"] = config.category
    if config.fworker is not None:
        spec["_fworker"] = config.fworker
    if config.queueadapter:
        spec["_queueadapter"] = dict(config.queueadapter)
    return spec


class FireworksPools:
    """The pools of a site whose pool `dft` is on FireWorks.

    Args:
        config: The pool, its LaunchPad located.
        open_workers: Starts the other pools; called once the LaunchPad has answered.
        run_dir: Folder for the log, `fireworks.log`.

    Raises:
        SiteError: The LaunchPad cannot be used, or the other pools do not start.
    """

    def __init__(self, config: FireworksPoolConfig, open_workers: Callable[[], Pools], run_dir: Path) -> None:
        if not isinstance(config.launchpad, LaunchPadConfig):
            raise SiteError(
                "pools.dft.launchpad was not read", value=str(config.launchpad), cure="load the site"
            )
        self._config = config
        self._board = Board(config.launchpad)
        try:
            self._board.prepare()
            self._workers = open_workers()
        except BaseException:
            self._board.close()
            raise
        self.slots: Mapping[str, int] = {**self._workers.slots, POOL: config.slots}
        self._entries: list[_Entry] = []
        self._lock = threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._answered = time.monotonic()
        self._lost = ""
        self._log, self._handler = _log_to(run_dir)
        self._thread = threading.Thread(target=self._serve, name="launchpad", daemon=True)
        self._thread.start()

    def submit(
        self, pool: str, function: Callable[..., Any], /, *args: Any, expected_s: float | None = None
    ) -> Future[Any]:
        """Run `function(*args)` in `pool`; in `dft` the function is `campaign.tasks.run_job` with its order.

        Raises:
            SiteError: The LaunchPad has been away for too long, or cannot be read.
        """
        if pool != POOL:
            return self._workers.submit(pool, function, *args, expected_s=expected_s)
        if self._lost:
            raise SiteError(
                self._lost, value=self._board.where, cure="mend or start its MongoDB, then campaign resume"
            )
        (order,) = args
        if function.__name__ != "run_job":
            raise TypeError(f"a LaunchPad runs jobs of labels, not {function.__name__}")
        entry = _Entry(order)
        with self._lock:
            self._entries.append(entry)
        self._wake.set()
        return entry.future

    def blocks(self) -> list[Block]:
        """Return the blocks of the other pools: Fireworks are to outlive their driver."""
        return self._workers.blocks()

    def close(self, cancel: bool) -> None:
        """End the pools: after all submitted tasks, or at once.

        At once means: Fireworks that no worker has begun are defused, those that run go on, and a driver that
        resumes the campaign finds both.
        """
        if self._closing.is_set():
            self._workers.close(cancel)
            return
        if not cancel:
            wait([entry.future for entry in self._open()])
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=30)
        with contextlib.suppress(Exception):  # it is away: what waits there is found by the next driver
            for entry in self._open():
                if entry.fw_id is not None:
                    self._board.set_state(entry.fw_id, WAITING, "DEFUSED", taken_back=True)
        for entry in self._open():
            entry.future.cancel()
            settle(entry.future)  # tells those who wait for it
        self._board.close()
        self._log.removeHandler(self._handler)
        self._handler.close()
        self._workers.close(cancel)

    def _open(self) -> list[_Entry]:
        with self._lock:
            self._entries = [entry for entry in self._entries if not entry.future.done()]
            return list(self._entries)

    def _serve(self) -> None:
        """Add and look, again and again; an answer that does not come is waited for."""
        from pymongo.errors import PyMongoError

        while not self._closing.is_set():
            self._wake.wait(self._config.poll_seconds)
            self._wake.clear()
            try:
                for entry in self._open():
                    if entry.fw_id is None and not self._closing.is_set():
                        with _blamed_on(entry):
                            self._add(entry)
                self._look()
                self._answered = time.monotonic()
            except PyMongoError as error:
                self._away(error)
            except Exception as error:  # documents that are not as FireWorks writes them
                self._give_up(f"the LaunchPad cannot be read: {type(error).__name__}: {error}", error)

    def _add(self, entry: _Entry) -> None:
        """Make the entry's Firework, or adopt the one that an earlier driver made."""
        from flows.firetasks import write_order

        about = {name: entry.order["about"][name] for name in _ABOUT}
        key = job_key(about)
        found = self._board.find(key)
        if found is not None:
            if found.state == "DEFUSED" and found.taken_back:
                self._board.set_state(found.fw_id, ["DEFUSED"], "READY")
            entry.fw_id = found.fw_id
            self._log.info("adopted %s %s: %s", found.fw_id, found.state, entry.folder)
            return
        write_order(entry.folder, entry.order)
        task = {"folder": str(entry.folder), "heartbeat_s": self._config.heartbeat_seconds}
        entry.fw_id = self._board.add(key, spec_of(about, self._config), about, task)
        self._log.info("added %s: %s", entry.fw_id, entry.folder)

    def _look(self) -> None:
        """Ask for all open Fireworks at once, and settle those that have come to an end."""
        entries = [entry for entry in self._open() if entry.fw_id is not None]
        sights = (
            self._board.look([entry.fw_id for entry in entries if entry.fw_id is not None]) if entries else {}
        )
        for entry in entries:
            sight = sights.get(entry.fw_id or 0)
            seen = (sight.state, sight.reported) if sight else ("", "")
            if seen != entry.seen:
                entry.seen, entry.since = seen, time.monotonic()
            with _blamed_on(entry):
                self._act(entry, sight)

    def _act(self, entry: _Entry, sight: Sight | None) -> None:
        quiet_s = time.monotonic() - entry.since
        found = self._result(entry, sight) if sight and sight.state in ("COMPLETED", "RUNNING") else None
        decided = verdict(
            sight, quiet_s, lost_after_s=self._config.lost_after_seconds,
            reserved_after_s=self._config.reserved_after_seconds, has_result=found is not None,
        )  # fmt: skip
        if decided == "wait":
            return
        self._log.info("%s %s: %s", entry.fw_id, sight.state if sight else "gone", decided)
        fw_id, place = entry.fw_id or 0, {"folder": str(entry.folder)}
        if decided == "release":
            self._board.set_state(fw_id, ["RESERVED"], "READY")
        elif decided == "done":
            if sight and sight.state == "RUNNING":
                self._board.set_state(fw_id, ["RUNNING"], "COMPLETED")
            settle(entry.future, found)
        elif decided == "failed" and sight:
            settle(entry.future, {**place, **failed_result(sight)})
        elif decided == "lost":
            if self._board.set_state(fw_id, ["RUNNING"], "FIZZLED"):
                silence = f"its worker has not reported for {quiet_s:.0f} s (Firework {fw_id})"
                settle(entry.future, {**place, **failure("node_lost", silence, sight)})
        elif decided == "missing":
            message = f"completed, but no result is in {entry.folder}: the workers see another disk"
            settle(entry.future, {**place, **failure("unknown", message, sight)})
        else:
            state = sight.state.lower() if sight else "deleted"
            message = f"Firework {fw_id} was {state} by a person"
            settle(entry.future, {**place, **failure("cancelled", message, sight)})

    @staticmethod
    def _result(entry: _Entry, sight: Sight) -> dict[str, Any] | None:
        """Return the job's result from its folder, or from where a worker with a full disk left it."""
        from flows.job_files import read_result

        if "result" in sight.stored:
            stored: dict[str, Any] = json.loads(sight.stored["result"])
            return stored
        found = read_result(entry.folder, entry.order["about"]["job"], entry.order["about"]["index"])
        return None if found is None else {**found, "reused": bool(sight.stored.get("reused"))}

    def _away(self, error: Exception) -> None:
        """Let time stand still for the runs: while nobody answers us, nobody takes their reports either."""
        now = time.monotonic()
        for entry in self._open():
            entry.since = now
        self._log.warning("LaunchPad: %s", " ".join(f"{type(error).__name__}: {error}".split())[:300])
        if now - self._answered > OUTAGE_S:
            self._give_up(f"the LaunchPad has not answered for {OUTAGE_S / 60:.0f} minutes", error)

    def _give_up(self, why: str, error: Exception) -> None:
        """End every open job as lost with the pool; the next submission ends the driver."""
        self._lost = why
        for entry in self._open():
            lost = PoolLostError(why)
            lost.__cause__ = error
            settle(entry.future, error=lost)


@contextlib.contextmanager
def _blamed_on(entry: _Entry) -> Iterator[None]:
    """Give the entry's future any error, such as a full disk's, but those of the LaunchPad: these concern all."""
    from pymongo.errors import PyMongoError

    try:
        yield
    except PyMongoError:
        raise
    except Exception as error:
        settle(entry.future, error=error)


def _log_to(run_dir: Path) -> tuple[logging.Logger, logging.Handler]:
    """Return a log of limited size in the run's folder."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "fireworks.log"
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=5_000_000, backupCount=2, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.Logger("fireworks", logging.INFO)  # of its own: nothing goes to the terminal
    logger.addHandler(handler)
    return logger, handler
