"""Where the job that runs in this thread may write, and what it holds: said by the runner, asked by engines.

The working directory cannot say it: it belongs to the whole process, and jobs may run in threads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_FOLDER: ContextVar[Path | None] = ContextVar("job_folder", default=None)


def job_folder() -> Path:
    """Return the absolute folder of the job that runs here; the working directory outside of a job."""
    return _FOLDER.get() or Path.cwd()


def cores_held() -> int:
    """Return the cores of this worker: its number of OpenMP threads, which the pool sets; 1 if nobody did."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(said)) if said.isdecimal() else 1


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Make `folder` the job's folder.

    In the main thread of a process it also becomes the working directory, for makers of other packages that write
    there; in other threads it does not, because the working directory is common to all of them.
    """
    token = _FOLDER.set(folder)
    before = Path.cwd() if threading.current_thread() is threading.main_thread() else None
    try:
        if before is not None:
            os.chdir(folder)
        yield
    finally:
        _FOLDER.reset(token)
        if before is not None:
            os.chdir(before)
