"""Keeping a crystal's own symmetry: projections onto what its space group leaves unchanged.

Row convention throughout: Cartesian vectors are rows, `cart = frac @ lattice`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib


@dataclass(frozen=True)
class SymmetryProjector:
    """Averages over the operations of one crystal's space group, in the cell as given.

    The Cartesian rotations are those of the symmetrised lattice; any strain that respects the symmetry
    commutes with them, so they hold along the whole relaxation.
    """

    rotations: np.ndarray
    """Fractional rotation matrices W (n_ops, 3, 3), acting on columns: x' = W x + w."""
    translations: np.ndarray
    """Fractional translations w (n_ops, 3)."""
    permutations: np.ndarray
    """(n_ops, n_atoms): operation g carries atom i onto the site of atom `permutations[g, i]`."""
    cartesian: np.ndarray
    """Cartesian rotations (n_ops, 3, 3), orthogonal, acting on row vectors: v' = v @ R."""

    def forces(self, forces: np.ndarray) -> np.ndarray:
        """Return the part of `forces` (n_atoms, 3) that keeps the symmetry."""
        turned = np.einsum("ni,gij->gnj", forces, self.cartesian)  # g acts on the force of atom i ...
        summed = np.zeros_like(forces)
        for target, vectors in zip(self.permutations, turned, strict=True):
            summed[target] += vectors  # ... which arrives at atom permutations[g, i]
        return summed / len(self.permutations)

    def stress(self, stress: np.ndarray) -> np.ndarray:
        """Return the part of a symmetric Cartesian tensor (3, 3) that keeps the symmetry."""
        turned = np.einsum("gji,jk,gkl->gil", self.cartesian, stress, self.cartesian)
        return np.asarray(turned.mean(axis=0))

    def positions(self, frac_coords: np.ndarray) -> np.ndarray:
        """Return fractional coordinates (n_atoms, 3) moved onto exactly symmetric sites."""
        shifts = np.zeros_like(frac_coords)
        for rotation, translation, target in zip(
            self.rotations, self.translations, self.permutations, strict=True
        ):
            image = frac_coords @ rotation.T + translation
            difference = image - frac_coords[target]
            shifts[target] += difference - np.round(difference)
        return frac_coords + shifts / len(self.permutations)


def spacegroup_number(
    lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray, symprec: float
) -> int:
    """Return the space-group number at tolerance `symprec` [Å], or 0 where spglib finds none."""
    dataset = _dataset(lattice, frac_coords, numbers, symprec)
    return 0 if dataset is None else int(dataset.number)


def symmetrised(
    lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray, symprec: float
) -> tuple[np.ndarray, np.ndarray, SymmetryProjector | None]:
    """Find the symmetry within `symprec` and make the crystal obey it exactly.

    Args:
        lattice: (3, 3) rows a, b, c [Å].
        frac_coords: (n_atoms, 3).
        numbers: Atomic numbers (n_atoms,).
        symprec: Tolerance [Å].

    Returns:
        Lattice and fractional coordinates, changed by at most about `symprec` and in the same setting, and
        the projector; the input and None where spglib finds no symmetry that permutes the atoms.
    """
    dataset = _dataset(lattice, frac_coords, numbers, symprec)
    if dataset is None:
        return lattice, frac_coords, None
    rotations = np.asarray(dataset.rotations, dtype=float)
    translations = np.asarray(dataset.translations, dtype=float)
    permutations = _permutations(lattice, frac_coords, numbers, rotations, translations)
    if permutations is None:
        return lattice, frac_coords, None
    new_lattice = _symmetrised_lattice(lattice, rotations)
    # Columns: x_cart' = A W A^-1 x_cart with A = lattice.T; the same on rows is the transpose.
    cartesian = np.linalg.inv(new_lattice) @ rotations.transpose(0, 2, 1) @ new_lattice
    projector = SymmetryProjector(rotations, translations, permutations, cartesian)
    return new_lattice, projector.positions(frac_coords), projector


def _dataset(
    lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray, symprec: float
) -> spglib.SpglibDataset | None:
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        return None  # spglib would end the process with a segmentation fault
    try:
        return spglib.get_symmetry_dataset((lattice, frac_coords, numbers), symprec=symprec)
    except Exception:  # spglib raises its own errors, or returns None, depending on its version
        return None


def _permutations(
    lattice: np.ndarray,
    frac_coords: np.ndarray,
    numbers: np.ndarray,
    rotations: np.ndarray,
    translations: np.ndarray,
) -> np.ndarray | None:
    """Return (n_ops, n_atoms) where each operation carries each atom, or None if one is no permutation."""
    n_atoms = len(numbers)
    found = np.empty((len(rotations), n_atoms), dtype=int)
    other_species = numbers[:, None] != numbers[None, :]
    for row, rotation, translation in zip(found, rotations, translations, strict=True):
        image = frac_coords @ rotation.T + translation
        difference = image[:, None, :] - frac_coords[None, :, :]
        difference -= np.round(difference)
        distance = np.linalg.norm(difference @ lattice, axis=-1)
        distance[other_species] = np.inf
        row[:] = distance.argmin(axis=1)
        if len(set(row.tolist())) != n_atoms:
            return None
    return found


def _symmetrised_lattice(lattice: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Average the metric over the group, and return the nearest lattice that has it, unrotated."""
    metric = lattice @ lattice.T  # (3, 3), columns convention: W^T G W = G for a symmetry
    averaged = np.mean([rotation.T @ metric @ rotation for rotation in rotations], axis=0)
    # lattice' = lattice @ S with S symmetric: S^2 = lattice^-1 averaged lattice^-T, so no rotation comes in.
    inverse = np.linalg.inv(lattice)
    squared = inverse @ averaged @ inverse.T
    values, vectors = np.linalg.eigh((squared + squared.T) / 2)
    return lattice @ (vectors * np.sqrt(np.clip(values, 1e-12, None))) @ vectors.T
