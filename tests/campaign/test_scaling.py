"""How many blocks a pool gets: the decision alone, without a block."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from campaign.parallel.scaling import (
    LONGEST_PAUSE_S,
    BlockView,
    Decision,
    Limits,
    decide,
    pause_s,
    unplaced,
)

LIMITS = Limits(workers_per_block=4, min_blocks=0, max_blocks=3, idle_s=60.0, failures=3)


def running(block_id: str = "0", busy: int = 0, **more: object) -> BlockView:
    return BlockView(block_id, "running", workers=4, busy=busy, **more)  # type: ignore[arg-type]


def failed(block_id: str, why: str = "no such module") -> BlockView:
    return BlockView(block_id, "ended", failed=why)


def test_no_work_needs_no_block() -> None:
    assert decide([], [], LIMITS) == Decision()


def test_work_gets_as_many_blocks_as_it_fills_and_the_site_allows() -> None:
    assert decide([None] * 1, [], LIMITS).submit == 1
    assert decide([None] * 5, [], LIMITS).submit == 2
    assert decide([None] * 500, [], LIMITS).submit == 3


def test_blocks_on_their_way_count_as_if_they_were_there() -> None:
    blocks = [BlockView("0", "queued"), BlockView("1", "starting")]
    assert decide([None] * 8, blocks, LIMITS) == Decision()
    assert decide([None] * 9, blocks, LIMITS).submit == 1


def test_a_block_that_ended_is_replaced_while_work_waits() -> None:
    assert decide([None] * 4, [BlockView("0", "ended")], LIMITS).submit == 1
    assert decide([], [BlockView("0", "ended")], LIMITS).submit == 0


def test_the_least_number_of_blocks_is_kept_without_work() -> None:
    limits = Limits(workers_per_block=4, min_blocks=2, max_blocks=3, idle_s=60.0, failures=3)
    assert decide([], [], limits).submit == 2
    idle = [running(str(i), idle_s=600.0) for i in range(3)]
    assert decide([], idle, limits).end == ("0",)


def test_only_blocks_that_idled_long_enough_are_given_back() -> None:
    blocks = [running("0", idle_s=59.0), running("1", idle_s=61.0), running("2", busy=1)]
    assert decide([None], blocks, LIMITS).end == ("1",)


def test_a_queued_block_is_taken_back_only_after_there_was_no_task_for_long() -> None:
    queued = [BlockView("0", "queued"), BlockView("1", "starting")]
    assert decide([], queued, LIMITS, quiet_s=59.0).end == ()
    assert decide([], queued, LIMITS, quiet_s=61.0).end == ("0",)


def test_a_task_that_fits_into_no_block_gets_a_young_one() -> None:
    old = running("0", busy=1, remaining_s=100.0)
    assert decide([10.0, 90.0], [old], LIMITS).submit == 0
    assert decide([10.0, 900.0], [old], LIMITS).submit == 1


def test_a_free_block_with_too_little_time_makes_room_for_a_young_one() -> None:
    limits = Limits(workers_per_block=4, min_blocks=0, max_blocks=1, idle_s=600.0, failures=3)
    old = running("0", remaining_s=100.0, idle_s=6.0)
    assert decide([900.0], [old], limits).end == ("0",)
    just_free = running("0", remaining_s=100.0, idle_s=1.0)
    assert decide([900.0], [just_free], limits) == Decision()
    assert decide([90.0], [old], limits) == Decision()


def test_blocks_that_do_not_start_are_tried_again_later_and_not_for_ever() -> None:
    assert decide([None], [failed("0")], LIMITS, since_failure_s=0.0) == Decision()
    assert decide([None], [failed("0")], LIMITS, since_failure_s=pause_s(1)).submit == 1
    three = [failed("0"), failed("1"), failed("2", "invalid partition")]
    assert decide([None], three, LIMITS).give_up == "invalid partition"
    worked_between = [failed("0"), failed("1"), BlockView("2", "ended"), failed("3")]
    assert decide([None], worked_between, LIMITS).give_up == ""
    assert pause_s(50) == LONGEST_PAUSE_S


def test_a_pool_that_works_is_not_given_up_because_the_queue_takes_no_more_jobs() -> None:
    blocks = [running("0", busy=4), failed("1"), failed("2"), failed("3"), failed("4")]
    assert decide([None] * 8, blocks, LIMITS).give_up == ""


def test_here_one_block_that_cannot_start_is_enough() -> None:
    here = Limits(1, 1, 1, math.inf, failures=3, first_failure_ends=True)
    assert decide([], [failed("0")], here).give_up
    assert not decide([], [BlockView("0", "ended"), failed("1")], here).give_up


VIEWS = st.builds(
    BlockView,
    st.uuids().map(str),
    st.sampled_from(["queued", "starting", "running", "ended"]),
    workers=st.just(4),
    busy=st.integers(0, 4),
    idle_s=st.floats(0, 1000),
    remaining_s=st.floats(0, 1000),
    ending=st.booleans(),
)


@given(
    tasks=st.lists(st.none() | st.floats(0, 2000), max_size=30),
    blocks=st.lists(VIEWS, max_size=6),
    quiet_s=st.floats(0, 1000),
)
def test_working_and_starting_blocks_live_and_limits_hold(
    tasks: Sequence[float | None], blocks: Sequence[BlockView], quiet_s: float
) -> None:
    decision = decide(tasks, blocks, LIMITS, quiet_s=quiet_s)
    live = [block for block in blocks if block.state != "ended"]
    assert len(live) + decision.submit <= max(LIMITS.max_blocks, len(live))
    ended = [block for block in blocks if block.block_id in decision.end]
    assert all(block.state == "queued" or (block.state == "running" and not block.busy) for block in ended)
    assert 0 <= unplaced(tasks, live, 4) <= len(tasks)
