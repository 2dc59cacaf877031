"""Pools on Parsl: one HighThroughputExecutor per pool, watched, quiet, and gone when the driver is gone.

What is done differently from Parsl's defaults, and why:

* `retries=0`: attempts are the driver's to count. No checkpoints: truth is in the campaign's store.
* `address=127.0.0.1` for local workers: without it the executor listens on all interfaces.
* Strategy `simple`, one block kept: a block that dies is replaced when there is work, and none is ended for
  being idle. Parsl's own rule takes one failed block as the end of the executor; ours only blocks that never
  started.
* The interchange runs in a session of its own (Ctrl-C) and is bound to the driver's life; each block runs
  under a warden (`campaign.parallel.processes`).
* Interpreter and scripts are named by absolute path, so neither PATH nor an activated environment matters.
* Parsl's log goes to `parsl.log` in the run's folder from INFO on, five files of 5 MB at most.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import itertools
import logging
import logging.handlers
import os
import platform
import shlex
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import parsl
from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.states import JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers import LocalProvider

from campaign.errors import SiteError
from campaign.parallel.pooling import Block, PoolLostError, relay, settle, site_sizes, worker_environment
from campaign.parallel.processes import (
    MARKER,
    detached_command,
    end_carrying,
    new_marker,
    warden_command,
)
from campaign.site import PoolSize, Site, pools_with_workers

if TYPE_CHECKING:
    from parsl.executors.status_handling import BlockProviderExecutor

HEARTBEAT_PERIOD_S = 3
"""How often a manager looks after its workers: a dead one is reported within this time."""
HEARTBEAT_THRESHOLD_S = 20
"""Silence after which a manager counts as lost; workers on contended cores may be late by several seconds."""
_POLL_S = 1.0
_BLOCKS_WITHOUT_START = 3


def packages_parent() -> Path:
    """Return the folder that this process's `campaign`, and hopefully `models` and `flows`, come from."""
    return Path(__file__).resolve().parents[2]


def _worker_init(site: Site, size: PoolSize, marker: str) -> str:
    """Return the shell lines that run before a block's manager; a line that fails ends the block."""
    environment = {**worker_environment(size, site.environment), MARKER: marker}
    lines = ["set -e", "umask 077", *site.worker_init]  # what a worker writes is its user's alone
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    parent = packages_parent()
    if parent != Path(sysconfig.get_path("purelib")).resolve():
        # A checkout: first on the path, lest another package called `models` is found. (site-packages itself
        # must not come first: it would hide the standard library's modules behind old backports.)
        lines.append(f"export PYTHONPATH={shlex.quote(str(parent))}${{PYTHONPATH:+:$PYTHONPATH}}")
    return "\n".join(lines)


class LocalBlocks(LocalProvider):
    """Blocks on this machine: looked at every second, ended as a process group without needing `ps`."""

    @property
    def status_polling_interval(self) -> float:
        """Seconds between two looks."""
        return _POLL_S

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """End the blocks' process groups: the warden in each ends what the block started."""
        for job_id in job_ids:
            block = self.resources[job_id]
            block["cancelled"] = True
            with contextlib.suppress(OSError):
                os.killpg(os.getpgid(block["remote_pid"]), signal.SIGTERM)
        return [True for _ in job_ids]


def blocks_that_never_start(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Give an executor up only if its newest blocks all ended before a manager had answered.

    `MISSING` is Parsl's state for that. One is enough if nothing ever ran; a block that worked and died is
    replaced.
    """
    newest_first = sorted(status.items(), key=lambda item: -int(item[0]))
    never = list(itertools.takewhile(lambda item: item[1].state == JobState.MISSING, newest_first))
    if len(never) >= (1 if len(never) == len(newest_first) else _BLOCKS_WITHOUT_START):
        last = never[0][1]
        words = [last.stderr_summary, last.stdout_summary, last.message]
        executor.set_bad_state_and_fail_all(RuntimeError(next((w for w in words if w), "no message")))


def _executor(name: str, site: Site, size: PoolSize, marker: str, *, bind: bool) -> HighThroughputExecutor:
    import parsl.executors.high_throughput as htex

    scripts = Path(htex.__file__).parent
    worker_pool = f"{sys.executable} -P {scripts / 'process_worker_pool.py'}"
    return HighThroughputExecutor(
        label=name,
        address="127.0.0.1",
        provider=LocalBlocks(
            worker_init=_worker_init(site, size, marker),
            launcher=SimpleLauncher(),
            init_blocks=1,
            min_blocks=1,
            max_blocks=1,
        ),
        launch_cmd=warden_command(DEFAULT_LAUNCH_CMD.replace("process_worker_pool.py", worker_pool, 1)),
        interchange_launch_cmd=detached_command(
            [sys.executable, "-P", str(scripts / "interchange.py")], marker, bind=bind
        ),
        # The number of workers is ours to say; were this a real number of cores, Parsl would start fewer
        # workers on a machine with fewer cores, and none on one with fewer than a single worker wants.
        cores_per_worker=1e-3,
        max_workers_per_node=size.workers,
        mem_per_worker=size.memory_gb_per_worker,
        available_accelerators=list(size.accelerators),
        heartbeat_period=HEARTBEAT_PERIOD_S,
        heartbeat_threshold=HEARTBEAT_THRESHOLD_S,
        block_error_handler=blocks_that_never_start,
        encrypted=True,
    )


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


class ParslPools:
    """The site's pools on Parsl; start them from the driver's main thread.

    Args:
        site: The site.
        run_dir: Folder for logs and scripts: `<run_dir>/NNN` for each start, and `<run_dir>/parsl.log`.

    Raises:
        SiteError: A pool cannot be sized, or does not start within the site's `start_timeout_s`.
    """

    def __init__(self, site: Site, run_dir: Path) -> None:
        run_dir = run_dir.resolve()
        run_dir.mkdir(parents=True, exist_ok=True)
        self.marker = new_marker()
        self._site, self._names = site, pools_with_workers(site)
        self._log = _log_to(run_dir / "parsl.log")
        self._outstanding: dict[Future[Any], str] = {}
        self._lock = threading.Lock()
        self._lost: dict[str, str] = {}
        self._closed = threading.Event()
        self._oom_kills = _oom_kills()
        # The kernel binds a process to the *thread* that started it: of use only from the main thread.
        bind = threading.current_thread() is threading.main_thread()
        if site.parsl_config:
            config = _own_config(site.parsl_config, self._names)
        else:
            executors = [_executor(n, site, s, self.marker, bind=bind) for n, s in site_sizes(site).items()]
            config = Config(executors=executors, retries=0, strategy="simple", strategy_period=_POLL_S,
                            max_idletime=1e9)  # fmt: skip
        config.run_dir, config.initialize_logging, config.usage_tracking = str(run_dir), False, 0
        try:
            self._kernel = DataFlowKernel(config)
        except Exception as error:
            end_carrying(MARKER, self.marker)
            raise SiteError("Parsl does not start", value=f"{type(error).__name__}: {error}",
                            cure=f"see {run_dir / 'parsl.log'}") from error  # fmt: skip
        self._pools = {name: ParslPoolExecutor(dfk=self._kernel, executors=[name]) for name in self._names}
        try:
            self.slots: Mapping[str, int] = {name: self._await_pool(name) for name in self._names}
        except BaseException:
            self.close(cancel=True)
            raise
        threading.Thread(target=self._watch, name="pools-watch", daemon=True).start()

    def submit(
        self,
        pool: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        expected_s: float | None = None,  # noqa: ARG002
    ) -> Future[Any]:
        """Run `function(*args)` on a worker of `pool`.

        Raises:
            SiteError: The pool broke down as a whole.
        """
        if pool in self._lost:
            raise SiteError(
                f"pool {pool} broke down", value=self._lost[pool], cure="campaign resume starts it anew"
            )
        future: Future[Any] = Future()
        with self._lock:
            self._outstanding[future] = pool
        future.add_done_callback(self._forget)
        relay(self._pools[pool].submit(function, *args), future, self._name_cause)
        return future

    def blocks(self) -> list[Block]:
        """Return every block that was started."""
        return [
            Block(name, block, str(job), "local", platform.node(), self.marker)
            for name in self._names
            for block, job in dict(getattr(self._kernel.executors[name], "blocks_to_job_id", {})).items()
        ]

    def close(self, cancel: bool) -> None:
        """End the pools: after all submitted tasks, or at once with the tasks' futures cancelled."""
        if self._closed.is_set():
            end_carrying(MARKER, self.marker)  # nothing, unless the first time was interrupted
            return
        if not cancel:
            wait(list(self._outstanding))
        self._closed.set()
        if self._lost:
            # Parsl asks a dead interchange for its managers, without end: leave it, and end what is there.
            atexit.unregister(self._kernel.atexit_cleanup)
        else:
            self._kernel.cleanup()
        end_carrying(MARKER, self.marker)
        for future in list(self._outstanding):
            future.cancel()
            settle(future)  # tells those who wait for it
        _stop_log(self._log)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._outstanding.pop(future, None)

    def _name_cause(self, error: BaseException) -> BaseException:
        """Tell a worker that the kernel ended for want of memory from one that was lost otherwise."""
        if type(error).__name__ == "WorkerLost" and _oom_kills() > self._oom_kills:
            self._oom_kills = _oom_kills()
            memory = MemoryError("the kernel ended the worker: out of memory")
            memory.__cause__ = error
            return memory
        return error

    def _await_pool(self, name: str) -> int:
        """Wait until the pool's workers answer; return how many there are."""
        executor = self._kernel.executors[name]
        if self._site.parsl_config or not isinstance(executor, HighThroughputExecutor):
            return _slots_of(executor)  # a batch queue may take hours: nothing is waited for
        deadline = time.monotonic() + self._site.start_timeout_s
        folder = Path(self._kernel.run_dir)
        while time.monotonic() < deadline and executor.interchange_proc.poll() is None:
            if executor.bad_state_is_set:
                reason = " ".join(str(executor.executor_exception).split())
                raise SiteError(
                    f"the workers of pool {name} do not start", value=reason[-400:],
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
        """Notice an interchange that died: Parsl does not, and its tasks would wait for ever."""
        while not self._closed.wait(_POLL_S):
            for name in self._names:
                executor = self._kernel.executors[name]
                process = getattr(executor, "interchange_proc", None)
                if name in self._lost or process is None or process.poll() is None:
                    continue
                self._lost[name] = f"its interchange ended with code {process.returncode}"
                for future in [f for f, pool in list(self._outstanding.items()) if pool == name]:
                    settle(future, error=PoolLostError(f"pool {name}: {self._lost[name]}"))


def _slots_of(executor: Any) -> int:
    provider: Any = getattr(executor, "provider", None)
    blocks = int(provider.max_blocks * provider.nodes_per_block) if provider else 1
    workers = getattr(executor, "workers_per_node", None) or getattr(executor, "max_threads", None) or 1
    return max(1, blocks * int(workers))


def _oom_kills() -> int:
    """Return how many processes the kernel has ended for want of memory, here or in this container."""
    for path, key in (("/sys/fs/cgroup/memory.events", "oom_kill"), ("/proc/vmstat", "oom_kill")):
        try:
            words = dict(line.split() for line in Path(path).read_text(encoding="ascii").splitlines())
            return int(words[key])
        except (OSError, ValueError, KeyError):
            continue
    return 0


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
