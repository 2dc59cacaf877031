"""What training crystals teach about volumes, shapes of cells and known parameters."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models.errors import CheckpointError
from models.genes import WyckoffGene, gene_of, orbits_of
from models.lattice_shapes import SYSTEMS, constrain, default_shapes, lattice_of, shape_of, system_of
from models.lattices import LatticeModel, pattern_of


def rutile(metal: str, anion: str, a: float, c: float, u: float = 0.305) -> Structure:
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(a, c), [metal, anion], [[0, 0, 0], [u, u, 0]]
    )


RUTILES = [
    rutile("Ti", "O", 4.59, 2.96),
    rutile("Sn", "O", 4.74, 3.19),
    rutile("Mg", "F", 4.62, 3.05, 0.303),
]


@pytest.fixture(scope="module")
def model() -> LatticeModel:
    return LatticeModel.fit(RUTILES)


def test_a_lattice_has_the_shape_and_the_volume_it_is_made_of() -> None:
    shape = np.concatenate([default_shapes(number)[:40] for number in range(len(SYSTEMS))])
    volume = np.linspace(20.0, 900.0, len(shape))
    lattice = lattice_of(shape, volume)
    assert np.allclose(np.linalg.det(lattice), volume)
    assert np.allclose(shape_of(lattice), shape)


def test_crystal_systems_fix_what_they_must() -> None:
    groups = np.array([1, 2, 3, 15, 16, 74, 75, 142, 143, 167, 168, 194, 195, 230])
    assert system_of(groups).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5]
    wild = np.tile([0.4, -0.3, 95.0, 100.0, 105.0], (len(groups), 1))
    fixed = constrain(wild, system_of(groups))
    assert fixed[0].tolist() == [0.4, -0.3, 95.0, 100.0, 105.0]
    assert fixed[2].tolist() == [0.4, -0.3, 90.0, 100.0, 90.0]
    assert fixed[4].tolist() == [0.4, -0.3, 90.0, 90.0, 90.0]
    assert fixed[6].tolist() == [0.0, -0.3, 90.0, 90.0, 90.0]
    assert fixed[8].tolist() == [0.0, -0.3, 90.0, 90.0, 120.0]
    assert fixed[12].tolist() == [0.0, 0.0, 90.0, 90.0, 90.0]


def test_an_impossible_set_of_angles_is_opened_until_the_cell_has_a_volume() -> None:
    flat = constrain(np.array([[0.0, 0.0, 130.0, 130.0, 130.0]]), np.array([0]))
    assert np.linalg.det(lattice_of(flat, np.array([50.0])))[0] == pytest.approx(50.0)


def test_volumes_that_add_up_are_found_and_foretell_another_crystal() -> None:
    """Rock salts whose atoms take up fixed volumes, far from those of the elements."""
    cations = {"Li": 8.0, "Na": 14.0, "K": 24.0, "Mg": 9.0, "Ca": 16.0, "Ba": 28.0}
    anions = {"F": 9.0, "Cl": 22.0, "Br": 27.0, "O": 10.0, "S": 21.0}
    salts = [
        Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic((4 * (mine + yours)) ** (1 / 3)), [a, b], [[0, 0, 0], [0.5] * 3]
        )
        for a, mine in cations.items()
        for b, yours in anions.items()
    ]
    last = gene_of(salts[-1])
    assert last is not None
    model = LatticeModel.from_refined([found for salt in salts[:-1] if (found := orbits_of(salt))] * 20)
    assert model.volume(last) == pytest.approx(salts[-1].volume, rel=0.05)
    assert LatticeModel.default().volume(last) != pytest.approx(salts[-1].volume, rel=0.05)
    assert model.spread < 0.05


def test_a_gene_of_a_known_pattern_finds_its_crystals_nearest_chemistry_first(model: LatticeModel) -> None:
    germania = gene_of(rutile("Ge", "O", 4.4, 2.87))
    assert germania is not None
    alike = model.alike(germania)
    assert [crystal.gene.elements for crystal, _ in alike] == [("O", "Sn"), ("O", "Ti"), ("F", "Mg")]
    free = {round(float(value), 3) for value in alike[0][1][[e == "O" for e, _ in germania.orbits]][0, :1]}
    assert free <= {0.305, 0.695, 0.195, 0.805}


def test_parameters_follow_the_orbits_when_the_elements_come_in_another_order() -> None:
    """TiO2 lists O before Ti; in a fluoride of Ag, Ag comes before F: the roles are the letters', not the names'."""
    silver = gene_of(rutile("Ag", "F", 4.7, 3.1))
    titania = gene_of(RUTILES[0])
    assert silver is not None
    assert titania is not None
    assert pattern_of(silver) == pattern_of(titania)
    assert [letter for _, letter in silver.orbits] != [letter for _, letter in titania.orbits]
    _, parameters = LatticeModel.fit(RUTILES[:1]).alike(silver)[0]
    fixed, free = (parameters[[symbol == which for symbol, _ in silver.orbits]][0] for which in ("Ag", "F"))
    assert not fixed.any()
    assert free[0] != 0.0


def test_an_unknown_pattern_has_no_crystals(model: LatticeModel) -> None:
    assert model.alike(WyckoffGene(225, (("Na", "a"), ("Cl", "b")))) == []


def test_rare_groups_draw_their_shapes_from_the_whole_system(model: LatticeModel) -> None:
    assert model.shapes_for(136).shape == default_shapes(3).shape  # three crystals are too few
    many = LatticeModel(model.volumes, 0.1, np.full(30, 136), np.tile([0.0, -0.4, 90.0, 90.0, 90.0], (30, 1)))
    assert many.shapes_for(136).shape == (30, 5)
    assert many.shapes_for(123).shape == (30, 5)
    assert many.shapes_for(62).shape == default_shapes(2).shape


def test_a_model_comes_back_from_its_arrays(model: LatticeModel) -> None:
    again = LatticeModel.from_dict(model.to_dict())
    assert np.array_equal(again.volumes, model.volumes)
    assert again.spread == model.spread
    gene = model.known[1].gene
    assert [crystal.gene for crystal, _ in again.alike(gene)] == [c.gene for c, _ in model.alike(gene)]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(again.alike(gene), model.alike(gene), strict=True))
    assert np.array_equal(again.known[1].shape, model.known[1].shape)
    empty = LatticeModel.from_dict(LatticeModel.default().to_dict())
    assert empty.known == ()


def test_damaged_arrays_are_told_from_a_model(model: LatticeModel) -> None:
    arrays = model.to_dict()
    with pytest.raises(CheckpointError):
        LatticeModel.from_dict({**arrays, "orbit_letters": arrays["orbit_letters"][:-1]})
    with pytest.raises(CheckpointError):
        LatticeModel.from_dict({name: array for name, array in arrays.items() if name != "shapes"})


def test_crystals_of_nothing_known_give_the_default() -> None:
    odd = Structure(Lattice.cubic(3.0), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    assert np.array_equal(LatticeModel.fit([odd]).volumes, LatticeModel.default().volumes)
