from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition
from strategies import compositions

from campaign.errors import ReferenceDataError
from campaign.references.catalogue import read_reference
from campaign.references.entries import ReferenceEntry
from campaign.references.hull import ReferenceHull


def entry(formula: str, energy: float | None, name: str = "") -> ReferenceEntry:
    return ReferenceEntry(name or formula, formula, energy)


CA_SI = [
    entry("Ca", 0.0),
    entry("Ca", 0.1, "Ca high"),
    entry("Si", 0.0),
    entry("CaSi", -0.5),
    entry("CaSi2", -0.2),
]


def test_lever_rule():
    hull = ReferenceHull(CA_SI)
    # CaSi2 lies above the line from CaSi to Si, which is at -1/3 eV/atom there.
    assert hull.e_above_hull(Composition("CaSi2"), -0.2) == pytest.approx(1 / 3 - 0.2)
    assert hull.e_above_hull(Composition("Ca4Si4"), -0.5) == pytest.approx(0.0)
    assert hull.e_above_hull(Composition("Ca"), 0.1) == pytest.approx(0.1)
    assert hull.e_above_hull(Composition("Ca3Si"), 0.0) == pytest.approx(0.25)


def test_below_the_reference_hull_is_negative():
    assert ReferenceHull(CA_SI).e_above_hull(Composition("CaSi2"), -0.4) == pytest.approx(1 / 3 - 0.4)


def test_vertices_are_the_stable_entries_elements_first():
    assert [one.entry_id for one in ReferenceHull(CA_SI).vertices(["Si", "Ca"])] == ["Ca", "Si", "CaSi"]
    assert [one.entry_id for one in ReferenceHull(CA_SI).vertices(["Ca"])] == ["Ca"]


@pytest.mark.parametrize("ask", ["check", "vertices", "e_above_hull"])
def test_missing_terminal_elements_are_named_and_never_zero(ask):
    hull = ReferenceHull([*CA_SI, entry("MgO", -3.0)])
    with pytest.raises(ReferenceDataError, match=r"Mg, O.*cure") as caught:
        if ask == "e_above_hull":
            hull.e_above_hull(Composition("CaMgSiO"), -1.0)
        else:
            getattr(hull, ask)(["Ca", "Mg", "O"])
    assert "Ca, Si" in caught.value.one_line()


def test_no_energies_no_hull():
    with pytest.raises(ReferenceDataError, match="no formation energies"):
        ReferenceHull([entry("Ca", None), entry("Si", float("nan"))])


def test_formulas_may_be_written_in_any_way():
    hull = ReferenceHull([entry("Ca", 0.0), entry("O", 0.0), entry("Ca2O2", -3.0), entry("OCa", -3.1)])
    assert hull.e_above_hull(Composition("CaO"), -3.1) == pytest.approx(0.0)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_entry_lies_below_its_own_hull_and_size_does_not_matter(data):
    elements = ("Ca", "Mg", "Si")
    phases = data.draw(st.lists(compositions(elements), min_size=1, max_size=8))
    energies = [data.draw(st.floats(-2, 1)) for _ in phases]
    entries = [entry(symbol, 0.0) for symbol in elements]
    entries += [entry(one.reduced_formula, energy) for one, energy in zip(phases, energies, strict=True)]
    hull = ReferenceHull(entries)
    for one, energy in zip(phases, energies, strict=True):
        distance = hull.e_above_hull(one, energy)
        assert distance >= -1e-8
        assert hull.e_above_hull(one * 3, energy) == pytest.approx(distance, abs=1e-9)
    for vertex in hull.vertices(elements):
        energy = vertex.formation_energy_per_atom
        assert hull.e_above_hull(Composition(vertex.formula), energy) == pytest.approx(0.0, abs=1e-8)


def test_agrees_with_the_labels_of_the_materials_project(data_dir):
    hull = ReferenceHull(read_reference(["hull_reference.parquet"], base_dir=data_dir))
    entries = list(read_reference(["mp_val.parquet"], base_dir=data_dir))[::4]
    known = [
        one for one in entries if one.e_above_hull is not None and one.formation_energy_per_atom is not None
    ]
    errors = np.array(
        [
            hull.e_above_hull(Composition(one.formula), one.formation_energy_per_atom) - one.e_above_hull
            for one in known
        ]
    )
    assert len(errors) > 500
    assert np.abs(errors).mean() < 0.0025
    assert (np.abs(errors) < 0.025).mean() > 0.97


def test_quickstart_hull_has_the_known_phases():
    reference = read_reference(["builtin:quickstart"], base_dir=None)
    hull = ReferenceHull(reference.hull_entries)
    vertices = hull.vertices(["Ca", "Mg", "Si"])
    assert {one.formula for one in vertices} == {"Ca", "Mg", "Si", "CaSi", "Ca2Si", "CaSi2", "CaMg2", "Mg2Si"}
    assert [len(one.structure) for one in vertices[:3]] == [1, 2, 2]  # fcc Ca, hcp Mg, diamond Si
    for one in reference:
        distance = hull.e_above_hull(Composition(one.formula), one.formation_energy_per_atom)
        assert distance == pytest.approx(one.e_above_hull, abs=3e-5)
