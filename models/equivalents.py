"""The same crystal, described in other ways: what no model may tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pymatgen.core import Structure


def equivalent_structures(structure: Structure, seed: int) -> dict[str, Structure]:
    """Return other descriptions of one crystal, by what was done to it.

    Args:
        structure: The crystal; it is not changed.
        seed: Of the rotation, the shift and the order.

    Returns:
        "rotated" (the lattice and every atom), "shifted" (the origin), "permuted" (the order of the sites),
        "repeated" (a skewed supercell of two cells), "other cell" (another choice of lattice vectors) and
        "mirrored" (the other hand; same distances and energy).
    """
    rng = np.random.default_rng(seed)
    symbols = [site.specie for site in structure]
    frac = np.asarray(structure.frac_coords, dtype=float)  # (n_atoms, 3)
    matrix = np.asarray(structure.lattice.matrix, dtype=float)  # (3, 3), rows
    make = type(structure)
    order = rng.permutation(len(structure))
    # Unimodular: the new vectors a, a + b, b + c - a span the same lattice.
    other = np.array([[1, 0, 0], [1, 1, 0], [-1, 1, 1]])
    repeated = structure.copy()
    repeated.make_supercell([[1, 1, 0], [-1, 1, 0], [0, 0, 1]])  # determinant 2
    return {
        "rotated": make(matrix @ random_rotation(rng).T, symbols, frac),
        "shifted": make(matrix, symbols, frac + rng.random(3)),
        "permuted": make(matrix, [symbols[i] for i in order], frac[order]),
        "repeated": repeated,
        "other cell": make(other @ matrix, symbols, frac @ np.linalg.inv(other)),
        "mirrored": make(matrix @ np.diag([1.0, 1.0, -1.0]), symbols, frac),
    }


def random_rotation(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a uniformly drawn proper rotation (3, 3): the Q of a Gaussian matrix, signs fixed."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0.0:
        q[:, 0] = -q[:, 0]
    rotation: npt.NDArray[np.float64] = q
    return rotation
