"""Where the job that runs in this thread may write, what it holds, what cures it: said by the runner, asked by engines.

The working directory cannot say it: it belongs to the whole process, and jobs may run in threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from flows.cures import Cure


@dataclass
class Reached:
    """How far a try has come."""

    geometries: int = 0
    """Geometries beyond the one that it began with: what the next try need not compute again."""


_FOLDER: ContextVar[Path | None] = ContextVar("job_folder", default=None)
_CURES: ContextVar[frozenset[Cure]] = ContextVar("job_cures", default=frozenset())
_REACHED: ContextVar[Reached | None] = ContextVar("job_reached", default=None)


def job_folder() -> Path:
    """Return the absolute folder of the job that runs here; the working directory outside of a job."""
    return _FOLDER.get() or Path.cwd()


def cures() -> frozenset[Cure]:
    """Return what this try of the job shall do otherwise than the first one; nothing at the first."""
    return _CURES.get()


def note_geometry() -> None:
    """Say that a relaxation has reached a further geometry, from which the next try would go on."""
    reached = _REACHED.get()
    if reached is not None:
        reached.geometries += 1


def cores_held() -> int:
    """Return the cores of this worker: its OpenMP threads, which the pool sets (1 if nobody did), of each rank."""
    return threads_per_rank() * ranks()


def threads_per_rank() -> int:
    """Return the OpenMP threads of this worker, or of each rank of the codes that it starts."""
    return _number("OMP_NUM_THREADS")


def ranks() -> int:
    """Return how many MPI ranks a code gets that this worker starts (pool key `ranks_per_task`); 1 without MPI."""
    return _number("CAMPAIGN_MPI_RANKS")


def _number(variable: str) -> int:
    said = os.environ.get(variable, "")
    return max(1, int(said)) if said.isdecimal() else 1


@contextlib.contextmanager
def inside(folder: Path, cured: Iterable[Cure] = ()) -> Iterator[Reached]:
    """Make `folder` the job's folder, and `cured` the cures of this try; give how far it comes.

    In the main thread of a process it also becomes the working directory, for makers of other packages that write
    there; in other threads it does not, because the working directory is common to all of them.
    """
    reached = Reached()
    tokens = _FOLDER.set(folder), _CURES.set(frozenset(cured)), _REACHED.set(reached)
    before = Path.cwd() if threading.current_thread() is threading.main_thread() else None
    try:
        if before is not None:
            os.chdir(folder)
        yield reached
    finally:
        _FOLDER.reset(tokens[0])
        _CURES.reset(tokens[1])
        _REACHED.reset(tokens[2])
        if before is not None:
            os.chdir(before)
