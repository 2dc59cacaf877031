"""The screen that asks another potential: agreement, rejection, a flag, and nobody to ask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from components import StillSurrogate
from pymatgen.core import Lattice, Structure

from campaign.errors import ComponentError
from campaign.screens.contract import ScreenContext, ScreenItem
from campaign.screens.funnel import run_segment

SODIUM_CHLORIDE = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()


class Shifted(StillSurrogate):
    """Says of every crystal the same amount more."""

    version = "shifted"

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        return super().energies(structures) + self.by


def asked(by: float, values: Mapping[str, Any] | None = None, **options: Any) -> Any:
    context = ScreenContext(surrogate=StillSurrogate(), open_surrogate=lambda kind, options: Shifted(by))
    items = [ScreenItem("a", SODIUM_CHLORIDE, dict(values or {}))]
    return run_segment(items, [("second_opinion", options)], context)[0]


def test_potentials_that_agree_let_a_candidate_pass():
    found = asked(0.05)
    assert found.passed
    assert found.values["second_opinion_agrees"] is True
    assert found.values["second_opinion_difference"] == pytest.approx(0.05)


def test_potentials_that_disagree_reject_it_with_the_figure_and_the_limit():
    found = asked(-0.3)
    assert not found.passed
    assert "-0.300 eV/atom" in found.reason
    assert "0.1 wanted" in found.reason


def test_a_flagged_candidate_goes_on():
    found = asked(-0.3, disagreement="flag")
    assert found.passed
    assert found.values["second_opinion_agrees"] is False


def test_the_energy_of_the_relaxation_is_not_computed_again():
    energy = float(StillSurrogate().energies([SODIUM_CHLORIDE])[0]) + 0.3
    assert not asked(0.0, {"energy_per_atom": energy}).passed


def test_where_nobody_knows_the_candidate_is_not_to_blame():
    found = asked(math.nan)
    assert found.passed
    assert found.values["second_opinion_agrees"] is None


def test_without_a_way_to_another_potential_the_set_up_is_wrong():
    with pytest.raises(ComponentError, match="another surrogate"):
        run_segment(
            [ScreenItem("a", SODIUM_CHLORIDE)],
            [("second_opinion", {})],
            ScreenContext(surrogate=StillSurrogate()),
        )
