"""A stand-alone runner of flows over any executor and JobStore, on the same functions that a campaign uses."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from flows.building import job_records
from flows.causes import failure_of
from flows.errors import JobStoreError, LabelFlowError
from flows.graph import Key
from flows.job_run import run_job_once
from flows.progress import FlowProgress
from flows.schemas import FailureInfo
from flows.stored_outputs import store_result, upstream_documents

if TYPE_CHECKING:
    from jobflow import Flow, Job, JobStore


@dataclass(frozen=True)
class FlowOutcome:
    """What became of a flow's jobs, each by (uuid, index)."""

    done: frozenset[Key]
    failed: Mapping[Key, FailureInfo]
    not_run: frozenset[Key]
    """Jobs whose parents failed, or that were stopped by a job."""

    @property
    def ok(self) -> bool:
        """Whether every job is done."""
        return not self.failed and not self.not_run


def run_flow(
    flow: Flow | Job | Sequence[Flow | Job],
    executor: Executor | int = 1,
    store: JobStore | None = None,
    work_dir: Path | str = "flow_jobs",
) -> FlowOutcome:
    """Run a flow over an executor; every output is in the store before a job that needs it begins.

    A job whose folder holds its result is not run again, so after a kill the same flow (the same object, stored as
    its dictionary: uuids change whenever a flow is built) is run with the same `work_dir` once more. A job that
    fails keeps those that wait for it from running; the others go on.

    Args:
        flow: A jobflow flow or job, or a list of them.
        executor: Runs `run_job_once`: threads, processes or a Parsl pool; or a number of processes that are started
            for this flow and end with it.
        store: A JobStore, with each additional store that the jobs save to; jobflow's configured one if left out.
        work_dir: Folder of the jobs' folders, on a disk that the workers share.

    Returns:
        What became of each job. A failure is data here, never an exception.

    Raises:
        LabelFlowError: Jobs wait for one another, or need a job that is neither in the flow nor in the store.
    """
    if store is None:
        from jobflow import SETTINGS

        store = SETTINGS.JOB_STORE
    store.connect()
    progress = FlowProgress(job_records(flow))
    refuse_missing(progress, store)
    folder = Path(work_dir).expanduser().absolute()
    running: dict[Future[dict[str, Any]], Key] = {}
    ended: SimpleQueue[Future[dict[str, Any]]] = SimpleQueue()
    with _opened(executor) as pool, _none_left_waiting(running):
        while True:
            for key in progress.ready():
                future = _submitted(pool, progress, key, store, folder)
                running[future] = key
                future.add_done_callback(ended.put)
            if not running:
                return FlowOutcome(frozenset(progress.done), progress.failed, frozenset(progress.left))
            future = ended.get()
            progress.take(running.pop(future), _result(future, store))


def refuse_missing(progress: FlowProgress, store: JobStore) -> None:
    """Raise for jobs that need the output of a job that nobody will run.

    Raises:
        LabelFlowError: It is neither in the flow nor in the store.
    """
    known = {uuid for uuid, _ in progress.records}
    outside: dict[str, str] = {}
    for record in progress.records.values():
        if not record["runs_without"]:
            outside |= dict.fromkeys(set(record["parents"]) - known, record["name"])
    if not outside:
        return
    there = {one["uuid"] for one in store.docs_store.query({"uuid": {"$in": sorted(outside)}}, ["uuid"])}
    if set(outside) - there:
        raise LabelFlowError(
            "jobs need outputs of jobs that are neither in the flow nor in the store",
            value=sorted({name for uuid, name in outside.items() if uuid not in there}),
            cure="add those jobs to the flow, or run them first with the same store",
        )


def _submitted(
    pool: Executor, progress: FlowProgress, key: Key, store: JobStore, folder: Path
) -> Future[dict[str, Any]]:
    """Give a job to the executor; one that takes no more jobs gives a future that has failed."""
    record = progress.records[key]
    upstream = upstream_documents(store, record["parents"])
    try:
        return pool.submit(run_job_once, record["job"], upstream, str(folder / f"{key[0]}-{key[1]}"))
    except Exception as error:  # a pool whose worker died is broken for good
        failed: Future[dict[str, Any]] = Future()
        failed.set_exception(error)
        return failed


def _result(future: Future[dict[str, Any]], store: JobStore) -> dict[str, Any]:
    """Return what a job gave, with its output stored."""
    error: BaseException | None = future.exception()
    if error is None:
        result = future.result()
        if not result["ok"]:
            return result
        try:
            store_result(store, result)
        except JobStoreError as refused:
            error = refused
        else:
            return result
    # The worker died, or the job's folder or the store cannot be used.
    return {"ok": False, "failure": failure_of(error).model_dump(mode="json")}


@contextlib.contextmanager
def _opened(executor: Executor | int) -> Iterator[Executor]:
    """Give the executor, or one with so many processes of its own."""
    if isinstance(executor, Executor):
        yield executor
    else:
        with ProcessPoolExecutor(executor) as pool:
            yield pool


@contextlib.contextmanager
def _none_left_waiting(running: Collection[Future[Any]]) -> Iterator[None]:
    """Call back the jobs that no worker has begun if the flow is interrupted."""
    try:
        yield
    finally:
        for future in running:
            future.cancel()
