"""What running a flow costs beside its jobs: 1,000 trivial jobs side by side, and a chain of 200.

Ours writes every result durably (two fsyncs per job) before anything depends on it, jobflow's `run_locally` writes only
into its store. The store in memory is maggma's, which looks through all its documents at every write.
"""

from __future__ import annotations

import concurrent.futures
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIDE_BY_SIDE = 1_000
CHAIN = 200
WORKERS = 2


def measure() -> list[dict[str, object]]:
    """Return one row per runner and store."""
    return [
        _measure(runner, store)
        for runner, store in (
            ("jobflow run_locally", "in memory"),
            ("jobflow run_locally", "embedded"),
            ("run_flow, 2 processes", "in memory"),
            ("run_flow, 2 processes", "embedded"),
            ("run_flow, Parsl, 2 workers", "embedded"),
        )
    ]


def _measure(runner: str, store: str) -> dict[str, object]:
    row: dict[str, object] = {"runner": runner, "store": store}
    for name, flow in ((f"{SIDE_BY_SIDE:,} jobs", independent()), (f"chain of {CHAIN}", chain())):
        jobs = len(flow.jobs)
        with tempfile.TemporaryDirectory() as folder, _store(store, Path(folder)) as opened:
            wall, driver = RUNNERS[runner](flow, opened, Path(folder) / "jobs")
            if opened.docs_store.count() != jobs:
                raise RuntimeError(f"{runner} left {opened.docs_store.count()} of {jobs} outputs")
        row |= {
            f"{name} [jobs/s]": jobs / wall,
            f"{name} [ms/job]": 1000 * wall / jobs,
            f"{name}, driver CPU [ms/job]": 1000 * driver / jobs,
        }
    return row


def independent() -> Any:
    """Return jobs that need nothing from one another."""
    from jobflow import Flow, Job

    return Flow([Job(pow, function_args=(number, 2)) for number in range(SIDE_BY_SIDE)])


def chain() -> Any:
    """Return jobs that each need the one before."""
    from jobflow import Flow, Job

    jobs = [Job(max, function_args=(0, 1))]
    while len(jobs) < CHAIN:
        jobs.append(Job(max, function_args=(jobs[-1].output, len(jobs))))
    return Flow(jobs)


def _locally(flow: Any, store: Any, folder: Path) -> tuple[float, float]:
    from jobflow import run_locally

    folder.mkdir()
    return _timed(lambda: run_locally(flow, store=store, log=False, root_dir=folder))


def _over_processes(flow: Any, store: Any, folder: Path) -> tuple[float, float]:
    with concurrent.futures.ProcessPoolExecutor(WORKERS) as pool:
        return _over(pool, flow, store, folder)


def _over_parsl(flow: Any, store: Any, folder: Path) -> tuple[float, float]:
    from parsl import Config
    from parsl.concurrent import ParslPoolExecutor
    from parsl.executors import HighThroughputExecutor

    workers = HighThroughputExecutor(address="127.0.0.1", max_workers_per_node=WORKERS, cores_per_worker=1e-3)
    with ParslPoolExecutor(Config([workers], run_dir=str(folder / "parsl"))) as pool:
        return _over(pool, flow, store, folder)


def _over(pool: concurrent.futures.Executor, flow: Any, store: Any, folder: Path) -> tuple[float, float]:
    from flows.run import run_flow

    run_flow(
        _warming(), pool, work_dir=folder / "warm"
    )  # imports and starting workers are not what is measured
    return _timed(lambda: run_flow(flow, pool, store, folder))


def _warming() -> Any:
    from jobflow import Flow, Job

    return Flow([Job(time.sleep, function_args=(0.5,)) for _ in range(WORKERS)])


def _timed(action: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the processor time of this process [s]."""
    wall, driver = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - driver


RUNNERS: dict[str, Callable[[Any, Any, Path], tuple[float, float]]] = {
    "jobflow run_locally": _locally,
    "run_flow, 2 processes": _over_processes,
    "run_flow, Parsl, 2 workers": _over_parsl,
}


@contextmanager
def _store(kind: str, folder: Path) -> Iterator[Any]:
    """Open an empty JobStore."""
    if kind == "in memory":
        from jobflow import JobStore
        from maggma.stores import MemoryStore

        made = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    else:
        from campaign.store import CampaignStore, StoreConfig

        with CampaignStore.open(StoreConfig(), folder) as store:
            made = store.job_store()
    made.connect()
    yield made
    made.close()
