from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import DummySpecies, Lattice, Structure
from toy_crystals import binary, toy_crystals

from models.crystal import CrystalBatch, wrap
from models.equivalents import equivalent_structures
from models.errors import ModelsError


def test_a_batch_gives_its_structures_back() -> None:
    structures = [item.structure for item in toy_crystals(9)]
    batch = CrystalBatch.from_structures(structures)
    assert batch.n_crystals == 9
    assert batch.n_atoms == sum(len(s) for s in structures)
    assert batch.atoms_per_crystal.tolist() == [len(s) for s in structures]
    for before, after in zip(structures, batch.to_structures(), strict=True):
        assert before == after
        assert after.lattice.volume == pytest.approx(before.lattice.volume)


def test_positions_and_volumes_are_those_of_pymatgen() -> None:
    # Triclinic and rotated: a transposed lattice would give other positions.
    lattice = Lattice.from_parameters(4.0, 5.0, 6.0, 75.0, 82.0, 104.0).matrix
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    structure = Structure(
        lattice @ turn.T, ["Ca", "Ti", "O"], [[0.1, 0.2, 0.3], [0.5, 0.55, 0.6], [0.9, 0, 0.4]]
    )
    batch = CrystalBatch.from_structures([binary("Na", "Cl", "cscl"), structure])
    assert batch.cartesian()[2:].numpy() == pytest.approx(structure.cart_coords)
    assert batch.volume[1].item() == pytest.approx(structure.volume)
    a, b, c = batch.lattice_columns[1].T.numpy()
    assert np.linalg.norm(a) == pytest.approx(4.0)
    assert np.linalg.norm(b) == pytest.approx(5.0)
    assert np.linalg.norm(c) == pytest.approx(6.0)


def test_coordinates_are_wrapped_below_one() -> None:
    wrapped = wrap(torch.tensor([[-1e-17, 1.0, -0.25], [2.75, 0.0, 0.999]], dtype=torch.float64))
    assert wrapped.tolist() == [[0.0, 0.0, 0.75], [0.75, 0.0, 0.999]]


@settings(max_examples=25, deadline=None)
@given(value=st.floats(min_value=-1e6, max_value=1e6), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_wrapped_coordinates_are_in_the_cell(value: float, dtype: torch.dtype) -> None:
    found = wrap(torch.tensor([value], dtype=dtype))
    assert 0.0 <= found.item() < 1.0


def test_an_empty_batch_is_a_batch() -> None:
    batch = CrystalBatch.from_structures([])
    assert (batch.n_crystals, batch.n_atoms) == (0, 0)
    assert batch.lattice.shape == (0, 3, 3)
    assert batch.to_structures() == []


def test_precision_can_be_changed() -> None:
    batch = CrystalBatch.from_structures([binary("Li", "F", "layered")]).to("cpu", torch.float32)
    assert batch.frac_coords.dtype == batch.lattice.dtype == torch.float32
    assert batch.atomic_numbers.dtype == torch.int64


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (Structure(Lattice.cubic(4.0), [{"Ca": 0.5, "Sr": 0.5}], [[0, 0, 0]]), "partially occupied"),
        (Structure(Lattice.cubic(4.0), [DummySpecies("X")], [[0, 0, 0]]), "no elements"),
        (Structure(Lattice.cubic(0.5), ["Ca"], [[0, 0, 0]]), "collapsed"),
        (Structure(np.zeros((3, 3)), ["Ca"], [[0, 0, 0]]), "collapsed"),
        (Structure(Lattice.cubic(4.0), ["Ca"], [[np.nan, 0, 0]]), "not finite"),
        (Structure(Lattice.cubic(4.0), [], []), "no atoms"),
    ],
)
def test_what_cannot_be_a_tensor_is_named_by_its_place(structure: Structure, said: str) -> None:
    with pytest.raises(ModelsError, match="structure 1 of 2") as caught:
        CrystalBatch.from_structures([binary("Na", "Cl", "cscl"), structure])
    assert said in caught.value.one_line()
    assert "\n" not in caught.value.one_line()


def test_equivalent_structures_are_the_same_crystal() -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    structure = binary("Zn", "S", "layered", 1.1)
    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.01, scale=False)
    others = equivalent_structures(structure, seed=3)
    assert len(others["repeated"]) == 2 * len(structure)
    assert not np.allclose(others["rotated"].lattice.matrix, structure.lattice.matrix)
    for name, other in others.items():
        if name != "mirrored":
            assert matcher.fit(structure, other), name
        assert other.volume / len(other) == pytest.approx(structure.volume / len(structure))
