"""Shares that the benchmark `wycryst_generation` reports."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.generation_shares import Judged, after_relaxation, all_of, as_built, groups, placed, shares
from pymatgen.core import Lattice, Structure

from campaign.references.entries import ReferenceEntry, ReferenceSet
from campaign.screens.contract import ScreenContext
from models.surrogates.base import Relaxed


def rock_salt(one: str, other: str, a: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [one, other], [[0, 0, 0], [0.5, 0.5, 0.5]])


class ZeroSurrogate:
    """Elements have no energy, so that an energy is a formation energy."""

    version = "zero"

    def energies(self, structures):
        return np.zeros(len(structures))

    def relax(self, structures, **options):
        raise AssertionError("nothing is relaxed here")

    def formation_energies(self, structures, energies=None):
        return np.asarray(energies)


@pytest.fixture
def context() -> ScreenContext:
    rows = [("Mg", 0.0), ("O", 0.0), ("Ca", 0.0), ("MgO", -3.0), ("CaO", -3.2)]
    entries = tuple(ReferenceEntry(formula, formula, energy) for formula, energy in rows)
    return ScreenContext(reference=ReferenceSet(entries), surrogate=ZeroSurrogate())


def test_what_was_not_made_fails_every_test() -> None:
    judged = Judged(10, {"made": np.ones(4, dtype=bool), "novel": np.array([True, False, False, False])})
    assert shares(judged) == {"made": 0.4, "novel": 0.1}


def test_a_part_that_was_relaxed_stands_for_all_that_was_made() -> None:
    judged = Judged(10, {"made": np.ones(8, dtype=bool)}, {"stable": np.array([True, False])})
    assert shares(judged)["stable"] == pytest.approx(0.4)


def test_what_is_not_relaxed_fails_among_all() -> None:
    among = np.array([True, False, True, False])
    assert placed(np.array([True, False]), among).tolist() == [True, False, False, False]
    assert placed(np.zeros(0, dtype=bool), np.zeros(2, dtype=bool)).tolist() == [False, False]


def test_no_crystal_at_all_is_judged(context: ScreenContext) -> None:
    assert all(len(flags) == 0 for flags in as_built([], context).values())
    assert all(len(flags) == 0 for flags in after_relaxation([], [], context).values())


def test_nothing_made_is_no_share() -> None:
    empty = np.zeros(0, dtype=bool)
    assert shares(Judged(10, {"made": empty}, {"stable": empty})) == {"made": 0.0, "stable": 0.0}


def test_only_crystals_that_pass_each_test_pass_all() -> None:
    flags = {"a": np.array([True, True, False]), "b": np.array([True, False, True])}
    assert all_of(flags, "a", "b").tolist() == [True, False, False]


def test_crystals_as_built_are_judged_by_symmetry_charge_and_identity(context: ScreenContext) -> None:
    crystals = [rock_salt("Mg", "O", 4.2), rock_salt("Mg", "O", 4.25), rock_salt("O", "F", 4.2)]
    for crystal, number in zip(crystals, (225, 225, 221), strict=True):
        crystal.properties["spacegroup"] = number
    found = as_built(crystals, context)
    assert found["has its gene's space group at 0.01 Å"].tolist() == [True, True, False]
    assert found["charge neutral"].tolist() == [True, True, False]
    assert found["unique"].tolist() == [True, False, True]


def test_crystals_without_genes_have_no_space_group_that_was_asked_for(context: ScreenContext) -> None:
    assert not any("gene" in test for test in as_built([rock_salt("Mg", "O", 4.2)], context))


def test_relaxed_crystals_are_stable_below_the_hull_and_only_if_converged(context: ScreenContext) -> None:
    before = [rock_salt("Mg", "O", 4.2), rock_salt("Ca", "O", 4.8), rock_salt("Mg", "O", 4.3)]
    moved = before[2].copy()
    moved.translate_sites([0], [0.1, 0.0, 0.0])
    outcomes = [
        Relaxed(before[0], -3.05, 0.0, True, 1, 225, 225),
        Relaxed(before[1], -3.15, 0.0, True, 1, 225, 225),
        Relaxed(moved, -9.0, 1.0, False, 300, 225, 99),
    ]
    found = after_relaxation(before, outcomes, context)
    assert found["converged"].tolist() == [True, True, False]
    assert found["space group as before at 0.1 Å"].tolist() == [True, True, False]
    assert found["at most 0.0 eV/atom above the hull"].tolist() == [True, False, False]
    assert found["at most 0.1 eV/atom above the hull"].tolist() == [True, True, False]


def test_a_crystal_without_symmetry_has_group_1() -> None:
    points = [[0.01, 0.02, 0.03], [0.37, 0.41, 0.59]]
    crystal = Structure(Lattice.from_parameters(4.0, 5.0, 6.0, 80.0, 95.0, 103.0), ["Mg", "O"], points)
    assert groups([crystal], 0.01).tolist() == [1]
