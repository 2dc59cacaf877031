"""Drivers that are killed with a real SIGKILL at chosen moments, each forked from one warm process in milliseconds.

Run as a program this file is that process: it imports everything once, and forks a driver for every line that it
reads. `Lives` starts it and talks to it. A driver launches its campaign, or resumes it once it is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).resolve().parents[1]
MOST_S = 120.0
"""A driver that lives longer hangs [s]."""
GRACE_S = 5.0
"""Within this time after its end everything that a driver started must be gone [s]."""

EVENTS = ("write", "torn", "statement", "rename", "fsync", "submit", "result", "execution")
"""What is counted: writes to the store, SQL statements, renames and syncs of files, tasks, starts of the engine."""


@dataclass(frozen=True)
class Death:
    """When a driver dies: at the n-th event of a kind, or so many seconds after its birth."""

    event: str
    """One of EVENTS, `clock`, or `never`."""
    number: int = 0
    after: bool = False
    """Just after the event instead of just before."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Life:
    """What became of a driver."""

    pid: int
    born: float
    """Seconds since 1970."""
    died: float
    killed: bool
    code: int
    """Exit status of one that was not killed."""


class Lives:
    """The warm process, seen from the test; a context manager."""

    def __enter__(self) -> Lives:
        path = os.pathsep.join([str(TESTS), str(TESTS / "campaign"), str(TESTS.parent)])
        self._server = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._answer(MOST_S) == {"ready": True}
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(GRACE_S)
        self._server.kill()
        self._server.wait()

    def live(self, file: Path, pools: str, death: Death) -> Life:
        """Let a driver work on a campaign until it ends or dies."""
        self._ask({"file": str(file), "pools": pools, "death": asdict(death)})
        pid, born = self._answer(GRACE_S)["pid"], time.time()
        ended = self._answer(death.seconds if death.event == "clock" else MOST_S)
        if ended is None:
            os.kill(
                pid, signal.SIGKILL
            )  # it stays a zombie until its parent answers: the number is still its own
            ended = self._answer(GRACE_S)
            assert death.event == "clock", (
                f"a driver hung: {(file.parent / 'driver.log').read_text()[-3000:]}"
            )
        code = os.waitstatus_to_exitcode(ended["status"])
        return Life(pid, born, time.time(), code == -signal.SIGKILL, code)

    def left_over(self) -> list[str]:
        """Return processes that drivers left behind, and end them."""
        self._ask({"left": True})
        found: list[str] = self._answer(2 * GRACE_S)["left"]
        return found

    def _ask(self, question: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(question) + "\n")

    def _answer(self, timeout_s: float) -> Any:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], timeout_s)[0]:
            return None
        line = self._server.stdout.readline()
        assert line, "the process that drivers are forked from has died"
        return json.loads(line)


# The warm process


def serve() -> None:
    """Fork a driver for every line of the input, and say how it ended."""
    import ctypes
    import tempfile

    from test_driver import quiet, small_campaign

    from campaign.launch import launch

    answers, sys.stdout = sys.stdout, sys.stderr
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what drivers leave behind comes to us
    with tempfile.TemporaryDirectory() as name:  # imports and caches, which every driver then finds
        launch(small_campaign(Path(name)), run_dir=None, pools="threads", progress=quiet())

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    answer(ready=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.get("left"):
            answer(left=_left_over())
            continue
        pid = os.fork()
        if pid == 0:
            _drive(Path(asked["file"]), asked["pools"], Death(**asked["death"]))
        answer(pid=pid)
        answer(status=os.waitpid(pid, 0)[1])


def _left_over() -> list[str]:
    import psutil

    end = time.monotonic() + GRACE_S
    while True:
        living = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(process.pid, os.WNOHANG)
                else:
                    living.append(process)
        if not living or time.monotonic() > end:
            break
        time.sleep(0.02)
    told = [f"{process.pid} {process.as_dict(['ppid', 'status', 'name'])}" for process in living]
    for process in living:
        process.kill()
    return told


# In a driver


def _drive(file: Path, pools: str, death: Death) -> NoReturn:
    """Launch or resume a campaign in this forked process, and end it."""
    code = 1
    try:
        log = os.open(file.parent / "driver.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, handle in enumerate((nothing, log, log)):
            os.dup2(handle, number)
        os.write(log, f"--- {os.getpid()} {death}\n".encode())
        _fork_workers()
        if death.event in EVENTS:
            _install(Reaper(death))
        code = _campaign(file, pools)
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _campaign(file: Path, pools: Any) -> int:
    import yaml
    from test_driver import quiet

    from campaign.launch import launch, resume

    folder = file.parent / yaml.safe_load(file.read_text())["name"]
    if (folder / "campaign.yaml").exists():
        outcome = resume(file, config_file=None, pools=pools, progress=quiet())
    else:
        outcome = launch(file, run_dir=None, pools=pools, progress=quiet())
    return 0 if outcome.status == "finished" else 3


def _fork_workers() -> None:
    """Make process pools fork: spawned workers would import everything for seconds."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    from campaign.parallel.pools import ProcessPools

    def executor(self: Any, pool: str) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.slots[pool],
            mp_context=multiprocessing.get_context("fork"),
            initializer=partial(_start_forked, self._environments[pool]),
        )

    ProcessPools._executor = executor  # type: ignore[method-assign]


def _start_forked(environment: dict[str, str]) -> None:
    from campaign.parallel.processes import start_worker

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a spawned worker has no handler of its driver's either
    start_worker(environment)


class Reaper:
    """Counts events and kills the driver at its hour, from a worker too."""

    def __init__(self, death: Death) -> None:
        self.death = death
        self._driver = os.getpid()
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._inside = threading.local()

    def strike(self) -> NoReturn:
        os.kill(self._driver, signal.SIGKILL)
        time.sleep(MOST_S)  # a worker dies with its driver
        os._exit(1)

    def is_due(self, event: str) -> bool:
        """Count an event, and tell whether it is the one."""
        with self._lock:
            self._seen[event] += 1
            return event == self.death.event and self._seen[event] == self.death.number

    @contextlib.contextmanager
    def around(self, event: str) -> Iterator[None]:
        """Count an event unless it is part of one of its kind; die before or after it."""
        if getattr(self._inside, event, False):
            yield
            return
        due = self.is_due(event)
        if due and not self.death.after:
            self.strike()
        setattr(self._inside, event, True)
        try:
            yield
        finally:
            setattr(self._inside, event, False)
        if due:
            self.strike()

    def wrapped(self, event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            with self.around(event):
                return function(*args, **options)

        return counted


def _install(reaper: Reaper) -> None:
    """Count what can be told apart from outside of the driver's code."""
    import components

    from campaign.driver import Driver
    from campaign.storage.mongo_documents import MongoDocuments
    from campaign.storage.sqlite_documents import SqliteDocuments
    from campaign.storage.sqlite_file import SqliteFile

    for kind in (SqliteDocuments, MongoDocuments):
        for name in ("insert_new", "put", "set_fields", "set_fields_many", "replace_by"):
            setattr(kind, name, reaper.wrapped("write", getattr(kind, name)))
    for name in ("insert_new", "put", "set_fields_many", "replace_by"):
        setattr(MongoDocuments, name, _torn(reaper, getattr(MongoDocuments, name)))
    open_file = SqliteFile._open

    def traced(self: SqliteFile, mode: str) -> Any:
        connection = open_file(self, mode)
        connection.set_trace_callback(lambda _: reaper.strike() if reaper.is_due("statement") else None)
        return connection

    SqliteFile._open = traced  # type: ignore[method-assign]
    os.replace = reaper.wrapped("rename", os.replace)
    Path.replace = reaper.wrapped("rename", Path.replace)  # type: ignore[method-assign]
    Path.rename = reaper.wrapped("rename", Path.rename)  # type: ignore[method-assign]
    os.fsync = reaper.wrapped("fsync", os.fsync)
    Driver._submit = reaper.wrapped("submit", Driver._submit)  # type: ignore[method-assign]
    Driver._record = reaper.wrapped("result", Driver._record)  # type: ignore[method-assign]
    started = components.CountingLennardJones.__init__
    components.CountingLennardJones.__init__ = reaper.wrapped("execution", started)  # type: ignore[method-assign]


def _torn(reaper: Reaper, write: Callable[..., Any]) -> Callable[..., Any]:
    """Die with half of the documents of one call written: on MongoDB a call with several is no transaction."""

    def half(self: Any, collection: str, *args: Any) -> Any:
        *keys, documents = args
        several = list(documents)
        if len(several) > 1 and reaper.is_due("torn"):
            write(self, collection, *keys, several[:: 2 if reaper.death.after else -2])
            reaper.strike()
        return write(self, collection, *keys, several)

    return half


if __name__ == "__main__":
    serve()
