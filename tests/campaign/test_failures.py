"""What happens after a failure is decided by its cause, from a table that campaign.yaml may change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.config import parse_config
from campaign.errors import ConfigError
from campaign.failures import POLICIES, allowance, causes_of, cures_for, try_again
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


def test_time_and_memory_double_after_each_failure_for_their_want():
    causes = [FailureCause.WALLTIME, FailureCause.NODE_LOST, FailureCause.WALLTIME]
    assert allowance(60.0, Cure.MORE_TIME, causes, POLICIES) == 240.0
    assert allowance(8.0, Cure.MORE_MEMORY, causes, POLICIES) == 8.0
    assert allowance(None, Cure.MORE_TIME, causes, POLICIES) is None


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
