"""Pools on Parsl: one executor per pool, watched, quiet, and gone when the driver is gone.

What is done differently from Parsl's defaults, and why (more in `campaign.parallel.htex`):

* `retries=0`: attempts are the driver's to count. No checkpoints: truth is in the campaign's store.
* Strategy `none`: blocks are submitted, replaced and given back by `campaign.parallel.blocks`. Local pools are awaited
  at the start; a batch queue may take hours, so nothing waits for it.
* Parsl's log goes to `parsl.log` in the run's folder from INFO on, five files of 5 MB at most. Folders of logs and
  scripts are the user's alone.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import logging.handlers
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import parsl
from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel

from campaign.errors import SiteError
from campaign.parallel.addresses import listening_address
from campaign.parallel.blocks import BlockKeeper
from campaign.parallel.htex import PoolExecutor, executor_of
from campaign.parallel.memory_kills import NOTED_S, KillNotes, noted_lately
from campaign.parallel.pooling import Block, PoolLostError, relay, settle, site_sizes
from campaign.parallel.processes import MARKER, end_carrying, new_marker
from campaign.parallel.providers import POLL_S, QueueBlocks, Systems, provider_of
from campaign.parallel.queues import QueueSilentError, SubmissionError
from campaign.site import Site, pool_of, pools_with_workers
from campaign.site_sizes import PoolSize

_LAST_LOOK_S = 10.0
_SETTLED_S = 1.5  # a task so old has been placed, if there is a place for it


def _own_config(reference: str, names: Sequence[str]) -> Config:
    """Return the user's own configuration, checked for what the campaign relies on."""
    module_name, _, function_name = reference.partition(":")
    try:
        config = getattr(importlib.import_module(module_name), function_name)()
    except Exception as error:
        raise SiteError(
            "parsl_config cannot be used", value=f"{reference} ({type(error).__name__}: {error})",
            cure="name an importable function without arguments that returns a parsl.Config",
        ) from error  # fmt: skip
    labels = sorted(e.label for e in config.executors) if isinstance(config, Config) else []
    missing = [name for name in names if name not in labels]
    if missing:
        raise SiteError(
            f"{reference} has no executors called {', '.join(missing)}",
            value=labels or type(config).__name__,
            allowed=names, cure="label one executor for each pool",
        )  # fmt: skip
    config.retries = 0  # attempts are counted by the driver
    return config


@dataclass(frozen=True)
class _Task:
    """A task that was submitted and is not done."""

    pool: str
    expected_s: float | None
    submitted: float


class ParslPools:
    """The site's pools on Parsl; start them from the driver's main thread.

    Args:
        site: The site.
        run_dir: Folder for logs and scripts: `<run_dir>/NNN` for each start, and `<run_dir>/parsl.log`.
        identity: What the names of batch jobs say about whose they are (`queues.campaign_identity`).

    Raises:
        SiteError: A pool cannot be sized, a local one does not start within the site's `start_timeout_s`, or a batch
            system would not take its jobs.
    """

    def __init__(self, site: Site, run_dir: Path, identity: str = "none") -> None:
        run_dir = run_dir.resolve()
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.chmod(0o700)
        self.marker = new_marker()
        self._site, self._names = site, pools_with_workers(site)
        self._log = _log_to(run_dir / "parsl.log")
        self._outstanding: dict[Future[Any], _Task] = {}
        self._lock = threading.Lock()
        self._lost: dict[str, str] = {}
        self._closed = threading.Event()
        self._begun: dict[tuple[str, str], float] = {}
        self._ended: dict[tuple[str, str], float] = {}
        if site.parsl_config:
            sizes, config = {}, _own_config(site.parsl_config, self._names)
            os.environ[MARKER] = self.marker  # what it starts inherits it, so that a later driver finds it
        else:
            sizes = site_sizes(site)
            config = Config(
                executors=self._executors(sizes, identity, run_dir),
                retries=0,
                strategy="none",
                strategy_period=POLL_S,
            )
        config.run_dir, config.initialize_logging, config.usage_tracking = str(run_dir), False, 0
        try:
            self._kernel = DataFlowKernel(config)
        except Exception as error:
            end_carrying(MARKER, self.marker)
            raise SiteError("Parsl does not start", value=f"{type(error).__name__}: {error}",
                            cure=f"see {run_dir / 'parsl.log'}") from error  # fmt: skip
        self._pools = {name: ParslPoolExecutor(dfk=self._kernel, executors=[name]) for name in self._names}
        self._keepers = {
            name: BlockKeeper(name, pool_of(site, name), size, self._kernel.executors[name], self.marker)
            for name, size in sizes.items()
        }
        self.slots: Mapping[str, int] = {}
        self._watcher = threading.Thread(target=self._watch, name="pools-watch", daemon=True)
        self._watcher.start()
        try:
            self.slots = {name: self._slots(name, sizes.get(name)) for name in self._names}
        except BaseException:
            self.close(cancel=True)
            raise

    def _executors(self, sizes: Mapping[str, PoolSize], identity: str, folder: Path) -> list[PoolExecutor]:
        """Return the pools' executors, after their batch systems have been asked whether they take such jobs."""
        # The kernel binds a process to the *thread* that started it: of use only from the main thread.
        bind = threading.current_thread() is threading.main_thread()
        systems, executors = Systems(self._site), []
        for name, size in sizes.items():
            provider = provider_of(name, systems, size, identity=identity, marker=self.marker)
            if isinstance(provider, QueueBlocks):
                _check(name, provider, folder)
            address = listening_address(self._site.address, size.provider)
            executors.append(
                executor_of(name, size, provider, address=address, marker=self.marker, bind=bind)
            )
        return executors

    def submit(
        self, pool: str, function: Callable[..., Any], /, *args: Any, expected_s: float | None = None
    ) -> Future[Any]:
        """Run `function(*args)` on a worker of `pool`, on a block that lives for `expected_s` seconds yet.

        Raises:
            SiteError: The pool broke down as a whole.
        """
        if pool in self._lost:
            raise SiteError(
                f"pool {pool} broke down", value=self._lost[pool], cure="campaign resume starts it anew"
            )
        future: Future[Any] = Future()
        with self._lock:
            self._outstanding[future] = _Task(pool, expected_s, time.monotonic())
        future.add_done_callback(self._forget)
        if pool in self._keepers:  # past Parsl's data flow, which passes no expected time on
            needs = {} if expected_s is None else {"expected_s": expected_s}
            given = self._kernel.executors[pool].submit(function, needs, *args)
        else:
            given = self._pools[pool].submit(function, *args)
        given.add_done_callback(lambda done: self._pass_on(pool, done, future))
        return future

    def blocks(self) -> list[Block]:
        """Return every block that was started, ended ones included."""
        if self._site.parsl_config:
            return [block for name in self._names for block in self._own_blocks(name)]
        return [block for keeper in self._keepers.values() for block in keeper.blocks()]

    def _own_blocks(self, name: str) -> list[Block]:
        """Return the blocks of an executor that the user has configured, as far as Parsl tells."""
        executor = self._kernel.executors[name]
        jobs: dict[str, Any] = dict(getattr(executor, "blocks_to_job_id", {}))
        known, now = dict(getattr(executor, "status_facade", {})), time.time()
        found = []
        for block_id, job_id in jobs.items():
            begun = self._begun.setdefault((name, block_id), now)
            if block_id in known and known[block_id].terminal:
                self._ended.setdefault((name, block_id), now)
            ended = self._ended.get((name, block_id))
            provider = executor.provider
            local = provider.label == "local"
            found.append(
                Block(
                    name, block_id, str(job_id), provider.label, platform.node(), self.marker,
                    nodes=0 if local else provider.nodes_per_block,
                    state="running" if ended is None else "ended", submitted=begun, started=begun, ended=ended,
                )
            )  # fmt: skip
        return found

    def close(self, cancel: bool) -> None:
        """End the pools: after all submitted tasks, or at once with the tasks' futures cancelled."""
        if self._closed.is_set():
            end_carrying(MARKER, self.marker)  # nothing, unless the first time was interrupted
            return
        if not cancel:
            wait(list(self._outstanding))
        self._closed.set()
        self._watcher.join(_LAST_LOOK_S)  # it may just be submitting a block
        if self._lost:
            # Parsl asks a dead interchange for its managers, without end: leave it, and end what is there.
            atexit.unregister(self._kernel.atexit_cleanup)
        else:
            self._kernel.cleanup()
        for keeper in self._keepers.values():
            if isinstance(keeper.executor.provider, QueueBlocks):
                keeper.executor.provider.cancel_all()
        end_carrying(MARKER, self.marker)
        if os.environ.get(MARKER) == self.marker:
            del os.environ[MARKER]
        for future in list(self._outstanding):
            future.cancel()
            settle(future)  # tells those who wait for it
        _stop_log(self._log)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._outstanding.pop(future, None)

    def _pass_on(self, pool: str, done: Future[Any], target: Future[Any]) -> None:
        """Give a task's result on; that of a lost worker once its node has had time to note why."""
        name_cause = partial(self._name_cause, pool)
        if not done.cancelled() and type(done.exception()).__name__ == "WorkerLost":
            later = threading.Timer(NOTED_S, relay, (done, target, name_cause))
            later.daemon = True
            later.start()
        else:
            relay(done, target, name_cause)

    def _name_cause(self, pool: str, error: BaseException) -> BaseException:
        """Tell a worker that the kernel ended for want of memory from one that was lost otherwise."""
        if type(error).__name__ != "WorkerLost":
            return error
        executor = self._kernel.executors[pool]
        folder = Path(executor.worker_logdir if pool in self._keepers else self._kernel.run_dir)
        if noted_lately(folder, getattr(error, "hostname", ""), time.time()):
            memory = MemoryError("the kernel ended the worker: out of memory")
            memory.__cause__ = error
            return memory
        return error

    def _slots(self, name: str, size: PoolSize | None) -> int:
        """Return how many tasks run at a time; local workers are waited for, and counted."""
        if size is None:
            return _slots_of(self._kernel.executors[name])
        return size.slots if size.provider != "local" else self._await_pool(name)

    def _await_pool(self, name: str) -> int:
        """Wait until a local pool's workers answer; return how many there are."""
        executor = self._kernel.executors[name]
        deadline = time.monotonic() + self._site.start_timeout_s
        folder = Path(self._kernel.run_dir)
        while time.monotonic() < deadline and executor.interchange_proc.poll() is None:
            if name in self._lost:
                raise SiteError(
                    f"the workers of pool {name} do not start", value=self._lost[name],
                    cure=f"correct worker_init or environment of site {self._site.name}; logs: {folder}",
                )  # fmt: skip
            managers = executor.connected_managers()
            workers = sum(manager["worker_count"] for manager in managers)
            if workers:
                return workers
            if managers:
                raise SiteError(
                    f"pool {name} has no room for a worker",
                    value=f"memory_gb_per_worker {executor.mem_per_worker}", cure="ask for less memory",
                )  # fmt: skip
            time.sleep(0.1)
        raise SiteError(
            f"the workers of pool {name} did not answer within {self._site.start_timeout_s:g} s",
            cure=f"raise start_timeout_s of site {self._site.name}; logs: {folder}",
        )

    def _watch(self) -> None:
        """Keep the blocks; notice an interchange that died: Parsl does not, and its tasks would wait for ever."""
        # The user's own executors have no wardens: of those on this machine the driver takes note itself.
        notes = KillNotes(Path(self._kernel.run_dir)) if self._site.parsl_config else None
        while True:
            if notes:
                notes.look()
            for name in self._names:
                if name not in self._lost and not self._closed.is_set():
                    self._look_after(name)
            if self._closed.wait(POLL_S):
                return

    def _look_after(self, name: str) -> None:
        process = getattr(self._kernel.executors[name], "interchange_proc", None)
        if process is not None and process.poll() is not None:
            self._lose(name, f"its interchange ended with code {process.returncode}")
        elif name in self._keepers:
            settled = time.monotonic() - _SETTLED_S
            with self._lock:
                tasks = [task for task in self._outstanding.values() if task.pool == name]
            keeper = self._keepers[name]
            try:
                keeper.step([task.expected_s for task in tasks if task.submitted < settled])
            except Exception as error:
                if self._closed.is_set():  # looked at while it was taken down
                    return
                logging.getLogger("parsl.campaign").exception("pool %s", name)
                self._lose(name, f"its blocks cannot be looked after: {type(error).__name__}: {error}")
            if keeper.given_up:
                self._lose(name, f"its blocks do not start: {keeper.given_up}")

    def _lose(self, name: str, why: str) -> None:
        self._lost[name] = why
        for future in [f for f, task in list(self._outstanding.items()) if task.pool == name]:
            settle(future, error=PoolLostError(f"pool {name}: {why}"))


def _check(name: str, provider: QueueBlocks, folder: Path) -> None:
    try:
        provider.check(folder)
    except (SubmissionError, QueueSilentError) as error:
        passing = isinstance(error, QueueSilentError) or error.passing
        raise SiteError(
            f"{provider.label} does not take jobs of pool {name}", value=str(error),
            cure="start again once it answers" if passing else
            f"correct partition, account or resources of pool {name}; the script is in {folder}",
        ) from error  # fmt: skip


def _slots_of(executor: Any) -> int:
    provider: Any = getattr(executor, "provider", None)
    blocks = int(provider.max_blocks * provider.nodes_per_block) if provider else 1
    workers = getattr(executor, "workers_per_node", None) or getattr(executor, "max_threads", None) or 1
    return max(1, blocks * int(workers))


def _log_to(path: Path) -> logging.Handler:
    """Send Parsl's log to a file of limited size, and nowhere else."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=5_000_000, backupCount=4, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger(parsl.__name__)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return handler


def _stop_log(handler: logging.Handler) -> None:
    logging.getLogger(parsl.__name__).removeHandler(handler)
    handler.close()
