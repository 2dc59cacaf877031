"""Runs label flows one job at a time: on a worker, durable, and never twice.

`run_job_once` is what a worker executes; `run_flow` is a stand-alone runner over any executor and JobStore, on
the same functions that a campaign uses.
"""

from __future__ import annotations

import os
import socket
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.building import build_label, job_records, settings_hash, settings_of
from flows.causes import classify
from flows.graph import Key, descendants, key_of, runnable
from flows.job_files import locked, read_result, write_failure, write_result
from flows.schemas import FailureInfo

if TYPE_CHECKING:
    from jobflow import Flow, Job, JobStore, Response

__all__ = ["build_label", "run_flow", "run_job_once", "settings_hash", "settings_of"]


def run_job_once(job: dict[str, Any], upstream: list[dict[str, Any]], work_dir: str) -> dict[str, Any]:
    """Run one job in its own folder, or return the result that an earlier run left there.

    Args:
        job: The job as a plain dictionary (`flows.building.job_records`).
        upstream: Output documents of the jobs it refers to, as a JobStore holds them.
        work_dir: The job's folder; absolute, on a disk that survives the worker.

    Returns:
        With `ok` true: `docs` and `data` for the JobStore, `new_jobs` that the job asked for, `stop_children`,
        `reused`; with `ok` false: `failure`. Always: wall_seconds, core_hours, host, pid, started, ended.
    """
    folder = Path(work_dir)
    with locked(folder):
        found = read_result(folder)
        if found is not None:
            return {**found, "reused": True}
        begin, started = time.monotonic(), _now()
        try:
            result = _run(job, upstream, folder)
        except Exception as error:
            # Any failure of an engine becomes data: the campaign decides by its cause what happens next.
            detail = "".join(traceback.format_exception(error))[-4000:]
            failure = FailureInfo(cause=classify(error), message=_line(error), detail=detail)
            result = {"ok": False, "failure": failure.model_dump(mode="json")}
        seconds = time.monotonic() - begin
        result |= {
            "wall_seconds": seconds,
            "core_hours": seconds * int(os.environ.get("OMP_NUM_THREADS") or 1) / 3600,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": started,
            "ended": _now(),
            "reused": False,
        }
        (write_result if result["ok"] else write_failure)(folder, result)
        return result


def _run(job_document: dict[str, Any], upstream: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    from jobflow import Job, JobStore
    from maggma.stores import MemoryStore

    os.environ["FLOWS_JOB_DIR"] = str(folder)  # where engines put their logs; never the working directory
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    if upstream:
        store.docs_store.update(
            [{key: value for key, value in document.items() if key != "_id"} for document in upstream],
            key=["uuid", "index"],
        )
    job = Job.from_dict(job_document)
    response = job.run(store=store, job_dir=folder)
    return {
        "ok": True,
        "docs": _plain(store.docs_store.query({"uuid": job.uuid, "index": job.index})),
        "data": _plain(store.additional_stores["data"].query({"job_uuid": job.uuid})),
        "new_jobs": _new_jobs(response),
        "stop_children": bool(response.stop_children or response.stop_jobflow),
    }


def _new_jobs(response: Response) -> list[dict[str, Any]]:
    """Return the jobs that a job asked for: replacements, detours and additions."""
    found = []
    for asked in (response.replace, response.detour, response.addition):
        if asked is not None:
            found += job_records(asked)
    return found


def _plain(documents: Any) -> list[dict[str, Any]]:
    import json

    from monty.json import MontyEncoder

    return [
        json.loads(
            json.dumps({key: value for key, value in document.items() if key != "_id"}, cls=MontyEncoder)
        )
        for document in documents
    ]


def run_flow(flow: Flow | Job, executor: Executor, store: JobStore, work_dir: Path) -> dict[Key, str]:
    """Run a flow over an executor; every output is in the store before a job that needs it begins.

    Jobs whose output the store already holds are not run again. A job that fails keeps its descendants from
    running; the others go on.

    Args:
        flow: A jobflow flow or job.
        executor: Runs `run_job_once`; threads, processes or a Parsl pool.
        store: A connected JobStore.
        work_dir: Folder of the jobs' folders.

    Returns:
        (uuid, index) -> `done`, the failure's message, or `not run`.
    """
    records = {key_of(record): record for record in job_records(flow)}
    outcome: dict[Key, str] = {
        (document["uuid"], document["index"]): "done"
        for document in store.query(
            {"uuid": {"$in": [uuid for uuid, _ in records]}}, properties=["uuid", "index"]
        )
    }
    blocked: set[str] = set()
    running: dict[Future[dict[str, Any]], Key] = {}
    while True:
        done = {key for key, said in outcome.items() if said == "done"}
        busy = set(running.values()) | {key for key in records if key[0] in blocked or key in outcome}
        for key in runnable(list(records.values()), done, busy):
            upstream = list(store.docs_store.query({"uuid": {"$in": records[key]["parents"]}}))
            upstream = [{name: value for name, value in one.items() if name != "_id"} for one in upstream]
            folder = work_dir.absolute() / f"{key[0]}-{key[1]}"
            running[executor.submit(run_job_once, records[key]["job"], upstream, str(folder))] = key
        if not running:
            return {**dict.fromkeys(records, "not run"), **outcome}
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            key = running.pop(future)
            result = future.result()
            if not result["ok"]:
                outcome[key] = str(result["failure"]["message"])
                blocked |= descendants(records.values(), key[0])
                continue
            store.docs_store.update(result["docs"], key=["uuid", "index"])
            if result["data"]:
                store.additional_stores["data"].update(result["data"], key="blob_uuid")
            records |= {key_of(record): record for record in result["new_jobs"]}
            if result["stop_children"]:
                blocked |= descendants(records.values(), key[0])
            outcome[key] = "done"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
