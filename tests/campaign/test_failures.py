"""What happens after a failure is decided by its cause, from a table that campaign.yaml may change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.config import parse_config
from campaign.errors import ConfigError
from campaign.failures import (
    FRUITLESS_BLOCKS,
    MACHINE,
    POLICIES,
    allowance,
    causes_of,
    counted,
    cures_for,
    machine_cut,
    try_again,
)
from flows.cures import Cure
from flows.schemas import FailureCause

CAUSES = st.lists(st.sampled_from(sorted(FailureCause)), max_size=60)


def labels_with(**block):
    document = {"name": "x", "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2}, "labels": block}
    return parse_config(document, "test").labels


def test_every_cause_has_a_policy():
    assert set(POLICIES) == set(FailureCause)


@given(CAUSES, st.integers(1, 5))
def test_nothing_is_tried_for_ever(causes, max_attempts):
    most = sum(policy.tries or max_attempts for policy in POLICIES.values())
    taken: list[str] = []
    while try_again(taken, POLICIES, max_attempts):
        taken.append(causes[len(taken) % len(causes)] if causes else FailureCause.UNKNOWN)
    assert 1 <= len(taken) <= most


def test_lost_nodes_and_walltimes_use_up_nothing_else():
    free = [FailureCause.NODE_LOST] * 10 + [FailureCause.WALLTIME] * 5
    assert try_again([*free, FailureCause.UNKNOWN], POLICIES, max_attempts=2)
    assert not try_again([*free, FailureCause.UNKNOWN, FailureCause.UNKNOWN], POLICIES, max_attempts=2)


@pytest.mark.parametrize("cause", [FailureCause.BAD_GEOMETRY, FailureCause.MISSING_SETUP])
def test_what_would_fail_the_same_way_is_not_tried_again(cause):
    assert not try_again([cause], POLICIES, max_attempts=9)


def test_each_failure_of_a_cause_brings_one_more_cure():
    scf, lost = FailureCause.SCF_NOT_CONVERGED, FailureCause.NODE_LOST
    assert cures_for([], POLICIES) == ()
    assert cures_for([scf], POLICIES) == (Cure.SLOW_MIXING,)
    assert cures_for([scf, lost, scf], POLICIES) == (Cure.SLOW_MIXING, Cure.OTHER_ALGORITHM)
    assert cures_for([lost], POLICIES) == ()


def test_time_and_memory_grow_by_half_after_each_failure_for_their_want():
    causes = [FailureCause.WALLTIME, FailureCause.NODE_LOST, FailureCause.WALLTIME]
    assert allowance(60.0, Cure.MORE_TIME, causes, POLICIES) == 135.0
    assert allowance(8.0, Cure.MORE_MEMORY, causes, POLICIES) == 8.0
    assert allowance(None, Cure.MORE_TIME, causes, POLICIES) is None


@given(st.floats(0.1, 100.0), st.integers(0, 60), st.none() | st.floats(1.0, 9.0))
def test_time_and_memory_grow_to_a_bound(limit, failures, times):
    most = None if times is None else limit * times
    causes = [FailureCause.OUT_OF_MEMORY] * failures
    allowed = allowance(limit, Cure.MORE_MEMORY, causes, POLICIES, most)
    assert limit <= allowed <= (4 * limit if most is None else most)


def test_the_bound_of_a_limit_is_not_below_it():
    assert labels_with(job_hours=2, max_job_hours=3).max_job_hours == 3
    with pytest.raises(ConfigError, match="max_job_hours is 1, but job_hours is 2"):
        labels_with(job_hours=2, max_job_hours=1)
    with pytest.raises(ConfigError, match="job_memory_gb is not set"):
        labels_with(max_job_memory_gb=16)


def cut(seconds, geometries=0, **more):
    return {
        "cause": "walltime",
        "block_ended": True,
        "wall_seconds": seconds,
        "geometries": geometries,
        **more,
    }


def lost():
    return {"cause": "node_lost", "wall_seconds": 60.0, "geometries": None}


TRIES = ["cut", "useless", "unbegun", "lost", "on", "lost on", "unknown"]


def over_and_over(new, times):
    """Return the causes that count after as many tries that came to the same."""
    tries = []
    for _ in range(times):
        tries.append({**new, "forgiven": MACHINE if machine_cut(tries, new) else None})
    return counted(tries)


def test_blocks_may_cut_as_often_as_they_like_what_gets_on():
    assert over_and_over(cut(3600.0, geometries=1), 200) == []
    assert over_and_over(cut(3600.0, geometries=40), 26) == ["walltime"], "it will not converge"
    assert over_and_over({**lost(), "geometries": 400}, 4) == ["node_lost"] * 2


def test_blocks_in_which_nothing_was_reached_count_after_the_first_few():
    assert over_and_over(cut(3600.0), FRUITLESS_BLOCKS) == []
    assert over_and_over(cut(3600.0), FRUITLESS_BLOCKS + 2) == ["walltime"] * 2


def test_a_block_that_left_less_time_than_another_says_nothing():
    tries = []
    for seconds in [3600.0, 5.0, 100.0, 3000.0, 7.0, 60.0]:
        assert machine_cut(tries, cut(seconds))
        tries.append(cut(seconds, forgiven=MACHINE))


def test_what_was_reached_since_clears_what_was_fruitless():
    tries = [cut(3600.0, forgiven=MACHINE)] * 3
    assert not machine_cut(tries, cut(3600.0))
    assert machine_cut([*tries, cut(3600.0, 2, forgiven=MACHINE)], cut(3600.0))
    assert machine_cut([{**one, "forgiven": True} for one in tries], cut(3600.0)), "a person asked again"


def test_blocks_without_time_are_forgiven_but_not_for_ever():
    assert over_and_over(cut(0.0), 50) == []
    assert over_and_over(cut(0.0), 150)
    tries = [cut(3600.0, forgiven=MACHINE), *[cut(5.0, forgiven=MACHINE)] * 98]
    assert machine_cut(tries, cut(5.0)), "one block had left it more time"
    assert not machine_cut([*tries, cut(5.0, forgiven=MACHINE)], cut(5.0))


def test_a_jobs_own_time_counts():
    assert not machine_cut([], {**cut(3600.0), "block_ended": False})


def test_lost_workers_count_while_they_come_in_a_row():
    assert over_and_over(lost(), 5) == ["node_lost"] * 5
    row = [{**lost(), "forgiven": MACHINE}] * 19
    assert try_again(counted(row), POLICIES, 2)
    assert not try_again(counted([*row, row[0]]), POLICIES, 2)
    alive = [*row, cut(60.0, 1, forgiven=MACHINE), row[0]]
    assert counted(alive) == ["node_lost"], "it does not take its node down every time"
    assert over_and_over({**lost(), "geometries": 1}, 50) == [], "each left a further geometry"
    asked_again = [{**one, "forgiven": True} for one in row]
    assert counted([*asked_again, row[0]]) == ["node_lost"]


@given(st.lists(st.sampled_from(TRIES), min_size=1, max_size=8))
def test_every_job_ends_some_day(pattern):
    """Whatever comes round and round, in whichever order."""
    news = {"cut": cut(3600.0), "useless": cut(900.0), "unbegun": cut(0.0), "lost": lost(),
            "on": cut(3600.0, 50), "lost on": {**lost(), "geometries": 50},
            "unknown": {"cause": "unknown", "wall_seconds": 1.0, "geometries": 0}}  # fmt: skip
    tries = []
    while try_again(counted(tries), POLICIES, 2):
        new = news[pattern[len(tries) % len(pattern)]]
        tries.append({**new, "forgiven": MACHINE if machine_cut(tries, new) else None})
        assert len(tries) < 2000


def test_only_this_job_and_what_is_not_forgiven_counts():
    attempts = [
        {"job": "a", "index": 1, "cause": "unknown", "forgiven": True},
        {"job": "a", "index": 1, "cause": None},
        {"job": "a", "index": 2, "cause": "unknown"},
        {"job": "b", "index": 1, "cause": "unknown"},
        {"job": "a", "index": 1, "cause": "walltime"},
    ]
    assert causes_of(attempts, "a", 1) == ["walltime"]


def test_the_configuration_changes_what_it_names_and_nothing_else():
    policies = labels_with(
        on_failure={"scf_not_converged": {"tries": 5}, "parse_error": {"cures": ["more_time"]}}
    ).policies()
    assert policies["scf_not_converged"].tries == 5
    assert policies["scf_not_converged"].cures == POLICIES["scf_not_converged"].cures
    assert policies["parse_error"].cures == (Cure.MORE_TIME,)
    assert policies["parse_error"].tries is None
    assert policies["node_lost"] == POLICIES["node_lost"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"on_failure": {"scf": {"tries": 5}}}, "on_failure"),
        ({"on_failure": {"unknown": {"tries": 0}}}, "greater than or equal to 1"),
        ({"on_failure": {"unknown": {"cures": ["prayer"]}}}, "slow_mixing"),
        ({"on_failure": {"unknown": {"retries": 3}}}, "tries"),
        ({"job_hours": 0}, "greater than 0"),
    ],
)
def test_mistakes_are_named_with_what_is_allowed(block, words):
    with pytest.raises(ConfigError, match=words):
        labels_with(**block)
