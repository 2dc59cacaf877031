"""Preflight: one small task to every pool before the first real one.

It answers what otherwise shows hours later: does a worker start at all, is it the same Python and the same
three packages as the driver's, and does it see the GPU that its pool was promised.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from campaign.errors import SiteError
from campaign.parallel.pooling import Pools
from campaign.parallel.pools import classify_exception

PACKAGES = ("campaign", "models", "flows")
"""The three packages; they must come from one folder, on every worker the same as in the driver."""
DISTRIBUTIONS = ("torch", "numpy", "pymatgen", "jobflow", "atomate2", "maggma", "parsl", "chgnet", "ase")
"""What a worker's results depend on; their versions are recorded with the campaign."""


@dataclass(frozen=True)
class PreflightResult:
    """What one worker says about itself."""

    pool: str
    host: str
    python: str
    """Version of the interpreter."""
    versions: Mapping[str, str]
    """Distribution -> version; '' where it is not installed."""
    parents: Mapping[str, str]
    """Package -> folder that it comes from; '' where it is not found."""
    gpus: tuple[str, ...]
    """What `nvidia-smi -L` lists of the devices that the worker may use."""
    cores: int
    """CPU cores of the worker's affinity mask."""
    seconds: float = field(compare=False)
    """From submission to answer [s]."""


def probe() -> dict[str, Any]:
    """Describe the process this runs in. Imports nothing heavy; runs on a worker."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "parents": {name: _parent(name) for name in PACKAGES},
        "gpus": _gpus(),
        "cores": cores,
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _parent(package: str) -> str:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return ""
    places = list(spec.submodule_search_locations or []) if spec else []
    return str(Path(places[0]).resolve().parent) if places else ""


def _gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "" or not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    lines = [line.split(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    if visible is None:
        return lines
    return [line for line in lines if line[4:].split(":")[0] in visible.split(",")] or lines[:1]


def preflight(
    pools: Pools, names: Iterable[str] | None = None, timeout_s: float = 60.0
) -> list[PreflightResult]:
    """Submit one probe to every pool and compare the answers with this process.

    Args:
        pools: The running pools.
        names: The pools to ask; all by default.
        timeout_s: How long to wait for all answers together [s].

    Returns:
        One result per pool, in order.

    Raises:
        SiteError: A pool does not answer, or its workers differ from the driver in what must be the same.
    """
    started = time.monotonic()
    ended: dict[str, float] = {}
    futures = {}
    for name in names if names is not None else pools.slots:
        futures[name] = pools.submit(name, probe)
        futures[name].add_done_callback(partial(_note_end, ended, name))
    wait(futures.values(), timeout=timeout_s)
    here = probe()
    results = []
    for name, future in futures.items():
        if not future.done():
            raise SiteError(f"pool {name} did not answer its preflight", value=f"{timeout_s:g} s",
                            cure="see the logs in the run's folder")  # fmt: skip
        error = future.exception()
        if error is not None:
            raise SiteError(f"the preflight of pool {name} failed", value=classify_exception(error)[1],
                            cure="see the logs in the run's folder") from error  # fmt: skip
        answer = {**future.result(), "gpus": tuple(future.result()["gpus"])}
        compare(name, answer, here)
        results.append(PreflightResult(pool=name, seconds=ended.get(name, started) - started, **answer))
    return results


def _note_end(ended: dict[str, float], name: str, _: object) -> None:
    ended[name] = time.monotonic()


def compare(pool: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Check that a worker's probe agrees with the driver's. Pure.

    Raises:
        SiteError: Packages from more than one folder, from another folder than the driver's on the same
            host, or another version of Python or of a distribution.
    """
    missing = [name for name, parent in there["parents"].items() if not parent]
    if missing:
        raise SiteError(f"workers of pool {pool} do not find {', '.join(missing)}", value=sys.path[:3],
                        cure="install the distribution where the workers run")  # fmt: skip
    if len(set(there["parents"].values())) > 1:
        raise SiteError(
            f"workers of pool {pool} take the three packages from different folders", value=there["parents"],
            cure="remove other packages called campaign, models or flows from the workers' PYTHONPATH",
        )  # fmt: skip
    if there["host"] == here["host"] and there["parents"] != here["parents"]:
        raise SiteError(
            f"workers of pool {pool} run another installation", value=there["parents"]["campaign"],
            allowed=here["parents"]["campaign"], cure="start driver and workers from one installation",
        )  # fmt: skip
    if there["python"].split(".")[:2] != here["python"].split(".")[:2]:
        raise SiteError(
            f"workers of pool {pool} run another Python", value=there["python"], allowed=here["python"],
            cure="use one environment for driver and workers",
        )  # fmt: skip
    differing = {
        name: version for name, version in there["versions"].items() if version != here["versions"].get(name)
    }
    if differing:
        raise SiteError(
            f"workers of pool {pool} have other versions", value=differing,
            allowed={name: here["versions"].get(name, "") for name in differing},
            cure="use one environment for driver and workers",
        )  # fmt: skip
