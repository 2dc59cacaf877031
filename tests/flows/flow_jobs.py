"""Jobs and calculators of the flow tests, importable by workers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ase.calculators.lj import LennardJones
from jobflow import CURRENT_JOB, Flow, JobConfig, OnMissing, Response, job


def tick(log: str) -> None:
    """Add a line to a file, in one write: one line is one execution."""
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, b"x\n")
    os.close(handle)


def ticks(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@job
def add(a: float, b: float, log: str | None = None, sleep_s: float = 0.0) -> float:
    if log:
        tick(log)
    time.sleep(sleep_s)
    return a + b


@job
def add_list(numbers: list[float]) -> float:
    return sum(numbers)


@job
def fail(message: str) -> None:
    raise ValueError(message)


@job
def die() -> None:
    os._exit(3)


@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def or_zero(a: float | None) -> float:
    return a or 0.0


@job
def replaced_by_flow(a: float) -> Response:
    first = add(a, 10)
    second = add(first.output, 100)
    return Response(replace=Flow([first, second], output=second.output))


@job
def replaced_by_job(a: float) -> Response:
    return Response(replace=add(a, 1000))


@job
def with_addition(a: float, log: str) -> Response:
    return Response(output=a, addition=add(a, 1, log=log))


@job
def with_detour(a: float, log: str) -> Response:
    return Response(output=a, detour=add(a, 1, log=log, sleep_s=0.3))


@job
def lines_of(log: str, after: Any = None) -> int:
    return ticks(Path(log))


@job
def stops_children(a: float) -> Response:
    return Response(output=a, stop_children=True)


@job(data=["large"])
def makes_large(n: int) -> dict[str, Any]:
    return {"n": n, "large": {"numbers": list(range(n))}}


@job
def length_of(large: dict[str, Any]) -> int:
    return len(large["numbers"])


@job
def replaced_without_output(log: str) -> Response:
    return Response(replace=Flow([add(1, 1, log=log, sleep_s=0.3)]))


@job(data=["large"], elsewhere=["other"])
def makes_other(n: int, log: str) -> dict[str, Any]:
    tick(log)
    return {"other": list(range(n))}


@job
def who_am_i(sleep_s: float) -> str:
    time.sleep(sleep_s)
    return str(CURRENT_JOB.job.uuid)


@job
def where() -> str:
    return str(Path.cwd())


class CountedLennardJones(LennardJones):
    """Adds a line to a file for each energy; `sleep_s` makes it slow enough to be killed."""

    def __init__(self, log: str, sleep_s: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**{"sigma": 2.5, "epsilon": 0.3, "rc": 6.0, "smooth": True, **kwargs})
        self._log, self._sleep_s = log, sleep_s

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        tick(self._log)
        time.sleep(self._sleep_s)
        super().calculate(*args, **kwargs)


class OutOfMemory(LennardJones):
    def calculate(self, *args: Any, **kwargs: Any) -> None:
        raise MemoryError("no 40 GiB here")


class NotANumber(LennardJones):
    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.results["energy"] = float("nan")
