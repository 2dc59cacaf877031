"""Workers that the kernel ended for want of memory: noted on the node where it happened, read by the driver.

A worker that is ended so can tell nobody why, and the kernel's counter is that of one machine and one control group:
the driver's own says nothing of other nodes. So each warden looks at its own, and writes into a file of the pool's
folder, one per host, when it rises; driver and workers share that folder.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LATELY_S = 60.0
"""A worker whose loss is told has been ended within this time, clocks that differ a little included [s]."""
NOTED_S = 2.0
"""How long after a worker's end what its warden has to say of it is there [s]."""


def oom_kills(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes the kernel has ended for want of memory, in this one's control group if it can tell.

    Args:
        proc: Where the kernel tells of processes.
        groups: Where it tells of control groups, of either version.
    """
    for path in _counters(proc, groups):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return int(
                dict(line.split() for line in path.read_text(encoding="ascii").splitlines())["oom_kill"]
            )
    return 0


def _counters(proc: Path, groups: Path) -> Iterator[Path]:
    """Yield the files that may hold the counter, the narrowest first; each counts what is below it as well."""
    own: list[str] = []
    with contextlib.suppress(OSError):
        own = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    for _, controllers, place in (line.split(":", 2) for line in own if line.count(":") >= 2):
        first = groups / "memory" if controllers == "memory" else groups
        name = "memory.oom_control" if controllers == "memory" else "memory.events"
        if controllers in ("memory", ""):
            inner = first / place.strip("/")
            yield from (folder / name for folder in (inner, *inner.parents) if folder.is_relative_to(first))
    yield proc / "vmstat"  # of the whole machine


class KillNotes:
    """What a warden writes down of its node.

    Args:
        folder: The pool's folder.
        count: Tells how many processes were ended for want of memory.
    """

    def __init__(self, folder: Path, count: Callable[[], int] = oom_kills) -> None:
        self._file, self._count = _file(folder, platform.node()), count
        self._known = count()
        with contextlib.suppress(OSError):  # there from the start: a shared disk tells of a new file late
            folder.mkdir(parents=True, exist_ok=True)
            self._file.touch()

    def look(self) -> None:
        """Note the time if the kernel has ended another process."""
        count = self._count()
        if count > self._known:
            with contextlib.suppress(OSError), self._file.open("a", encoding="ascii") as file:
                file.write(f"{time.time():.1f}\n")
        self._known = count


def noted_lately(folder: Path, host: str, current: float) -> bool:
    """Tell whether a process was ended on a host for want of memory a moment ago.

    Args:
        folder: The pool's folder.
        host: As `platform.node()` names it there.
        current: Seconds since 1970.
    """
    try:
        lines = _file(folder, host).read_text(encoding="ascii").splitlines()
        return bool(lines) and abs(current - float(lines[-1])) < LATELY_S
    except (OSError, ValueError):
        return False


def _file(folder: Path, host: str) -> Path:
    return folder / f"oom-kills-{host}"
