"""What `campaign doctor` asks a worker of every pool, where it runs: on a compute node, not where the driver is.

A batch system may let the question wait; until it answers, the wait and its reason are told.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.parallel.pooling import Pools
from campaign.parallel.pools import classify_exception
from campaign.parallel.preflight import probe

_LOOK_S = 1.0


@dataclass(frozen=True)
class Survey:
    """What became of the question to one pool."""

    pool: str
    seconds: float
    """From submission to the answer, or to the end of the wait [s]."""
    answer: Mapping[str, Any] | None = None
    """What `describe_worker` returned."""
    failure: str = ""
    """Why there is no answer."""
    clock_ahead_s: float = 0.0
    """How far the worker's clock is ahead of ours [s], to within the way of the answer."""


def describe_worker(order: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the worker this runs on.

    Args:
        order: `token_file` and `token`, which the driver wrote there; `engines`: whether to try the label engines.

    Returns:
        `preflight.probe`'s answer, and: `node` (as the batch system calls it), `shared` (whether the file is seen),
        `scratch` (path), `scratch_free_gb`, `engines` [[name, ok, found]], `time` [s since 1970].
    """
    engines: list[list[Any]] = []
    if order["engines"]:
        from campaign.doctor import check_engines

        engines = [[row.name, row.ok, row.found] for row in check_engines()]
    scratch = tempfile.gettempdir()
    return {
        **probe(),
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "shared": _reads(Path(order["token_file"]), order["token"]),
        "scratch": scratch,
        "scratch_free_gb": shutil.disk_usage(scratch).free / 1e9,
        "engines": engines,
        "time": time.time(),
    }


def _reads(file: Path, token: str) -> bool:
    try:
        return file.read_text(encoding="ascii") == token
    except (OSError, UnicodeDecodeError):
        return False


def survey_pools(
    pools: Pools, names: Iterable[str], folder: Path, limit_s: float, tell: Callable[[str], None]
) -> list[Survey]:
    """Ask one worker of every pool, all at the same time.

    Args:
        pools: The running pools.
        names: The pools to ask.
        folder: The run folder, in which a file is left that the workers should see.
        limit_s: How long to wait for all answers together [s].
        tell: Called with a line whenever what is waited for changes.
    """
    token = os.urandom(16).hex()
    file = folder / "token"
    file.write_text(token, encoding="ascii")
    started, ended = time.monotonic(), dict[str, tuple[float, float]]()
    futures: dict[str, Future[Any]] = {}
    for name in names:
        order = {"token_file": str(file), "token": token, "engines": name == "dft"}
        futures[name] = pools.submit(name, describe_worker, order)
        futures[name].add_done_callback(
            lambda _, name=name: ended.setdefault(name, (time.monotonic(), time.time()))  # type: ignore[misc]
        )
    told: dict[str, str] = {}
    while time.monotonic() - started < limit_s and not all(one.done() for one in futures.values()):
        wait(futures.values(), timeout=_LOOK_S)
        for name in [name for name, future in futures.items() if not future.done()]:
            line = waits_for(pools, name)
            if line and told.get(name) != line:
                told[name] = line
                tell(f"pool {name}: {line}")
    found = []
    for name, future in futures.items():
        at, wall = ended.get(name, (time.monotonic(), time.time()))
        found.append(_survey(pools, name, future, at - started, wall))
    return found


def _survey(pools: Pools, name: str, future: Future[Any], seconds: float, answered: float) -> Survey:
    if not future.done():
        line = waits_for(pools, name) or "its workers did not answer"
        return Survey(name, seconds, failure=f"no answer after {seconds:.0f} s: {line}")
    error = future.exception()
    if error is not None:
        return Survey(name, seconds, failure=classify_exception(error)[1])
    answer = future.result()
    return Survey(name, seconds, answer, clock_ahead_s=answer["time"] - answered)


def waits_for(pools: Pools, name: str) -> str:
    """Return what a pool's newest block waits for, in words; '' for pools without jobs."""
    blocks = [block for block in pools.blocks() if block.pool == name and block.provider != "local"]
    if not blocks:
        return ""
    newest = blocks[-1]
    if newest.state == "queued":
        reason = f" (reason {newest.message})" if newest.message not in ("", "None") else ""
        return f"queued: job {newest.job_id} waits{reason}"
    if newest.state == "running":
        return f"job {newest.job_id} runs, its workers start"
    return f"job {newest.job_id} is over ({newest.message or 'no reason told'})"
