"""A stand-alone runner of flows over any executor and JobStore, on the same functions that a campaign uses."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.building import job_records
from flows.causes import failure_of
from flows.graph import Key, ancestors, key_of, lost, runnable, with_new_jobs
from flows.job_run import run_job_once
from flows.schemas import FailureInfo

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


@dataclass
class _Progress:
    """The flow as it stands."""

    records: list[dict[str, Any]]
    done: set[Key] = field(default_factory=set)
    failed: dict[Key, FailureInfo] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    """Uuids whose children shall not run."""
    ended: bool = False
    """Whether a job stopped the whole flow."""

    def never(self) -> set[str]:
        """Return the uuids that will never be done."""
        children = {record["uuid"] for record in self.records if self.stopped & set(record["parents"])}
        started = {uuid for uuid, _ in self.done}
        return lost(self.records, {uuid for uuid, _ in self.failed} | (children - started))

    def ready(self, running: set[Key]) -> list[Key]:
        """Return the jobs to start now."""
        return [] if self.ended else runnable(self.records, self.done, running, self.never())

    def take(self, key: Key, result: Mapping[str, Any]) -> None:
        """Note the end of a job."""
        if not result["ok"]:
            self.failed[key] = FailureInfo(**result["failure"])
            return
        self.records = with_new_jobs(self.records, key[0], result["new_jobs"])
        self.done.add(key)
        if result["stop_children"]:
            self.stopped.add(key[0])
        self.ended = self.ended or result["stop_flow"]


def run_flow(flow: Flow | Job, executor: Executor, store: JobStore, work_dir: Path) -> FlowOutcome:
    """Run a flow over an executor; every output is in the store before a job that needs it begins.

    A job whose folder holds its result is not run again, so after a kill the same flow (the same object, stored as
    its dictionary: uuids change whenever a flow is built) is run with the same `work_dir` once more. A job that
    fails keeps those that wait for it from running; the others go on.

    Args:
        flow: A jobflow flow or job.
        executor: Runs `run_job_once`; threads, processes or a Parsl pool.
        store: A connected JobStore, with each additional store that the jobs save to.
        work_dir: Folder of the jobs' folders.

    Returns:
        What became of each job. A failure is data here, never an exception.
    """
    progress = _Progress(job_records(flow))
    running: dict[Future[dict[str, Any]], Key] = {}
    while True:
        by_key = {key_of(record): record for record in progress.records}
        for key in progress.ready(set(running.values())):
            upstream = upstream_documents(store, ancestors(progress.records, key[0]))
            folder = work_dir.absolute() / f"{key[0]}-{key[1]}"
            running[executor.submit(run_job_once, by_key[key]["job"], upstream, str(folder))] = key
        if not running:
            left = set(by_key) - progress.done - set(progress.failed)
            return FlowOutcome(frozenset(progress.done), progress.failed, frozenset(left))
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            key = running.pop(future)
            error = future.exception()
            if error is not None:  # the worker died, or the job's folder cannot be used
                result: dict[str, Any] = {"ok": False, "failure": failure_of(error).model_dump(mode="json")}
            else:
                result = future.result()
                if result["ok"]:
                    store_result(store, result)
            progress.take(key, result)


def store_result(store: JobStore, result: Mapping[str, Any]) -> None:
    """Write a job's documents into a JobStore: large data first, so that no output points to nothing."""
    for blob in result["data"]:
        kept = {name: value for name, value in blob.items() if name != "store"}
        store.additional_stores[blob["store"]].update(kept, key="blob_uuid")
    store.docs_store.update(result["docs"], key=["uuid", "index"])


def upstream_documents(store: JobStore, uuids: set[str]) -> list[dict[str, Any]]:
    """Return the outputs of jobs, and the large data they saved elsewhere, as `run_job_once` wants them."""
    if not uuids:
        return []
    wanted = sorted(uuids)
    documents = [dict(one) for one in store.docs_store.query({"uuid": {"$in": wanted}})]
    for name, blobs in store.additional_stores.items():
        documents += [{**one, "store": name} for one in blobs.query({"job_uuid": {"$in": wanted}})]
    return [{key: value for key, value in one.items() if key != "_id"} for one in documents]
