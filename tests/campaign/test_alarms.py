"""Labels held against what was believed of them: honest rounds pass, poisoned ones do not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.alarms import Inspection, inspect
from campaign.quarantine import LASTING, quarantined

WORLDS = {
    "calibrated": {"error": 1.0, "between": 0.0, "tails": 30},
    "too sure of themselves": {"error": 2.5, "between": 0.05, "tails": 4},
    "heavy tails": {"error": 1.5, "between": 0.08, "tails": 3},
    "each round is off by something": {"error": 1.5, "between": 0.15, "tails": 4},
}
"""Errors of the models in units of the standard deviations given, the scatter of rounds [eV/atom], and the tails."""


def rounds(world: dict, n: int, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (believed, std, computed) of the n most promising of 60 candidates: the winner's curse is in it."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        std = 0.06 * np.exp(rng.normal(0, 0.3, 60))
        unit = rng.standard_t(world["tails"], 60) / np.sqrt(world["tails"] / (world["tails"] - 2))
        error = std * world["error"] * np.exp(rng.normal(0, 0.3)) * unit + rng.normal(0, world["between"])
        truth = rng.normal(0.25, 0.2, 60)
        chosen = np.argsort(truth - error - std)[:n]
        yield (truth - error)[chosen], std[chosen], truth[chosen]


def inspected(batches: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[Inspection]:
    """Inspect rounds as a campaign does."""
    found: list[Inspection] = []
    for index, batch in enumerate(batches):
        alarms = {place: one.alarm for place, one in enumerate(found) if one.suspect}
        held = quarantined(alarms, index)
        found.append(inspect(*batch, [one for place, one in enumerate(found) if place not in held]))
    return found


@pytest.mark.parametrize("n", [3, 6, 12])
def test_fewer_than_one_honest_round_in_a_hundred_raises_an_alarm(n):
    """Over worlds from calibrated models to such whose rounds are each off by something."""
    found = [
        one.suspect
        for world in WORLDS.values()
        for seed in range(60)
        for one in inspected(rounds(world, n, 8, seed))
    ]
    assert np.mean(found) < 0.01


def after_honest_rounds(n: int, seed: int, poison) -> Inspection:
    *history, last = rounds(WORLDS["calibrated"], n, 4, seed)
    earlier = inspected(iter(history))
    assert not any(one.suspect for one in earlier)
    believed, std, found = last
    return inspect(believed, std, poison(found, np.random.default_rng(seed)), earlier)


@pytest.mark.parametrize(("shift", "kind"), [(0.5, "high"), (-0.5, "low")])
def test_labels_shifted_by_half_an_electronvolt_raise_an_alarm_that_says_so(shift, kind):
    found = [after_honest_rounds(6, seed, lambda labels, _: labels + shift) for seed in range(40)]
    assert np.mean([one.alarm == kind for one in found]) > 0.9
    words = found[0].message()
    assert ("above" if shift > 0 else "below") in words
    assert "eV/atom" in words
    assert "expected" in words


def test_energies_swapped_among_crystals_raise_an_alarm():
    def swapped(labels, rng):
        formation = rng.normal(-0.5, 0.5, len(labels))
        return labels + np.roll(formation, 1) - formation

    found = [after_honest_rounds(8, seed, swapped) for seed in range(40)]
    assert np.mean([one.suspect for one in found]) > 0.85
    assert max(found, key=lambda one: one.alarm == "scattered").message().startswith("scatter by")


def test_bad_models_that_say_so_raise_no_alarm():
    """A new chemistry: errors of half an electronvolt to both sides, and standard deviations to match."""
    earlier = inspected(rounds(WORLDS["calibrated"], 8, 3, 0))
    rng = np.random.default_rng(1)
    found = [
        inspect(np.zeros(8), np.full(8, 0.5), rng.normal(0.1, 0.5, 8), earlier).suspect for _ in range(200)
    ]
    assert np.mean(found) < 0.02


def test_the_first_labels_have_nothing_behind_them_and_are_trusted_with_a_warning():
    believed, std = np.zeros(6), np.full(6, 0.05)
    found = inspect(believed, std, np.full(6, 2.0), [])
    assert found.alarm == "high"
    assert not found.suspect
    assert not inspect(believed, std, np.full(6, 2.1), [found]).suspect, (
        "a constant offset is what is usual here"
    )


@given(st.lists(st.floats(-50, 50), max_size=2), st.floats(-50, 50))
def test_too_few_labels_are_not_judged(labels, history):
    earlier = [Inspection(8, shift=history, scale=1.0)]
    found = inspect(np.zeros(len(labels)), np.full(len(labels), 0.1), np.array(labels), earlier)
    assert not found.suspect
    assert "too few" in found.message()


@given(
    st.lists(st.tuples(st.floats(-40, 40), st.floats(1e-6, 5), st.floats(-40, 40)), min_size=3, max_size=12),
    st.lists(
        st.builds(Inspection, st.integers(0, 9), st.floats(-30, 30), scale=st.floats(0, 100)), max_size=8
    ),
)
def test_an_inspection_is_finite_and_survives_its_document(rows, earlier):
    believed, std, found = np.array(rows).T
    one = inspect(believed, std, found, earlier)
    assert np.isfinite([one.shift, one.error, one.expected, one.allowed, one.scale, one.usual_scale]).all()
    assert Inspection.of(one.document()) == one


def test_what_lasts_is_trusted_again_and_what_does_not_stays_out():
    assert quarantined({3: "high"}, 3) == frozenset()
    assert quarantined({3: "high"}, 9) == {3}
    assert quarantined({3: "high", 4: "low", 5: "high"}, 9) == {3, 4, 5}
    lasting = dict.fromkeys(range(3, 3 + LASTING), "high")
    assert quarantined(lasting, 2 + LASTING) == set(range(3, 2 + LASTING))
    assert quarantined(lasting, 3 + LASTING) == frozenset()
    assert quarantined({1: "scattered", **lasting}, 9) == {1}


@given(
    st.dictionaries(st.integers(0, 12), st.sampled_from(["", "high", "low", "scattered"])), st.integers(0, 13)
)
def test_only_alarmed_rounds_that_are_known_are_held(alarms, term):
    held = quarantined(alarms, term)
    assert held <= {index for index, kind in alarms.items() if kind and index < term}
