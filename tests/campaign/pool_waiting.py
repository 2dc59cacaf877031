"""Waiting in tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for the condition; return how long it took [s]; fail the test after `timeout_s`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise AssertionError(f"not within {timeout_s} s")
        time.sleep(0.05)
    return time.monotonic() - started


def runs(process: psutil.Process) -> bool:
    """Tell whether the process is still at work; a zombie is not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def pids_in(note: Path) -> list[int]:
    """Return the process ids that `pool_tasks.run_program` noted; none before it did."""
    return [int(word) for word in note.read_text(encoding="utf-8").split()] if note.exists() else []
