"""A job's folder: a lock, one whole result or none, and what failed. This is what makes «never twice» true.

Whoever runs a job holds the lock of its folder for as long; the operating system takes it back when the process
dies, however it dies. A result appears in one rename, so it is whole or absent, and whoever finds one does not run
the job again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULT = "result.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; wait while another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return the stored result, None if there is none or it is torn."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("ok") is True and "docs" in found else None


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Store a result durably before anybody is told of it."""
    _write(folder / RESULT, result)


def write_failure(folder: Path, failure: dict[str, Any]) -> None:
    """Keep a failure for people; it is never taken for a result."""
    number = len(list(folder.glob("failure-*.json"))) + 1
    _write(folder / f"failure-{number}.json", failure)


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as handle:
        json.dump(document, handle)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)
