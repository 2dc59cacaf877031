"""What a worker executes: one job, in its own folder, durable, and never twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.building import job_records
from flows.causes import WorkerEndedError, failure_of
from flows.cures import Cure
from flows.current_job import one_current_job_for_each_thread
from flows.errors import JobFolderError
from flows.job_context import Reached, cores_held, inside
from flows.job_files import locked, read_result, write_failure, write_result
from flows.job_limits import Limits, limited, no_time_left

if TYPE_CHECKING:
    from jobflow import Job, JobStore, Response

Document = dict[str, Any]


NO_LIMITS = Limits()


def run_job_once(
    job: Document,
    upstream: Sequence[Mapping[str, Any]],
    work_dir: str,
    *,
    cures: Iterable[str] = (),
    limits: Limits = NO_LIMITS,
) -> Document:
    """Run one job in its own folder, or return the result that an earlier run left there.

    Args:
        job: The job as a plain dictionary (`flows.building.job_records`).
        upstream: Output documents of the jobs that it depends on, as a JobStore holds them (uuid, index, output);
            those of replaced jobs may refer to further ones, so give all ancestors. Documents of additional
            stores (blob_uuid, data) that they point to belong here as well.
        work_dir: The job's folder; absolute, on a disk that survives the worker, one per (uuid, index).
        cures: What this try does otherwise than the first (`flows.cures.Cure`).
        limits: Time and memory of this try.

    Returns:
        With `ok` true: `docs` for the JobStore, `data` for its additional stores (each with the name of its
        `store`), `new_jobs` that the job asked for (records with `via`: replace, detour, addition; see
        `flows.graph.with_new_jobs`), `stop_children`. With `ok` false: `failure`, a `FailureInfo`.
        Always: `reused`, wall_seconds, core_hours, host, pid, started, ended, cures, folder, and `geometries`: those
        that a relaxation reached beyond the one it began with. A job that was given back, because its block has no
        time left, took 0 s.

    Raises:
        JobFolderError: The folder cannot be used, or holds the result of another job.
    """
    folder = Path(work_dir)
    if not folder.is_absolute():
        raise JobFolderError("a job's folder must be absolute", value=work_dir, cure="give its absolute path")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy loads its BLAS: contended threads are slow
    with locked(folder):
        found = read_result(folder, job["uuid"], job["index"])
        if found is not None:
            return {**found, "reused": True}
        no_time = no_time_left()
        if no_time is not None:
            failure = failure_of(no_time).model_dump(mode="json")
            return {"ok": False, "failure": failure, **_about_the_try(folder, list(cures), 0.0, _now(), 0)}
        result, told_to_end = _try(job, upstream, folder, list(cures), limits)
        result = _kept(folder, result)
    if told_to_end:  # what was reached is saved: now end, as a worker without a job ends at once
        os.kill(os.getpid(), signal.SIGTERM)
    return result


def _try(
    job: Document, upstream: Sequence[Mapping[str, Any]], folder: Path, cures: list[str], limits: Limits
) -> tuple[Document, bool]:
    """Run a job; return what came of it, and whether the worker was told to end."""
    begin, started = time.monotonic(), _now()
    told_to_end, reached = False, Reached()
    try:
        with inside(folder, map(Cure, cures)) as reached, limited(limits):
            result = _run(job, upstream, folder)
    except Exception as error:
        # Any failure of an engine becomes data: the campaign decides by its cause what happens next.
        result = {"ok": False, "failure": failure_of(error).model_dump(mode="json")}
        told_to_end = isinstance(error, WorkerEndedError)
    seconds = time.monotonic() - begin
    return result | _about_the_try(folder, cures, seconds, started, reached.geometries), told_to_end


def _about_the_try(folder: Path, cures: list[str], seconds: float, started: str, geometries: int) -> Document:
    return {
        "wall_seconds": seconds,
        "core_hours": seconds * cores_held() / 3600,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cures": cures,
        "folder": str(folder),
        "started": started,
        "ended": _now(),
        "reused": False,
        "geometries": geometries,
    }


def _kept(folder: Path, result: Document) -> Document:
    """Write what came out; a full disk must not lose a result that was paid for, so it is returned all the same."""
    try:
        (write_result if result["ok"] else write_failure)(folder, result)
    except OSError as error:
        return {**result, "not_kept": f"{error.strerror}: {folder}"}
    return result


def _run(job_document: Document, upstream: Sequence[Mapping[str, Any]], folder: Path) -> Document:
    from jobflow import Job

    job = Job.from_dict(job_document)
    if not callable(job.function):
        named = job_document["function"]
        raise ImportError(f"this worker cannot import {named.get('@module')}.{named.get('@callable')}")
    store = _store_of(job, upstream)
    one_current_job_for_each_thread()
    response = job.run(store=store, job_dir=folder)
    made = {"job_uuid": job.uuid, "job_index": job.index}
    return {
        "ok": True,
        "docs": [_plain(one) for one in store.docs_store.query({"uuid": job.uuid, "index": job.index})],
        "data": [
            {**_plain(one), "store": name}
            for name, blobs in store.additional_stores.items()
            for one in blobs.query(made)
        ],
        "new_jobs": _new_jobs(response),
        "stop_children": bool(response.stop_children),
        "stop_flow": bool(response.stop_jobflow),
    }


def _store_of(job: Job, upstream: Iterable[Mapping[str, Any]]) -> JobStore:
    """Return a JobStore in memory that holds the upstream documents and has each store that the job saves to."""
    from jobflow import JobStore
    from maggma.stores import MemoryStore

    documents = [{key: value for key, value in one.items() if key != "_id"} for one in upstream]
    outputs = [one for one in documents if "output" in one]
    blobs = [one for one in documents if "blob_uuid" in one]
    names = {"data", *job._kwargs, *(blob.get("store", "data") for blob in blobs)}
    store = JobStore(MemoryStore(), additional_stores={name: MemoryStore() for name in sorted(names)})
    store.connect()
    if outputs:
        store.docs_store.update(outputs, key=["uuid", "index"])
    for blob in blobs:
        store.additional_stores[blob.get("store", "data")].update(blob, key="blob_uuid")
    return store


def _new_jobs(response: Response) -> list[Document]:
    """Return the jobs that a job asked for: replacements, detours and additions."""
    asked = {"replace": response.replace, "detour": response.detour, "addition": response.addition}
    return [
        {**record, "via": via}
        for via, flow in asked.items()
        if flow is not None
        for record in job_records(flow)
    ]


def _plain(document: Mapping[str, Any]) -> Document:
    """Return a store's document as JSON has it."""
    from monty.json import MontyEncoder

    kept = {key: value for key, value in document.items() if key != "_id"}
    plain: Document = json.loads(json.dumps(kept, cls=MontyEncoder))
    return plain


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
