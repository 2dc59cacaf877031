"""Which block takes which task: the decision alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from campaign.parallel.placement import WHOLE, Room, fits, place

OLD, YOUNG = Room(2, 100.0, 1000.0), Room(2, 900.0, 1000.0)


def test_a_short_task_goes_to_the_oldest_block_in_which_it_fits() -> None:
    assert place([50.0], [YOUNG, OLD]) == [1]
    assert place([500.0], [YOUNG, OLD]) == [0]


def test_a_task_that_fits_nowhere_waits_and_lets_others_pass() -> None:
    assert place([500.0, 50.0], [OLD]) == [None, 0]


def test_a_task_longer_than_a_whole_block_gets_a_fresh_one() -> None:
    assert place([5000.0], [OLD, Room(1, 0.95 * 1000.0, 1000.0)]) == [1]
    assert place([5000.0], [OLD]) == [None]


def test_a_task_of_unknown_length_goes_where_most_time_is_left() -> None:
    assert place([None], [OLD, YOUNG]) == [1]
    assert place([None], [OLD]) == [0]


def test_without_walltimes_tasks_gather_so_that_a_block_falls_idle() -> None:
    here = [Room(4, math.inf, math.inf, busy=0), Room(3, math.inf, math.inf, busy=1)]
    assert place([10.0, None, 10.0, 10.0], here) == [1, 1, 1, 0]


def test_no_worker_gets_two_tasks() -> None:
    assert place([1.0, 1.0, 1.0], [Room(2, 100.0, 100.0)]) == [0, 0, None]


ROOMS = st.builds(Room, st.integers(0, 4), st.floats(0, 1000), st.floats(0, 1000), st.integers(0, 4))


@given(
    tasks=st.lists(st.none() | st.floats(0, 2000), max_size=20), rooms=st.lists(ROOMS, min_size=1, max_size=5)
)
def test_every_task_has_room_and_time_where_it_goes(
    tasks: Sequence[float | None], rooms: Sequence[Room]
) -> None:
    chosen = place(tasks, rooms)
    assert len(chosen) == len(tasks)
    for index, room in enumerate(rooms):
        placed = [task for task, where in zip(tasks, chosen, strict=True) if where == index]
        assert len(placed) <= room.free
        assert all(task is None or room.remaining_s >= min(task, WHOLE * room.whole_s) for task in placed)
    for task, where in zip(tasks, chosen, strict=True):
        if where is None:  # every room in which it fits is full
            full = [chosen.count(i) >= room.free for i, room in enumerate(rooms) if fits(task, room)]
            assert all(full)
