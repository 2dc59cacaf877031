"""Flows over executors: order, dynamic jobs, large outputs, failures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flow_jobs
import pytest
from jobflow import Flow, Job, JobStore
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

from flows.building import job_records
from flows.errors import LabelFlowError
from flows.run import run_flow, run_job_once


@pytest.fixture(params=["threads", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    kind = ThreadPoolExecutor if request.param == "threads" else ProcessPoolExecutor
    with kind(2) as pool:
        yield pool


@pytest.fixture
def store() -> JobStore:
    made = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    made.connect()
    return made


def test_a_chain_and_a_fan(tmp_path: Path, store: JobStore, executor: Executor) -> None:
    first = flow_jobs.add(1, 2)
    fan = [flow_jobs.add(first.output, i) for i in range(3)]
    last = flow_jobs.add_list([one.output for one in fan])
    outcome = run_flow(Flow([first, *fan, last]), executor, store, tmp_path)
    assert outcome.ok
    assert len(outcome.done) == 5
    assert store.get_output(last.uuid) == 12


@pytest.mark.parametrize(("maker", "expected"), [("replaced_by_flow", 111), ("replaced_by_job", 1001)])
def test_a_job_that_replaces_itself(
    tmp_path: Path, store: JobStore, executor: Executor, maker: str, expected: float
) -> None:
    first = getattr(flow_jobs, maker)(1)
    last = flow_jobs.add(first.output, 0.5)
    outcome = run_flow(Flow([first, last]), executor, store, tmp_path)
    assert outcome.ok, outcome
    assert store.get_output(last.uuid) == expected + 0.5
    assert {index for uuid, index in outcome.done if uuid == first.uuid} == {1, 2}


def test_children_wait_for_a_detour(tmp_path: Path, store: JobStore, executor: Executor) -> None:
    log = str(tmp_path / "log")
    first = flow_jobs.with_detour(1, log)
    last = flow_jobs.lines_of(log, after=first.output)
    outcome = run_flow(Flow([first, last]), executor, store, tmp_path / "jobs")
    assert outcome.ok
    assert len(outcome.done) == 3
    assert store.get_output(last.uuid) == 1


def test_children_wait_for_a_replacement_that_gives_no_output(
    tmp_path: Path, store: JobStore, executor: Executor
) -> None:
    log = str(tmp_path / "log")
    first = flow_jobs.replaced_without_output(log)
    last = flow_jobs.lines_of(log, after=first.output)
    outcome = run_flow(Flow([first, last]), executor, store, tmp_path / "jobs")
    assert outcome.ok
    assert store.get_output(last.uuid) == 1


def test_jobs_in_threads_each_see_themselves(tmp_path: Path, store: JobStore) -> None:
    jobs = [flow_jobs.who_am_i(0.02 * number) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert run_flow(Flow(jobs), pool, store, tmp_path).ok
    assert [store.get_output(one.uuid) for one in jobs] == [one.uuid for one in jobs]


def test_an_addition_runs_as_well(tmp_path: Path, store: JobStore, executor: Executor) -> None:
    log = tmp_path / "log"
    first = flow_jobs.with_addition(1, str(log))
    last = flow_jobs.add(first.output, 1)
    outcome = run_flow(Flow([first, last]), executor, store, tmp_path / "jobs")
    assert outcome.ok
    assert len(outcome.done) == 3
    assert flow_jobs.ticks(log) == 1


def test_a_failure_keeps_its_children_from_running_and_nobody_else(
    tmp_path: Path, store: JobStore, executor: Executor
) -> None:
    bad, good = flow_jobs.fail("no"), flow_jobs.add(1, 2)
    child = flow_jobs.add(bad.output, 1)
    grandchild = flow_jobs.add(child.output, good.output)
    outcome = run_flow(Flow([bad, good, child, grandchild]), executor, store, tmp_path)
    assert not outcome.ok
    assert outcome.done == {(good.uuid, 1)}
    assert {key: info.message for key, info in outcome.failed.items()} == {(bad.uuid, 1): "ValueError: no"}
    assert outcome.not_run == {(child.uuid, 1), (grandchild.uuid, 1)}


def test_a_job_can_stop_its_children(tmp_path: Path, store: JobStore, executor: Executor) -> None:
    first = flow_jobs.stops_children(1)
    child = flow_jobs.add(first.output, 1)
    other = flow_jobs.add(1, 1)
    outcome = run_flow(Flow([first, child, other]), executor, store, tmp_path)
    assert outcome.done == {(first.uuid, 1), (other.uuid, 1)}
    assert outcome.not_run == {(child.uuid, 1)}


def test_a_lost_process_is_a_lost_node(tmp_path: Path, store: JobStore) -> None:
    first = flow_jobs.die()
    with ProcessPoolExecutor(1) as pool:
        outcome = run_flow(Flow([first]), pool, store, tmp_path)
    assert outcome.failed[first.uuid, 1].cause == "node_lost"


def test_a_pool_that_takes_no_more_jobs_is_told_for_each_of_them(tmp_path: Path, store: JobStore) -> None:
    first = flow_jobs.die()
    after = [flow_jobs.or_zero(first.output) for _ in range(2)]
    with ProcessPoolExecutor(1) as pool:
        outcome = run_flow(Flow([first, *after]), pool, store, tmp_path)
    assert {key: info.cause for key, info in outcome.failed.items()} == {
        (one.uuid, 1): "node_lost" for one in (first, *after)
    }


def test_a_store_without_a_place_for_large_data_fails_the_job_and_loses_nothing(
    tmp_path: Path, store: JobStore, executor: Executor
) -> None:
    log = tmp_path / "log"
    first, other = flow_jobs.makes_other(3, str(log)), flow_jobs.add(1, 2)
    outcome = run_flow(made := Flow([first, other]), executor, store, tmp_path / "jobs")
    assert outcome.done == {(other.uuid, 1)}
    assert "lacks; got 'elsewhere'; allowed: data" in outcome.failed[first.uuid, 1].message
    more = JobStore(MemoryStore(), additional_stores={"data": MemoryStore(), "elsewhere": MemoryStore()})
    assert run_flow(made, executor, more, tmp_path / "jobs").ok
    assert flow_jobs.ticks(log) == 1
    assert more.get_output(first.uuid, load=True) == {"other": [0, 1, 2]}


def test_a_flow_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path, store: JobStore) -> None:
    outside = flow_jobs.add(1, 2)
    with pytest.raises(LabelFlowError, match="neither in the flow nor in the store; got \\['add'\\]"):
        run_flow(Flow([flow_jobs.add(outside.output, 1)]), 1, store, tmp_path)
    one, other = flow_jobs.add(1, 2), flow_jobs.add(1, 2)
    one.function_kwargs, other.function_kwargs = {"log": other.output}, {"log": one.output}
    with pytest.raises(LabelFlowError, match="contains cycles"):
        run_flow([one, other], 1, store, tmp_path)


def test_a_number_of_processes_and_a_relative_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = JobStore(MemoryStore())
    first = flow_jobs.add(1, 2)
    assert run_flow([first, last := flow_jobs.add(first.output, 1)], 2, store, "jobs").ok
    assert store.get_output(last.uuid) == 4
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == sorted(
        f"{one.uuid}-1" for one in (first, last)
    )


@pytest.mark.slow
def test_a_parsl_pool_runs_flows_as_well(
    tmp_path: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parsl import Config
    from parsl.concurrent import ParslPoolExecutor
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    # Parsl looks for its scripts on PATH, where an environment that is not activated has none
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    workers = HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=2,
        cores_per_worker=1e-3,
        provider=LocalProvider(worker_init=f"export PYTHONPATH={path}:$PYTHONPATH"),
    )
    first = flow_jobs.replaced_by_flow(1)
    large = flow_jobs.makes_large(5)
    made = Flow([first, large, last := flow_jobs.add(first.output, large.output["n"])])
    with ParslPoolExecutor(Config([workers], run_dir=str(tmp_path / "parsl"))) as pool:
        outcome = run_flow(made, pool, store, tmp_path / "jobs")
    assert outcome.ok, outcome
    assert store.get_output(last.uuid) == 116


def test_large_outputs_go_beside_the_document_and_come_back(
    tmp_path: Path, store: JobStore, executor: Executor
) -> None:
    first = flow_jobs.makes_large(1000)
    last = flow_jobs.length_of(first.output["large"])
    outcome = run_flow(Flow([first, last]), executor, store, tmp_path)
    assert outcome.ok, outcome
    assert store.get_output(last.uuid) == 1000
    document = store.docs_store.query_one({"uuid": first.uuid})
    assert len(json.dumps(document["output"])) < 1000
    assert store.get_output(first.uuid, load=True)["large"]["numbers"] == list(range(1000))


def test_running_a_flow_again_runs_nothing_again(tmp_path: Path, store: JobStore) -> None:
    log = tmp_path / "log"
    first = flow_jobs.add(1, 2, log=str(log))
    last = flow_jobs.add(first.output, 2, log=str(log))
    stored = json.dumps(Flow([first, last]), cls=MontyEncoder)
    for _ in range(2):
        flow = MontyDecoder().decode(stored)
        with ThreadPoolExecutor(2) as pool:
            assert run_flow(flow, pool, store, tmp_path / "jobs").ok
    assert flow_jobs.ticks(log) == 2
    assert store.get_output(last.uuid) == 5


def test_job_records_round_trip_through_json() -> None:
    first = flow_jobs.add(1, 2)
    last = flow_jobs.add(first.output, b=2)
    records = job_records(Flow([last, first]))
    assert json.loads(json.dumps(records)) == records
    assert [(record["uuid"], record["parents"]) for record in records] == [
        (first.uuid, []),
        (last.uuid, [first.uuid]),
    ]
    copy = Job.from_dict(records[1]["job"])
    assert copy.uuid == last.uuid
    assert copy.input_uuids == (first.uuid,)
    assert job_records(copy)[0]["job"] == records[1]["job"]


def test_inputs_come_from_upstream_documents(tmp_path: Path) -> None:
    first = flow_jobs.add(1, 2)
    last = flow_jobs.add(first.output, 2)
    records: list[dict[str, Any]] = job_records(Flow([first, last]))
    without = run_job_once(records[1]["job"], [], str(tmp_path / "b"))
    assert not without["ok"]
    assert "Could not resolve reference" in without["failure"]["message"]
    done = run_job_once(records[0]["job"], [], str(tmp_path / "a"))
    upstream = [{**document, "_id": "as a database adds it"} for document in done["docs"]]
    assert run_job_once(records[1]["job"], upstream, str(tmp_path / "b"))["docs"][0]["output"] == 5
