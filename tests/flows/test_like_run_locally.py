"""Flows run as jobflow's own runner runs them: the same documents, the same jobs, whatever a flow does.

What cannot be the same: jobs here run side by side, so that a job that stops the flow cannot stop what runs already,
and a job sees only the outputs that it may need; arguments and outputs travel as JSON; jobflow makes up a flow around a
job that is given alone, which then is its host, and here it has none.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flow_examples import EXAMPLES, add, or_nothing, replaced_by_flow
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from flows.run import FlowOutcome, run_flow

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIMES = ("completed_at", "last_updated", "_id")
STORES = ("data", "graphs")


def new_store(outputs: Sequence[dict[str, Any]] = ()) -> JobStore:
    store = JobStore(MemoryStore(), additional_stores={name: MemoryStore() for name in STORES})
    store.connect()
    store.docs_store.update(copy.deepcopy([*outputs]), key=["uuid", "index"])
    return store


def text_of(document: Any) -> str:
    return json.dumps(document, sort_keys=True, default=repr)


def documents(store: JobStore, kept: set[str]) -> list[str]:
    """Return all documents of all stores, but for times; uuids that were made meanwhile are numbered."""
    found = [
        text_of({"in": name, **{key: value for key, value in one.items() if key not in TIMES}})
        for name, part in {"docs": store.docs_store, **store.additional_stores}.items()
        for one in part.query({})
    ]
    numbers: dict[str, str] = {}

    def known(match: re.Match[str]) -> str:
        uuid = match.group()
        return uuid if uuid in kept else numbers.setdefault(uuid, f"uuid {len(numbers)}")

    blind = {
        text: UUID.sub(lambda match: match.group() if match.group() in kept else "", text) for text in found
    }
    return [UUID.sub(known, text) for text in sorted(found, key=lambda text: blind[text])]


def by_jobflow(made: Flow, store: JobStore, folder: Path) -> bool:
    """Let jobflow run a flow; return whether it says that all went well."""
    folder.mkdir()
    options = {"log": False, "allow_external_references": True, "ensure_success": True}
    try:
        run_locally(made, store=store, root_dir=folder, **options)
    except RuntimeError:
        return False
    return True


def keys(store: JobStore) -> set[tuple[str, int]]:
    return {(one["uuid"], one["index"]) for one in store.docs_store.query({})}


def check_alike(
    made: Flow, executor: Executor, folder: Path, before: Sequence[dict[str, Any]] = ()
) -> FlowOutcome:
    """Run copies of a flow in both ways, each with a store of its own, and compare everything they leave."""
    theirs, ours = new_store(before), new_store(before)
    well = by_jobflow(copy.deepcopy(made), theirs, folder / "theirs")
    outcome = run_flow(made, executor, ours, folder / "ours")
    kept = {*made.all_uuids, made.uuid}
    assert documents(ours, kept) == documents(theirs, kept)
    assert outcome.ok == well
    assert outcome.done == keys(ours) - keys(new_store(before))
    return outcome


@pytest.fixture(params=["threads", "processes"], scope="module")
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    kind = ThreadPoolExecutor if request.param == "threads" else ProcessPoolExecutor
    with kind(2) as pool:
        yield pool


@pytest.mark.parametrize("name", [*EXAMPLES])
def test_the_same_documents_and_the_same_jobs(name: str, executor: Executor, tmp_path: Path) -> None:
    check_alike(EXAMPLES[name](), executor, tmp_path)


def test_references_to_jobs_of_another_flow(executor: Executor, tmp_path: Path) -> None:
    """Also to one whose stored output refers to further jobs."""
    plain, replaced = add(1, 2), replaced_by_flow(1)
    store = new_store()
    assert by_jobflow(Flow([plain, replaced]), store, tmp_path / "before")
    before = [
        {key: value for key, value in one.items() if key != "_id"} for one in store.docs_store.query({})
    ]
    made = Flow([add(plain.output, replaced.output), or_nothing(plain.output)])
    assert check_alike(made, executor, tmp_path, before).ok


def test_a_job_alone_and_a_list_of_jobs(executor: Executor, tmp_path: Path) -> None:
    theirs, ours = new_store(), new_store()
    alone = replaced_by_flow(1)
    assert by_jobflow(copy.deepcopy(alone), theirs, tmp_path / "theirs")
    assert run_flow(alone, executor, ours, tmp_path / "ours").ok
    assert theirs.get_output(alone.uuid) == ours.get_output(alone.uuid) == 111
    assert theirs.docs_store.count() == ours.docs_store.count() == 4
    assert ours.docs_store.query_one({"uuid": alone.uuid, "index": 1})["hosts"] == []
    first = add(1, 2)
    several = [first, last := add(first.output, 3)]
    assert by_jobflow(copy.deepcopy(several), theirs, tmp_path / "theirs, several")
    assert run_flow(several, executor, ours, tmp_path / "ours, several").ok
    assert theirs.get_output(last.uuid) == ours.get_output(last.uuid) == 6
