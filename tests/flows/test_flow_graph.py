"""Properties of the pure flow graph, and of the progress that keeps its answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.graph import Key, key_of, needs, runnable, with_new_jobs
from flows.progress import FlowProgress

Records = list[dict[str, Any]]
FAILURE = {"ok": False, "failure": {"cause": "unknown", "message": "no"}}


def record(uuid: str, *parents: str, index: int = 1, **more: Any) -> dict[str, Any]:
    return {"uuid": uuid, "index": index, "name": uuid, "parents": list(parents), **more}


def success(*new_jobs: dict[str, Any], stop_children: bool = False, stop_flow: bool = False) -> Any:
    return {
        "ok": True, "new_jobs": list(new_jobs), "stop_children": stop_children, "stop_flow": stop_flow,
    }  # fmt: skip


@st.composite
def flows_without_circles(draw: st.DrawFn) -> Records:
    n = draw(st.integers(1, 9))
    records = [
        record(
            str(i),
            *(str(j) for j in draw(st.sets(st.integers(0, i - 1), max_size=3)) if i),
            runs_without=draw(st.sampled_from([False, False, True])),
        )
        if i
        else record("0", runs_without=False)
        for i in range(n)
    ]
    return draw(st.permutations(records))


def lost(records: Records, failed: Iterable[str]) -> set[str]:
    """Return the uuids that never run: the definition, however slow."""
    found = set(failed)
    while more := {one["uuid"] for one in records if needs(one) & found} - found:
        found |= more
    return found


@given(flows_without_circles(), st.randoms(use_true_random=False))
def test_running_what_is_runnable_ends_with_every_job_done_once(records: Records, random: Any) -> None:
    done: set[Key] = set()
    running: list[Key] = []
    started = []
    while len(done) < len(records):
        fresh = runnable(records, done, set(running))
        assert all(parent in {uuid for uuid, _ in done} for one in fresh for parent in _parents(records, one))
        started += fresh
        running += fresh
        assert running, "the flow stands still"
        done.add(running.pop(random.randrange(len(running))))
    assert sorted(started) == sorted(key_of(one) for one in records)


def _parents(records: Records, key: Key) -> list[str]:
    return next(one["parents"] for one in records if key_of(one) == key)


@given(flows_without_circles(), st.integers(0, 8))
def test_who_needs_a_failed_job_never_runs_and_all_others_do(records: Records, which: int) -> None:
    never = lost(records, [records[which % len(records)]["uuid"]])
    done: set[Key] = set()
    while fresh := runnable(records, done, set(), never):
        done.update(fresh)
    assert {uuid for uuid, _ in done} == {one["uuid"] for one in records} - never


def test_jobs_that_wait_for_one_another_are_not_runnable() -> None:
    records = [record("a", "b"), record("b", "a"), record("c")]
    assert runnable(records, set(), set()) == [("c", 1)]


def test_children_wait_for_a_replacement() -> None:
    records = [record("a"), record("b", "a")]
    new = [
        record("x", via="replace"),
        record("y", via="replace"),
        record("a", "x", index=2, via="replace", runs_without=True),
    ]
    records = with_new_jobs(records, "a", new)
    assert runnable(records, {("a", 1)}, set()) == [("x", 1), ("y", 1)]
    assert runnable(records, {("a", 1), ("x", 1)}, set()) == [("y", 1), ("a", 2)]
    assert runnable(records, {("a", 1), ("x", 1), ("a", 2)}, set()) == [("y", 1)]
    assert runnable(records, {("a", 1), ("x", 1), ("a", 2)}, set(), {"y"}) == [("b", 1)]
    assert runnable(records, {("a", 1), ("x", 1)}, {("y", 1)}, {"a"}) == []


def test_children_wait_for_a_detour_but_not_for_an_addition() -> None:
    before = [record("a"), record("b", "a")]
    detour = with_new_jobs(before, "a", [record("x", via="detour")])
    assert runnable(detour, {("a", 1)}, set()) == [("x", 1)]
    assert runnable(detour, {("a", 1)}, set(), {"x"}) == [("b", 1)]
    addition = with_new_jobs(before, "a", [record("x", via="addition")])
    assert runnable(addition, {("a", 1)}, set()) == [("b", 1), ("x", 1)]


@given(flows_without_circles(), st.sampled_from(["replace", "detour", "addition"]))
def test_new_jobs_said_twice_change_nothing(records: Records, via: str) -> None:
    first = records[0]["uuid"]
    new = [record("new", via=via)]
    once = with_new_jobs(records, first, new)
    assert with_new_jobs(once, first, new) == once
    assert len(once) == len(records) + 1


def test_a_job_that_takes_missing_inputs_runs_after_a_failure() -> None:
    records = [record("a"), record("b", "a", runs_without=True), record("c", "a")]
    assert runnable(records, set(), set(), lost(records, {"a"})) == [("b", 1)]


# The progress keeps what `runnable` says of all jobs


@given(flows_without_circles(), st.data())
def test_progress_says_what_asking_every_job_says(records: Records, data: st.DataObject) -> None:
    progress = FlowProgress(records)
    done: set[Key] = set()
    running: set[Key] = set()
    failed: set[str] = set()
    for number in range(40):
        expected = runnable(records, done, running, lost(records, failed))
        assert sorted(progress.ready()) == sorted(expected)
        running |= {*expected}
        if not running:
            break
        key = data.draw(st.sampled_from(sorted(running)))
        running -= {key}
        via = data.draw(st.sampled_from(["nothing", "failure", "replace", "detour", "addition"]))
        if via == "failure":
            failed.add(key[0])
            progress.take(key, FAILURE)
            continue
        new = [record(f"new{number}", via=via)] if via != "nothing" and number < 9 else []
        if new and via == "replace":
            new.append(record(key[0], new[0]["uuid"], index=key[1] + 1, via=via, runs_without=True))
        done.add(key)
        records = with_new_jobs(records, key[0], new)
        progress.take(key, success(*new))
    assert not running
    assert progress.done == done
    assert progress.left == {key_of(one) for one in records} - done - set(progress.failed)


@pytest.mark.parametrize("first", ["failed", "stopped"])
def test_stopped_children_stop_theirs_even_those_that_need_nothing(first: str) -> None:
    progress = FlowProgress(
        [
            record("stops"),
            record("fails"),
            record("b", "stops", "fails"),
            record("c", "b", runs_without=True),
            record("d", "fails", runs_without=True),
        ]
    )
    assert progress.ready() == [("stops", 1), ("fails", 1)]
    ends = [(("fails", 1), FAILURE), (("stops", 1), success(stop_children=True))]
    for key, result in ends if first == "failed" else reversed(ends):
        progress.take(key, result)
    assert progress.ready() == [("d", 1)]
    progress.take(("d", 1), success())
    assert progress.ready() == []
    assert progress.left == {("b", 1), ("c", 1)}


def test_a_stopped_flow_begins_nothing_more() -> None:
    progress = FlowProgress([record("a"), record("b", "a"), record("c")])
    progress.ready()
    progress.take(("a", 1), success(record("new", via="addition"), stop_flow=True))
    assert progress.ready() == []


def test_a_new_job_that_needs_a_lost_one_is_lost_with_its_children() -> None:
    progress = FlowProgress([record("a"), record("b")])
    progress.ready()
    progress.take(("a", 1), FAILURE)
    new = [record("x", "a", via="addition"), record("y", "x", via="addition", runs_without=True)]
    progress.take(("b", 1), success(*new))
    assert progress.ready() == [("y", 1)]
