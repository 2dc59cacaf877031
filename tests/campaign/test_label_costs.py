"""Core-hours expected of labels: estimates, priors of rungs, and what labels that have ended tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from campaign.acquisition.standing import FIRST
from campaign.config import parse_config
from campaign.label_costs import LabelCosts

CONFIG = parse_config(
    {
        "name": "small",
        "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2},
        "labels": {
            "ladder": [
                {"name": "precise", "flow": "static"},
                {"name": "phonon", "flow": "phonon", "core_hours": 5.0},
            ]
        },
    },
    "campaign.yaml",
)


def estimate(n_atoms: int, elements: Sequence[str]) -> float:
    return 100.0 * n_atoms * len(elements)


def costs(*ended: dict[str, Any]) -> LabelCosts:
    return LabelCosts.of(CONFIG, dict.fromkeys([FIRST, "precise", "phonon"], estimate), ended)


def ended(number: int, core_hours: float, step: str | None = "phonon", **fields: Any) -> dict[str, Any]:
    known = {"candidate_id": f"{number}", "step": step, "state": "done", "core_hours": core_hours}
    return {**known, "chemsys": "Ca-Si", "n_atoms": 8, **fields}


def test_before_any_has_ended_the_engine_or_the_rung_says_what_to_expect() -> None:
    found = costs()
    assert found.core_hours(FIRST, 8, "Ca-Si") == pytest.approx(1600 / 3600)
    assert found.core_hours("precise", 8, "Ca-Si") == pytest.approx(1600 / 3600)
    assert found.core_hours("phonon", 8, "Ca-Si") == pytest.approx(5.0)
    assert found.core_hours("phonon", 16, "Ca-Si") == pytest.approx(10.0)
    assert found.core_hours("phonon", 8, "Si") == pytest.approx(2.5)


def test_labels_that_have_ended_correct_it_for_their_own_rung() -> None:
    found = costs(*(ended(n, 40.0) for n in range(20)))
    assert found.core_hours("phonon", 8, "Ca-Si") == pytest.approx(40.0, rel=0.1)
    assert found.core_hours("precise", 8, "Ca-Si") == pytest.approx(1600 / 3600)
    few = costs(ended(0, 40.0))
    assert 5.0 < few.core_hours("phonon", 8, "Ca-Si") < 40.0


def test_a_label_that_failed_took_at_least_so_long() -> None:
    done = [ended(n, 5.0) for n in range(5)]
    short, long = (ended(9, hours, state="failed") for hours in (0.01, 50.0))
    plain = costs(*done).core_hours("phonon", 8, "Ca-Si")
    assert costs(*done, short).core_hours("phonon", 8, "Ca-Si") == pytest.approx(plain, rel=0.2)
    assert costs(*done, long).core_hours("phonon", 8, "Ca-Si") > 1.2 * plain


def test_labels_in_any_order_tell_the_same() -> None:
    labels = [ended(n, 1.7**n, step="precise") for n in range(8)]
    one, other = (costs(*some).core_hours("precise", 3, "Ca-Si") for some in (labels, labels[::-1]))
    assert one == other
