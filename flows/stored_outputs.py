"""Outputs of jobs into a JobStore as jobflow writes them, and out of it as `run_job_once` wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.errors import JobStoreError

if TYPE_CHECKING:
    from jobflow import JobStore

Document = dict[str, Any]


def store_result(store: JobStore, result: Mapping[str, Any]) -> None:
    """Write a job's documents into a JobStore: large data first, so that no output points to nothing.

    Raises:
        JobStoreError: The JobStore has no additional store of that name.
    """
    for blob in result["data"]:
        kept = {name: value for name, value in blob.items() if name != "store"}
        _additional(store, blob["store"]).update(_as_stored(kept), key="blob_uuid")
    store.docs_store.update(_as_stored(result["docs"]), key=["uuid", "index"])


def upstream_documents(store: JobStore, uuids: Iterable[str]) -> list[Document]:
    """Return what a job that depends on others needs of a JobStore; see `gathered`."""

    def asked(wanted: list[str]) -> list[Document]:
        found = [dict(one) for one in store.docs_store.query({"uuid": {"$in": wanted}})]
        for name, blobs in store.additional_stores.items():
            found += [{**one, "store": name} for one in blobs.query({"job_uuid": {"$in": wanted}})]
        return found

    return gathered(uuids, asked)


def gathered(uuids: Iterable[str], ask: Callable[[list[str]], list[Document]]) -> list[Document]:
    """Return the outputs of jobs, those of jobs that they refer to, and the large data that they saved elsewhere.

    Args:
        uuids: Of the jobs.
        ask: Gives the outputs and the large data of some jobs.
    """
    found: list[Document] = []
    asked: set[str] = set()
    wanted = set(uuids)
    while wanted:
        fresh = ask(sorted(wanted))
        asked |= wanted
        wanted = {uuid for one in fresh for uuid in _referred(one)} - asked
        found += fresh
    return [{key: value for key, value in one.items() if key != "_id"} for one in found]


def _additional(store: JobStore, name: str) -> Any:
    try:
        return store.additional_stores[name]
    except KeyError as error:
        raise JobStoreError(
            "a job saves to an additional store that the JobStore lacks",
            value=name,
            allowed=sorted(store.additional_stores),
            cure="give the JobStore that store and run the flow again: the job will not run twice",
        ) from error


def _referred(value: Any) -> Iterator[str]:
    """Yield the uuids of jobs that a stored output refers to, as that of a job replaced by a flow does."""
    if isinstance(value, dict):
        if value.get("@class") == "OutputReference" and "uuid" in value:  # else it was saved as large data
            yield value["uuid"]
        for one in value.values():
            yield from _referred(one)
    elif isinstance(value, list):
        for one in value:
            yield from _referred(one)


def _as_stored(value: Any) -> Any:
    """Return a document with its times as databases hold them: jobflow stores them so, and JSON cannot."""
    if isinstance(value, dict):
        if value.get("@module") == "datetime" and value.get("@class") == "datetime":
            return datetime.fromisoformat(value["string"])
        return {key: _as_stored(one) for key, one in value.items()}
    return [_as_stored(one) for one in value] if isinstance(value, list) else value
