"""Symmetry projections keep a crystal's space group, and change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models.symmetrise import SymmetryProjector, spacegroup_number, symmetrised

CRYSTALS = {
    225: Structure(Lattice([[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]]), ["Mg", "O"], [[0] * 3, [0.5] * 3]),
    194: Structure(Lattice.hexagonal(3.2, 5.2), ["Mg", "Mg"], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
    136: Structure(
        Lattice.tetragonal(4.6, 2.95),
        ["Ti"] * 2 + ["O"] * 4,
        [[0, 0, 0], [0.5] * 3, [0.3, 0.3, 0], [0.7, 0.7, 0], [0.2, 0.8, 0.5], [0.8, 0.2, 0.5]],
    ),
    160: Structure(Lattice.rhombohedral(4.0, 89.0), ["Ba", "Ti"], [[0] * 3, [0.48] * 3]),
    11: Structure(
        Lattice.monoclinic(4.1, 3.3, 5.2, 102.0),
        ["Zr", "Zr", "S", "S"],
        [[0.2, 0.25, 0.3], [0.8, 0.75, 0.7], [0.6, 0.25, 0.1], [0.4, 0.75, 0.9]],
    ),
}


def cell(crystal: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return crystal.lattice.matrix.copy(), crystal.frac_coords.copy(), np.array(crystal.atomic_numbers)


def projector_of(crystal: Structure) -> SymmetryProjector:
    projector = symmetrised(*cell(crystal), 0.01)[2]
    assert projector is not None
    return projector


@pytest.mark.parametrize("number", CRYSTALS)
def test_a_distorted_crystal_becomes_exact(number: int) -> None:
    lattice, frac_coords, numbers = cell(CRYSTALS[number])
    rng = np.random.default_rng(number)
    frac_coords += rng.normal(scale=0.01, size=frac_coords.shape) @ np.linalg.inv(lattice)
    lattice = lattice @ (np.eye(3) + rng.normal(scale=0.002, size=(3, 3)))
    assert spacegroup_number(lattice, frac_coords, numbers, 1e-4) != number
    exact_lattice, exact_coords, projector = symmetrised(lattice, frac_coords, numbers, 0.1)
    assert projector is not None
    assert spacegroup_number(exact_lattice, exact_coords, numbers, 1e-4) == number
    assert np.abs(exact_lattice - lattice).max() < 0.05
    assert np.linalg.norm((exact_coords - frac_coords) @ lattice, axis=1).max() < 0.1


@pytest.mark.parametrize("number", CRYSTALS)
def test_projected_forces_and_stress_keep_the_space_group(number: int) -> None:
    lattice, frac_coords, numbers = cell(CRYSTALS[number])
    projector = projector_of(CRYSTALS[number])
    rng = np.random.default_rng(number)
    forces = projector.forces(rng.normal(size=frac_coords.shape))
    strain = rng.normal(size=(3, 3))
    strain = 0.02 * projector.stress(strain + strain.T)
    frac_coords = frac_coords + 0.05 * forces @ np.linalg.inv(lattice)
    assert spacegroup_number(lattice @ (np.eye(3) + strain), frac_coords, numbers, 1e-5) == number


@pytest.mark.parametrize("number", CRYSTALS)
def test_projecting_twice_is_projecting_once(number: int) -> None:
    crystal = CRYSTALS[number]
    projector = projector_of(crystal)
    rng = np.random.default_rng(1)
    forces = projector.forces(rng.normal(size=(len(crystal), 3)))
    stress = projector.stress(np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(projector.forces(forces), forces, atol=1e-12)
    np.testing.assert_allclose(projector.stress(stress), stress, atol=1e-12)
    np.testing.assert_allclose(np.trace(stress), 6.0)  # pressure is no matter of symmetry


def test_rotations_are_orthogonal() -> None:
    for crystal in CRYSTALS.values():
        cartesian = projector_of(crystal).cartesian
        np.testing.assert_allclose(
            cartesian @ cartesian.transpose(0, 2, 1), np.broadcast_to(np.eye(3), cartesian.shape), atol=1e-9
        )


def test_no_crystal_at_all_has_no_symmetry() -> None:
    flat = np.zeros((3, 3))
    assert spacegroup_number(flat, np.zeros((1, 3)), np.array([11]), 0.1) == 0
    assert symmetrised(flat, np.zeros((1, 3)), np.array([11]), 0.1)[2] is None


def test_what_is_not_finite_does_not_end_the_process() -> None:
    lattice, frac_coords, numbers = cell(CRYSTALS[225])
    frac_coords[0, 0] = np.nan
    assert spacegroup_number(lattice, frac_coords, numbers, 0.1) == 0
    assert spacegroup_number(np.full((3, 3), np.inf), frac_coords, numbers, 0.1) == 0
