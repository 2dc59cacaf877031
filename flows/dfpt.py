"""Dynamical matrices from density-functional perturbation theory: which points are needed, and what follows from them.

The response at a point q is the lattice Fourier transform of the force constants Φ,

    C_κκ'(q) = Σ_b Φ_κκ'(0, b) exp(i q·R_b),

in Cartesian axes, with the phases of lattice vectors R_b (X. Gonze and C. Lee, Phys. Rev. B 55, 10355 (1997), eq. 10).
With the phases of atoms, D_κκ'(q) = C_κκ'(q) exp(i q·(τ_κ' - τ_κ)), a symmetry {S|t} that takes atom κ to Sκ gives

    D_SκSκ'(Sq) = S D_κκ'(q) Sᵀ

without further phases, time reversal gives D(-q) = D(q)*, and D(q) over the square roots of masses is what phonopy
calls the dynamical matrix. Long-range parts of polar crystals (LO-TO splitting) are left out, as with displacements
here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Reals = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]
Integers = npt.NDArray[np.int64]

SAME_POINT = 1e-5
"""Fractional coordinates closer than this are equal."""


@dataclass(frozen=True)
class Symmetries:
    """Crystal, and the operations that leave it as it is; fractional coordinates, rows."""

    lattice: Reals
    """(3, 3) rows [Å]."""
    positions: Reals
    """(n_atoms, 3)."""
    rotations: Integers
    """(n_operations, 3, 3), acting on columns of fractional coordinates."""
    translations: Reals
    """(n_operations, 3)."""

    def images(self, operation: int) -> list[int]:
        """Return where an operation takes each atom."""
        moved = self.positions @ self.rotations[operation].T + self.translations[operation]
        apart = moved[:, None, :] - self.positions[None, :, :]
        lengths = np.linalg.norm((apart - np.rint(apart)) @ self.lattice, axis=2)
        return [int(one) for one in lengths.argmin(axis=1)]

    def cartesian(self, operation: int) -> Reals:
        """Return the rotation (3, 3) in Cartesian axes."""
        columns = self.lattice.T
        found: Reals = columns @ self.rotations[operation] @ np.linalg.inv(columns)
        return found

    def moved_point(self, operation: int, q_point: Reals) -> Reals:
        """Return the point that an operation makes of a point (3,) in units of the reciprocal vectors."""
        found: Reals = np.linalg.inv(self.rotations[operation]).T @ q_point
        return found


@dataclass(frozen=True)
class Origin:
    """How the matrix at a point follows from that of another one."""

    point: int
    """Index of that one."""
    operation: int
    reversed: bool
    """Whether time is reversed after the operation."""


def origins(points: Reals, symmetries: Symmetries) -> list[Origin]:
    """Return for each point (n, 3) the one it follows from; points that follow from none stand for themselves."""
    found: list[Origin] = []
    identity = next(
        index
        for index, (rotation, shift) in enumerate(
            zip(symmetries.rotations, symmetries.translations, strict=True)
        )
        if (rotation == np.eye(3)).all() and np.abs(shift - np.rint(shift)).max() < SAME_POINT
    )
    for index, point in enumerate(points):
        found.append(_origin(points, point, found, symmetries) or Origin(index, identity, False))
    return found


def _origin(points: Reals, point: Reals, earlier: Sequence[Origin], symmetries: Symmetries) -> Origin | None:
    for first in sorted({one.point for one in earlier}):
        for operation in range(len(symmetries.rotations)):
            moved = symmetries.moved_point(operation, points[first])
            for is_reversed in (False, True):
                if _equivalent(-moved if is_reversed else moved, point):
                    return Origin(first, operation, is_reversed)
    return None


def _equivalent(one: Reals, other: Reals) -> bool:
    apart = one - other
    return bool(np.abs(apart - np.rint(apart)).max() < SAME_POINT)


def with_atomic_phases(response: Complexes, q_point: Reals, positions: Reals) -> Complexes:
    """Return D (3 n, 3 n) of C (3 n, 3 n) at a point (3,), positions (n, 3) fractional."""
    along = np.exp(2j * np.pi * (positions @ q_point))
    phases = np.repeat(np.repeat(np.outer(along.conj(), along), 3, axis=0), 3, axis=1)
    found: Complexes = response * phases
    return found


def transformed(matrix: Complexes, origin: Origin, symmetries: Symmetries) -> Complexes:
    """Return D at a point from D (3 n, 3 n) at the one it follows from."""
    rotation, images = symmetries.cartesian(origin.operation), symmetries.images(origin.operation)
    n_atoms = len(images)
    blocks = matrix.reshape(n_atoms, 3, n_atoms, 3).transpose(0, 2, 1, 3)
    turned = np.zeros_like(blocks)
    for one, to_one in enumerate(images):
        for other, to_other in enumerate(images):
            turned[to_one, to_other] = rotation @ blocks[one, other] @ rotation.T
    found: Complexes = turned.transpose(0, 2, 1, 3).reshape(3 * n_atoms, 3 * n_atoms)
    return found.conj() if origin.reversed else found


def all_matrices(
    points: Reals, responses: dict[int, Complexes], found: Sequence[Origin], symmetries: Symmetries
) -> list[Complexes]:
    """Return D at every point.

    Args:
        points: (n, 3) in units of the reciprocal vectors.
        responses: C at each point that stands for itself, by its index.
        found: `origins(points, symmetries)`.
        symmetries: Of the crystal.
    """
    positions = symmetries.positions
    matrices = []
    for point, origin in zip(points, found, strict=True):
        first = points[origin.point]
        own = with_atomic_phases(responses[origin.point], first, positions)
        moved = symmetries.moved_point(origin.operation, first) * (-1 if origin.reversed else 1)
        # what is left between the two points is a reciprocal lattice vector
        matrices.append(with_atomic_phases(transformed(own, origin, symmetries), point - moved, positions))
    return matrices


def divisors_of(points: Reals) -> tuple[int, int, int]:
    """Return numbers of k-points along the reciprocal vectors whose meshes hold k + q for every point (n, 3)."""
    found = [
        math.lcm(*(Fraction(float(one)).limit_denominator(1000).denominator for one in column))
        for column in points.T
    ]
    return found[0], found[1], found[2]
