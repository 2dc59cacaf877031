"""Properties of the pure flow graph."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import LabelFlowError
from flows.graph import ancestors, in_order, key_of, lost, runnable, with_new_jobs

Records = list[dict[str, Any]]


def record(uuid: str, *parents: str, index: int = 1, **more: Any) -> dict[str, Any]:
    return {"uuid": uuid, "index": index, "name": uuid, "parents": list(parents), **more}


@st.composite
def flows_without_circles(draw: st.DrawFn) -> Records:
    n = draw(st.integers(1, 9))
    records = [
        record(str(i), *(str(j) for j in draw(st.sets(st.integers(0, i - 1), max_size=3)) if i) if i else ())
        for i in range(n)
    ]
    return draw(st.permutations(records))


@given(flows_without_circles())
def test_an_order_holds_every_job_after_its_parents(records: Records) -> None:
    order = [uuid for uuid, _ in in_order(records)]
    assert sorted(order) == sorted(one["uuid"] for one in records)
    for one in records:
        assert all(order.index(parent) < order.index(one["uuid"]) for parent in one["parents"])


@given(flows_without_circles(), st.randoms(use_true_random=False))
def test_running_what_is_runnable_ends_with_every_job_done_once(records: Records, random: Any) -> None:
    done: set[tuple[str, int]] = set()
    running: list[tuple[str, int]] = []
    started = []
    while len(done) < len(records):
        fresh = runnable(records, done, set(running))
        started += fresh
        running += fresh
        assert running, "the flow stands still"
        done.add(running.pop(random.randrange(len(running))))
    assert sorted(started) == sorted(key_of(one) for one in records)


@given(flows_without_circles(), st.integers(0, 8))
def test_who_waits_for_a_failed_job_never_runs_and_all_others_do(records: Records, which: int) -> None:
    bad = records[which % len(records)]["uuid"]
    never = lost(records, {bad})
    assert never == {bad} | {one["uuid"] for one in records if bad in ancestors(records, one["uuid"])}
    done: set[tuple[str, int]] = set()
    while fresh := runnable(records, done, set(), never):
        done.update(fresh)
    assert {uuid for uuid, _ in done} == {one["uuid"] for one in records} - never


def test_a_circle_is_named() -> None:
    with pytest.raises(LabelFlowError, match=r"wait for one another.*'a', 'b'"):
        in_order([record("a", "b"), record("b", "a"), record("c")])


def test_children_wait_for_a_replacement() -> None:
    records = [record("a"), record("b", "a")]
    new = [record("x", via="replace"), record("a", "x", index=2, via="replace")]
    records = with_new_jobs(records, "a", new)
    assert runnable(records, {("a", 1)}, set()) == [("x", 1)]
    assert runnable(records, {("a", 1), ("x", 1)}, set()) == [("a", 2)]
    assert runnable(records, {("a", 1), ("x", 1), ("a", 2)}, set()) == [("b", 1)]
    assert ancestors(records, "b") == {"a", "x"}


def test_children_wait_for_a_detour_but_not_for_an_addition() -> None:
    before = [record("a"), record("b", "a")]
    detour = with_new_jobs(before, "a", [record("x", via="detour")])
    assert runnable(detour, {("a", 1)}, set()) == [("x", 1)]
    addition = with_new_jobs(before, "a", [record("x", via="addition")])
    assert runnable(addition, {("a", 1)}, set()) == [("b", 1), ("x", 1)]


@given(flows_without_circles(), st.sampled_from(["replace", "detour", "addition"]))
def test_new_jobs_said_twice_change_nothing(records: Records, via: str) -> None:
    first = records[0]["uuid"]
    new = [record("new", via=via)]
    once = with_new_jobs(records, first, new)
    assert with_new_jobs(once, first, new) == once
    assert len(in_order(once)) == len(records) + 1


def test_a_job_that_takes_missing_inputs_runs_after_a_failure() -> None:
    records = [record("a"), record("b", "a", runs_without=True), record("c", "a")]
    assert runnable(records, set(), set(), lost(records, {"a"})) == [("b", 1)]
