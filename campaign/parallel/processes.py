"""Nothing that a campaign starts outlives its driver: markers, wardens, and the sweep for orphans.

Three means, from mild to strict:

* Every process of a driver's pools carries an environment variable, `CAMPAIGN_POOLS=<marker>`. Whatever a
  task starts inherits it, so that all of them can be found again, after a crash too.
* A **warden** (this file run with `warden`) stands over each block of workers, on every node of it. Twice a second
  it looks whether the driver is alive, ends everything the block started as soon as the driver or the block's
  manager is gone, and ends programs that a dead worker left behind, so that a retried calculation never meets its
  own orphan in the same folder. On other nodes the driver's process id means nothing: there the manager tells, which
  ends when it hears nothing of the driver's side any more. It also notes what the kernel ended for want of memory.
* The process that passes tasks on (Parsl's interchange) starts **detached**: in its own session, deaf to
  Ctrl-C, and bound by the kernel (Linux: PR_SET_PDEATHSIG) to the driver's life.

Ctrl-C in a terminal goes to the whole foreground process group; workers are in sessions of their own, so the
driver alone hears it and decides what is drained.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import itertools
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # comes with parsl

MARKER = "CAMPAIGN_POOLS"
"""Environment variable that every process of one driver's pools carries."""
BLOCK = "CAMPAIGN_BLOCK"
"""Environment variable that every process under one warden carries."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SAME_START_S = 5.0  # a process id that was given out again within this time would be mistaken for the first
_serial = itertools.count()


def new_marker() -> str:
    """Return a marker for one set of pools: unique on this host, and it tells whose it is."""
    me = psutil.Process()
    return f"{me.pid}-{me.create_time():.2f}-{next(_serial)}"


def alive(pid: int, started: float) -> bool:
    """Tell whether the process `pid` that started at `started` [s since 1970] is still at work.

    A zombie counts as dead, and so does a younger process that was given the same number.
    """
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < _SAME_START_S
        )
    except psutil.Error:
        return False


def carrying(variable: str, value: str) -> list[psutil.Process]:
    """Return this user's processes whose environment has `variable=value`, this process left out."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        # Other users' processes refuse, and processes may end while being looked at: neither is ours.
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """Ask the processes to end, and end those by force that are still there after `grace_s` seconds."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=grace_s)
    for process in stubborn:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=2.0)


def end_carrying(variable: str, value: str, grace_s: float = 3.0) -> int:
    """End all processes that carry `variable=value`; those that they start meanwhile as well.

    Returns:
        How many were found.
    """
    count = 0
    for _ in range(5):  # a process may fork between being seen and being ended
        found = carrying(variable, value)
        if not found:
            break
        count += len(found)
        end(found, grace_s)
    return count


def die_with_parent(sign: int = signal.SIGTERM) -> None:
    """Have the kernel send `sign` to this process when the thread that started it ends (Linux only)."""
    _prctl(_PR_SET_PDEATHSIG, sign)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)


def start_worker(environment: Mapping[str, str]) -> None:
    """Initialise a worker of a plain process pool: deaf to Ctrl-C, bound to the driver, its variables set."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    driver = multiprocessing.parent_process()
    if driver is not None and os.getppid() != driver.pid:  # it died before the kernel had been told
        os._exit(1)
    os.environ.update(environment)


def detached_command(command: Sequence[str], marker: str, *, bind: bool) -> list[str]:
    """Return the command that runs `command` in its own session and, if `bind`, only while we live."""
    options = ["--marker", marker, "--driver-pid", str(os.getpid() if bind else 0)]
    return [sys.executable, "-P", __file__, "detached", *options, "--", *command]


def warden_command(command: str, *, folder: str, here: bool = True) -> str:
    """Return the shell words that run the shell words `command` under a warden.

    Args:
        command: What starts the block's manager.
        folder: The pool's folder, where notes of its end are left (`campaign.parallel.memory_kills`).
        here: It runs on this driver's machine, and so ends with the driver's process.
    """
    me = psutil.Process()
    driver = f"--driver-pid {me.pid} --driver-start {me.create_time():.2f}" if here else "--driver-pid 0"
    words = f"-P {shlex.quote(__file__)} warden {driver} --folder {folder}"
    return f"exec {shlex.quote(sys.executable)} {words} -- {command}"


def _run_detached(command: Sequence[str], marker: str, driver_pid: int) -> None:
    with contextlib.suppress(OSError):  # already the leader of a session: as good
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if driver_pid:
        die_with_parent()
        if os.getppid() != driver_pid:  # the driver died before the kernel had been told
            sys.exit(1)
    # SPT_NOENV: else setproctitle writes its title over the environment, and with it over the marker.
    os.execve(command[0], list(command), {**os.environ, MARKER: marker, "SPT_NOENV": "1"})


def _run_warden(
    command: Sequence[str], driver_pid: int, driver_start: float, folder: Path, grace_s: float = 3.0
) -> int:
    """Run `command` until it ends, or its driver does; leave nothing of it behind; return its exit code.

    Args:
        command: What starts the block's manager.
        driver_pid: The driver's process id; 0 on another machine than the driver's.
        driver_start: When that process started [s since 1970].
        folder: The pool's folder.
        grace_s: How long everything may take to end by itself [s].
    """
    from campaign.parallel.memory_kills import KillNotes

    def driver_is_dead() -> bool:
        return driver_pid != 0 and not alive(driver_pid, driver_start)

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans below us become our children: seen, and ended
    block, notes = new_marker(), KillNotes(folder)
    child = subprocess.Popen(command, env={**os.environ, BLOCK: block}, start_new_session=True)
    while child.poll() is None and not stop.wait(0.5):
        if driver_is_dead():
            break
        _end_adopted(child.pid)
        notes.look()
    below = psutil.Process().children(recursive=True)
    end({*below, *carrying(BLOCK, block)}, grace_s)
    end_carrying(BLOCK, block, grace_s)
    if driver_is_dead():
        # Whatever else belongs to the dead driver; other wardens do the same, and any one of them suffices.
        marker = os.environ.get(MARKER)
        wardens_aside = (
            [p for p in carrying(MARKER, marker) if BLOCK not in _environment(p)] if marker else []
        )
        end([p for p in wardens_aside if "warden" not in _words(p)], grace_s)
    code = child.wait()
    return 128 - code if code < 0 else code  # as a shell tells of a signal


def _end_adopted(manager_pid: int) -> None:
    """End processes that lost their parent below us, and collect those that ended by themselves."""
    adopted = [process for process in psutil.Process().children() if process.pid != manager_pid]
    living = []
    for process in adopted:
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
            else:
                living += [process, *process.children(recursive=True)]
    if living:
        end(living, grace_s=1.0)


def _environment(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error, OSError):
        return dict(process.environ())
    return {}


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error, OSError):
        return list(process.cmdline())
    return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as `python -P processes.py warden|detached ... -- command`; return the exit code."""
    parser = argparse.ArgumentParser(prog="campaign.parallel.processes")
    parser.add_argument("role", choices=["warden", "detached"])
    parser.add_argument("--driver-pid", type=int, required=True)
    parser.add_argument("--driver-start", type=float, default=0.0)
    parser.add_argument("--marker", default="")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    if given.role == "detached":
        _run_detached(given.command, given.marker, given.driver_pid)
    return _run_warden(given.command, given.driver_pid, given.driver_start, given.folder)


if __name__ == "__main__":
    sys.exit(main())
