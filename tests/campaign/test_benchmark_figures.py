"""Figures of discovery curves, against what a pencil gives."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.benchmarking.figures import (
    acceleration,
    area,
    area_of_chance,
    area_of_ideal,
    band,
    curves,
    enhancement,
    interval,
    paired,
    variant_figures,
)


def test_a_curve_counts_finds_and_stays_where_a_campaign_ended_early() -> None:
    found = curves([[True, False, True, True], [False, True], []], 4)
    assert found.tolist() == [[0, 1, 1, 2, 3], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]


def test_labels_beyond_the_budget_do_not_count() -> None:
    assert curves([[True] * 9], 3).tolist() == [[0, 1, 2, 3]]


def test_who_finds_twice_as_fast_has_enhancement_and_acceleration_two() -> None:
    found, random = curves([[True] * 10], 10), curves([[True, False] * 5], 10)
    assert enhancement(found, random) == 2
    # Random has its five finds after nine labels, the other one after five.
    assert acceleration(found, random) == pytest.approx(9 / 5)


def test_who_never_finds_as_much_as_random_has_no_acceleration() -> None:
    found = acceleration(curves([[False] * 4], 4), curves([[True] * 4], 4))
    assert np.isnan(found)


def test_without_finds_of_random_there_is_nothing_to_compare_with() -> None:
    never, always = curves([[False] * 4], 4), curves([[True] * 4], 4)
    assert np.isnan(enhancement(always, never))
    assert np.isnan(acceleration(always, never))


def test_areas_of_ideal_and_chance_frame_every_policy() -> None:
    ideal = curves([[True] * 3 + [False] * 3], 6)
    assert area(ideal) == area_of_ideal(6, 3)
    every_order = [[place == stable for place in range(6)] for stable in range(6)]
    assert area(curves(every_order, 6)) == pytest.approx(area_of_chance(6, 1, 6))


def test_an_interval_holds_the_mean_and_shrinks_to_a_point_without_spread() -> None:
    spread = curves([[True] * 4, [False] * 4, [True, False] * 2], 4)
    found = interval(lambda one: float(one[:, -1].mean()), spread)
    assert found.low < found.value == 2.0 < found.high
    same = interval(lambda one: float(one[:, -1].mean()), curves([[True]] * 5, 1))
    assert (same.low, same.value, same.high) == (1.0, 1.0, 1.0)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        found = interval(lambda one: float(one.mean()), random.normal(0.0, 1.0, (12, 1)))
        hits += found.low <= 0.0 <= found.high
    assert 82 <= hits <= 99


def test_a_pair_of_variants_is_compared_on_the_same_seeds() -> None:
    """Both do well on one seed and badly on the other: their ratio is nevertheless certain."""
    one = curves([[True] * 8, [True, False, False, False] * 2], 8)
    both = paired({"a": one, "b": one})
    assert both["a"]["b"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_figures_of_a_variant_against_itself_are_one() -> None:
    random = curves([[True, False] * 3, [False, True] * 3], 6)
    row = variant_figures({"random": random}, {"random": 0 * random}, "random", (3, 12))["random"]
    assert row["enhancement"]["value"] == row["area_over_baseline"]["value"] == 1.0
    assert row["finds"]["value"] == 3.0
    assert row["finds_per_label"]["value"] == 0.5
    assert row["sun_per_label"]["value"] == 0.0


def test_a_band_lies_around_the_mean() -> None:
    mean, low, high = band(curves([[True] * 3, [False] * 3], 3))
    assert (low <= mean).all()
    assert (mean <= high).all()
    assert low[-1] == 0
    assert high[-1] == 3
