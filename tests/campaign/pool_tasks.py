"""Tasks for the tests of the pools: top-level functions that workers can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def describe() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "colour": os.environ.get("POOL_TEST_COLOUR"),
        "heavy": sorted({"torch", "pymatgen", "jobflow", "atomate2"} & set(sys.modules)),
    }


def add(a: int, b: int) -> int:
    return a + b


def nap(seconds: float, note: str) -> str:
    """Sleep, and leave a note of having started and of having ended."""
    Path(note).write_text(f"started {os.getpid()}\n", encoding="utf-8")
    time.sleep(seconds)
    with Path(note).open("a", encoding="utf-8") as file:
        file.write("ended\n")
    return note


def run_program(seconds: float, note: str) -> int:
    """Run another program as a DFT code is run, in a group of its own; note the two process ids."""
    program = subprocess.Popen(["sleep", str(seconds)], start_new_session=True)
    Path(note).write_text(f"{os.getpid()} {program.pid}\n", encoding="utf-8")
    return program.wait()


def fail(kind: str) -> None:
    if kind == "memory":
        raise MemoryError("Unable to allocate 80 GiB")
    raise ValueError(kind)


def end_worker() -> None:
    """End the worker as the kernel does."""
    os.kill(os.getpid(), signal.SIGKILL)
