"""How long tasks are expected to take: learned, never negative, never less for a larger one, in whatever order."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.durations import Durations, Observation, Prior

PRIORS = {"": Prior(600.0), "job": Prior(60.0, 8.0, 1.5)}
OBSERVATIONS = st.lists(
    st.builds(
        Observation,
        kind=st.just("job/relax"),
        size=st.integers(1, 300).map(float),
        seconds=st.floats(0.0, 1e7),
        whole=st.booleans(),
    ),
    max_size=25,
)


def learned(observations, priors=PRIORS):
    durations = Durations(priors)
    for one in observations:
        durations.learn(one)
    return durations


@given(OBSERVATIONS, st.integers(1, 1000))
def test_an_expectation_is_a_positive_number_of_seconds(observations, size):
    expected = learned(observations).expected_s("job/relax", size)
    assert 0 < expected < math.inf


@given(OBSERVATIONS, st.integers(1, 500), st.integers(0, 500))
def test_more_atoms_are_never_expected_to_take_less(observations, size, more):
    durations = learned(observations)
    smaller, larger = (durations.expected_s("job/relax", n) for n in (size, size + more))
    assert larger >= smaller * (1 - 1e-9)


@given(OBSERVATIONS, st.randoms(use_true_random=False))
def test_the_order_of_tasks_does_not_matter(observations, shuffler):
    other = list(observations)
    shuffler.shuffle(other)
    one, two = (learned(some).expected_s("job/relax", 12) for some in (observations, other))
    assert one == pytest.approx(two, rel=1e-6)


@given(OBSERVATIONS)
def test_what_is_known_goes_through_a_document(observations):
    durations = learned(observations)
    again = Durations(PRIORS)
    again.read(json.loads(json.dumps(durations.document(durations.kinds()))))
    for size in (1, 10, 100):
        assert again.expected_s("job/relax", size) == durations.expected_s("job/relax", size)


def test_before_anything_has_ended_the_prior_speaks():
    durations = Durations(PRIORS)
    assert 60 < durations.expected_s("job/relax", 8) < 1000, "more than the median that it says"
    ratio = durations.expected_s("job/relax", 80) / durations.expected_s("job/relax", 8)
    assert ratio == pytest.approx(10**1.5)
    assert durations.expected_s("else", 1) > 600


def test_nine_of_ten_tasks_end_within_what_is_expected():
    """Times grow as n², which the prior does not know, with a spread of a factor of 1.35."""
    draw = random.Random(1)

    def task():
        size = float(draw.choice([2, 4, 8, 16, 32]))
        return Observation("job/relax", size, 20.0 * size**2 * math.exp(draw.gauss(0.0, 0.3)))

    durations = learned(task() for _ in range(150))
    ended = sum(
        one.seconds <= durations.expected_s(one.kind, one.size) for one in (task() for _ in range(2000))
    )
    assert 0.86 < ended / 2000 < 0.95


@pytest.mark.parametrize("factor", [0.02, 50.0])
def test_a_prior_that_was_far_off_is_soon_forgotten(factor):
    tasks = [Observation("job/relax", 8.0, 60.0 * factor * wobble) for wobble in (0.9, 1.0, 1.1, 1.0, 0.95)]
    expected = learned(tasks).expected_s("job/relax", 8)
    assert 60 * factor < expected < 60 * factor * 3


def test_a_cut_task_is_expected_to_take_longer_than_it_had():
    expected = learned([Observation("job/relax", 8.0, 3600.0, whole=False)]).expected_s("job/relax", 8)
    assert 3600 < expected < 5 * 3600


def test_cut_tasks_among_whole_ones_make_them_longer():
    whole = [Observation("job/relax", 8.0, 100.0 * wobble) for wobble in (0.8, 0.9, 1.0, 1.1, 1.2)]
    cuts = [Observation("job/relax", 8.0, 110.0, whole=False)] * 3
    assert learned(whole + cuts).expected_s("job/relax", 8) > learned(whole).expected_s("job/relax", 8)
    short = [Observation("job/relax", 8.0, 1.0, whole=False)] * 3
    assert learned(whole + short).expected_s("job/relax", 8) == pytest.approx(
        learned(whole).expected_s("job/relax", 8), rel=0.2
    ), "a cut after a second says next to nothing"


def test_kinds_do_not_teach_one_another():
    durations = learned([Observation("job/relax", 8.0, 1e6)])
    assert durations.expected_s("job/static", 8) == Durations(PRIORS).expected_s("job/static", 8)
