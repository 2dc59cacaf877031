from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from strategies import descriptions, shaken, structures

from campaign.references.fingerprint import (
    bucket,
    candidate_id,
    describe,
    is_crystal,
    same_structure,
    space_group,
)


def rocksalt(a: float = 5.6, one: str = "Na", other: str = "Cl") -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [one, other], [[0, 0, 0], [0.5, 0.5, 0.5]])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_one_id_for_every_description_of_a_crystal(data):
    structure = data.draw(structures())
    other = data.draw(descriptions(structure))
    assert candidate_id(other) == candidate_id(structure)
    assert bucket(other) == bucket(structure)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_descriptions_are_the_same_structure(data):
    structure = data.draw(structures(max_atoms=3, min_distance_ang=1.5))
    assert same_structure(structure, data.draw(descriptions(structure, max_atoms=12)))


def test_primitive_conventional_and_shifted_cells_share_an_id():
    cell = rocksalt()
    shifted = Structure(cell.lattice, cell.species, cell.frac_coords + np.array([0.5, 0.0, 0.0]))
    assert len(cell) == 8
    assert candidate_id(cell.get_primitive_structure()) == candidate_id(cell) == candidate_id(shifted)


@pytest.mark.parametrize(
    "other",
    [
        Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure.from_spacegroup("F-43m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        rocksalt(a=5.7),
        rocksalt(other="Br"),
    ],
    ids=["caesium chloride", "zincblende", "larger", "bromide"],
)
def test_other_crystals_have_other_ids(other):
    assert candidate_id(other) != candidate_id(rocksalt())


def test_exchanged_elements_are_another_crystal_in_an_asymmetric_type():
    def fluorite(a: str, b: str) -> Structure:
        return Structure.from_spacegroup("Fm-3m", Lattice.cubic(6.3), [a, b], [[0, 0, 0], [0.25, 0.25, 0.25]])

    assert candidate_id(fluorite("Si", "Mg")) != candidate_id(fluorite("Mg", "Si"))
    assert bucket(fluorite("Si", "Mg")) != bucket(fluorite("Mg", "Si"))


def test_stackings_of_close_packed_layers_differ():
    a = 3.2
    fcc = Structure(
        Lattice.cubic(a * 2**0.5), ["Mg"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    lattice = Lattice.hexagonal(a, a * (8 / 3) ** 0.5)
    hcp = Structure(lattice, ["Mg"] * 2, [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    double = Lattice.hexagonal(a, 2 * a * (8 / 3) ** 0.5)
    dhcp = Structure(double, ["Mg"] * 4, [[0, 0, 0], [0, 0, 0.5], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]])
    assert len({candidate_id(one) for one in (fcc, hcp, dhcp)}) == 3


def test_rounding_noise_of_stored_floats_keeps_the_id():
    random = np.random.default_rng(3)
    cell = Structure(
        Lattice.from_parameters(4.1, 5.2, 6.3, 80, 95, 100), ["Ca", "Si", "Si"], random.random((3, 3))
    )
    noisy = Structure(
        Lattice(cell.lattice.matrix * (1 + 1e-9)),
        cell.species,
        cell.frac_coords + random.normal(0, 1e-9, (3, 3)),
    )
    assert candidate_id(noisy) == candidate_id(cell)
    assert candidate_id(Structure.from_dict(cell.as_dict())) == candidate_id(cell)


def test_same_structure_forgives_distortion_and_scale_and_nothing_else():
    cell = rocksalt().get_primitive_structure()
    distorted = cell.copy()
    distorted = shaken(distorted, 0.05)
    assert same_structure(cell, distorted)
    assert same_structure(cell, rocksalt(a=6.0))
    assert not same_structure(cell, Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    assert not same_structure(cell, rocksalt(other="Br"))


def test_ids_of_real_crystals_tell_them_apart(data_dir):
    from campaign.references.catalogue import read_reference

    entries = list(read_reference(["mp_val.parquet"], base_dir=data_dir))[::20]
    found: dict[str, Structure] = {}
    for entry in entries:
        structure = entry.structure
        assert structure is not None
        name = candidate_id(structure)
        assert name not in found or same_structure(found[name], structure)
        found[name] = structure
    assert len(found) > 0.99 * len(entries)


def test_describe():
    described = describe(rocksalt())
    assert described is not None
    assert described["id"] == candidate_id(rocksalt())
    assert {key: described[key] for key in ("formula", "chemsys", "n_atoms", "spacegroup", "bucket")} == {
        "formula": "NaCl",
        "chemsys": "Cl-Na",
        "n_atoms": 8,
        "spacegroup": 225,
        "bucket": "Cl1Na1",
    }


@pytest.mark.parametrize(
    "bad",
    [
        Structure(Lattice.cubic(4), [], []),
        Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 1e-6]]), ["Na"], [[0, 0, 0]]),
        Structure(Lattice.orthorhombic(4, 400, 0.1), ["Na"], [[0, 0, 0]]),
        Structure(Lattice.cubic(4), ["Na"], [[float("nan"), 0, 0]]),
        Structure(Lattice.cubic(4), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
    ],
    ids=["empty", "flat", "thin", "nan", "disordered"],
)
def test_what_is_no_crystal_is_not_described(bad):
    assert not is_crystal(bad)
    assert describe(bad) is None


def test_skewed_cells_are_crystals():
    cell = rocksalt().get_primitive_structure()
    cell.make_supercell([[1, 0, 0], [5, 1, 0], [0, 7, 1]])
    assert is_crystal(cell)
    assert candidate_id(cell) == candidate_id(rocksalt())


def test_space_group_of_a_crystal_and_of_none():
    assert space_group(rocksalt()) == 225
    twice = Structure(Lattice.cubic(4), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    assert space_group(twice) == 1
