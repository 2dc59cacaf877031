"""Supercells for finite displacements: pure functions on lattices."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flows.errors import LabelInputError


def layer_spacings(lattice: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the distances (3,) [Å] between opposite faces of a cell with rows (3, 3) [Å].

    An atom's images lie at least as far apart as the smallest of them.
    """
    found: npt.NDArray[np.float64] = 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    return found


def supercell_matrix(
    lattice: npt.NDArray[np.float64], n_atoms: int, least_spacing_ang: float, most_atoms: int
) -> list[list[int]]:
    """Return the smallest diagonal supercell (3, 3) whose faces lie at least so far apart.

    Args:
        lattice: (3, 3) of the conventional cell, rows [Å].
        n_atoms: Atoms in it.
        least_spacing_ang: Least distance between opposite faces [Å].
        most_atoms: Atoms that the supercell may have.

    Raises:
        LabelInputError: It would have more.
    """
    repeats = [
        max(1, math.ceil(least_spacing_ang / spacing - 1e-3)) for spacing in layer_spacings(lattice).tolist()
    ]
    atoms = n_atoms * math.prod(repeats)
    if atoms > most_atoms:
        raise LabelInputError(
            f"the supercell for phonons, {' × '.join(map(str, repeats))}, would have {atoms} atoms",
            allowed=f"max_supercell_atoms {most_atoms}",
            cure="raise max_supercell_atoms, or lower min_supercell_ang",
        )
    return [[repeats[i] if i == k else 0 for k in range(3)] for i in range(3)]


def q_mesh(reciprocal: npt.NDArray[np.float64], points_per_inverse_ang: float) -> list[int]:
    """Return numbers (3,) of mesh points along reciprocal vectors, rows (3, 3) with the factor 2π [Å⁻¹]."""
    lengths = np.linalg.norm(reciprocal, axis=1)
    return [max(1, math.ceil(points_per_inverse_ang * length)) for length in lengths.tolist()]
