"""Space groups as numbers: operations, Wyckoff positions and the equivalence of their letters.

Setting of every group: the standard one of the International Tables for Crystallography, volume A, with unique
axis b and cell choice 1 (monoclinic), hexagonal axes (R groups) and origin choice 2 where there are two.
Coordinates are fractions of the conventional cell; operations and maps act on columns, x' = R x + t.

Positions come from the table in `models.wyckoff_table`, whose names this module hands on; operations come from
spglib's database. Tensors are float64 and int64, and whatever is indexed by the space group has 231 rows, row 0
unused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import spglib
import torch
from torch import Tensor

from models.wyckoff_table import (
    GRID,
    LETTERS,
    MAX_LETTERS,
    N_GROUPS,
    SymmetryTables,
    crystal_system,
    free_columns,
    raw_groups,
    tables,
    unpack,
)

__all__ = [
    "GRID",
    "LETTERS",
    "MAX_LETTERS",
    "N_GROUPS",
    "Branches",
    "Projection",
    "SymmetryTables",
    "crystal_system",
    "database_operations",
    "expand",
    "free_parameters",
    "letter_permutations",
    "normaliser_maps",
    "operations",
    "orbit_maps",
    "project",
    "tables",
]


def database_operations(hall_number: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return spglib's operations of one setting: rotations (n, 3, 3), translations (n, 3) on the grid of 1/24."""
    found = spglib.get_symmetry_from_database(hall_number)
    rotations = np.asarray(found["rotations"], dtype=np.float64)
    return rotations, np.rint(np.asarray(found["translations"]) * GRID) / GRID


@lru_cache(maxsize=N_GROUPS)
def operations(spacegroup: int) -> tuple[Tensor, Tensor]:
    """Return all operations of a group, centrings included: rotations (n, 3, 3) and translations (n, 3)."""
    rotations, translations = database_operations(int(tables().hall_number[spacegroup]))
    return torch.from_numpy(rotations), torch.from_numpy(translations)


@lru_cache(maxsize=4096)
def orbit_maps(spacegroup: int, letter: int) -> Tensor:
    """Return the affine maps (multiplicity, 3, 4) from a letter's parameters to the points of its orbit.

    The parameters p = (x, y, z) are those of the International Tables; those that are not free have no effect.
    Point j is `maps[j, :, :3] @ p + maps[j, :, 3]`, in fractions of the conventional cell. The first
    `multiplicity / centrings` maps are one for each point of a primitive cell, the first of all the
    representative that the Tables print first.
    """
    rotations, translations = operations(spacegroup)
    first = unpack(raw_groups()[spacegroup - 1]["letters"][letter]["map"])
    return torch.from_numpy(expand(first, rotations.numpy(), translations.numpy()))


def expand(
    first: npt.NDArray[np.float64], rotations: npt.NDArray[np.float64], translations: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the distinct images (m, 3, 4) of a map (3, 4) under a group; those of one primitive cell lead."""
    images = rotations @ first  # (n, 3, 4)
    images[:, :, 3] += translations
    keys = np.rint(images * GRID).astype(np.int64)
    keys[:, :, 3] %= GRID
    pure = np.all(rotations == np.eye(3), axis=(1, 2))
    centrings = np.rint(translations[pure] * GRID).astype(np.int64)  # (n_centrings, 3)
    lead: list[npt.NDArray[np.int64]] = []
    rest: list[npt.NDArray[np.int64]] = []
    taken: set[bytes] = set()
    for key in keys:
        if key.tobytes() not in taken:
            for place, centring in enumerate(centrings):
                moved = key.copy()
                moved[:, 3] = (moved[:, 3] + centring) % GRID
                taken.add(moved.tobytes())
                (rest if place else lead).append(moved)
    return np.stack([*lead, *rest]) / GRID


@lru_cache(maxsize=4096)
def free_parameters(spacegroup: int, letter: int) -> tuple[int, ...]:
    """Return which of x, y, z (0, 1, 2) are free: as many as the letter's dof."""
    return free_columns(unpack(raw_groups()[spacegroup - 1]["letters"][letter]["map"]))


@lru_cache(maxsize=N_GROUPS)
def letter_permutations(spacegroup: int) -> Tensor:
    """Return what the affine normaliser does to letters: (n_permutations, n_letters) int64, identity first.

    Row k sends letter l to `[k, l]`. The affine normaliser holds every change of origin and axes that leaves the
    group as it is (International Tables A, chapter 3.5); since a gene carries no lattice, two genes that differ
    by such a row describe the same crystals.
    """
    rows = [
        [LETTERS.index(mark) for mark in entry["letters"]]
        for entry in raw_groups()[spacegroup - 1]["normaliser"]
    ]
    return torch.tensor(rows, dtype=torch.int64)


@lru_cache(maxsize=N_GROUPS)
def normaliser_maps(spacegroup: int) -> Tensor:
    """Return one affine map (n_permutations, 3, 4) for each row of `letter_permutations`.

    A crystal with points x and lattice rows L is described as well by points W x + w and the lattice
    `inverse(W).T @ L`, W and w being the first three and the last column of the map.
    """
    maps = [unpack(entry["map"]) for entry in raw_groups()[spacegroup - 1]["normaliser"]]
    return torch.from_numpy(np.stack(maps))


@dataclass(frozen=True)
class Projection:
    """Points carried onto orbits."""

    parameters: Tensor
    """(n, 3), the letter's x, y, z in 0 to 1; those that are not free are 0."""
    points: Tensor
    """(n, 3) in fractions of the conventional cell, each the image nearest to the point that was given."""


def project(points: Tensor, spacegroup: Tensor, letter: Tensor) -> Projection:
    """Carry points onto the nearest point of an orbit, over all its branches and all lattice translations.

    Args:
        points: (n, 3) in fractions of the conventional cell; distances are taken in these coordinates.
        spacegroup: (n,) numbers of groups.
        letter: (n,) indices of letters; each must exist in its group.

    Returns:
        The parameters of the orbits, and the points of them that are nearest.
    """
    points = points.to(torch.float64)
    parameters, nearest = torch.zeros_like(points), points.clone()
    kinds, members = torch.unique(spacegroup * MAX_LETTERS + letter, return_inverse=True)
    for kind, code in enumerate(kinds.tolist()):
        rows = torch.nonzero(members == kind).flatten()
        branches = _branches(code // MAX_LETTERS, code % MAX_LETTERS)
        step = max(1, _CHUNK // branches.images.shape[0] // branches.images.shape[1])
        for part in torch.split(rows, step):
            parameters[part], nearest[part] = branches.nearest(points[part])
    return Projection(parameters, nearest)


_CHUNK = 1_000_000
"""Pairs of a point and an image of a branch that are compared at once, 24 bytes each."""
_IMAGES = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3)
"""(27, 3) lattice translations: enough for branches with directions of the kinds (x, x, x) and (x, 2x, z)."""


@dataclass(frozen=True)
class Branches:
    """The points, lines or planes that make up an orbit's positions, ready for projections."""

    linear: Tensor
    """(m, 3, 3), the orbit's maps without their constant."""
    constant: Tensor
    """(m, 3)."""
    inverse: Tensor
    """(m, 3, 3), pseudo-inverse of `linear`."""
    away: Tensor
    """(m, 3, 3), projection across the branch."""
    images: Tensor
    """(m, t, 3), projected lattice translations; only zero where rounding finds the nearest one."""

    @classmethod
    def from_maps(cls, maps: Tensor) -> Branches:
        """Prepare an orbit's maps (m, 3, 4); of the general position one branch is enough."""
        unity = torch.eye(3, dtype=torch.float64)
        if bool((maps[0, :, :3] == unity).all()):
            maps = maps[:1]
        linear = maps[:, :, :3]
        inverse = torch.linalg.pinv(linear)
        away = unity - linear @ inverse
        along_axes = bool((away * (1.0 - unity)).abs().max() < 1e-9)
        images = torch.zeros(1, 3, dtype=torch.float64) if along_axes else _IMAGES
        return cls(linear, maps[:, :, 3], inverse, away, torch.einsum("mij,tj->mti", away, images))

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return parameters (n, 3) in 0 to 1 and points (n, 3) of the orbit that are nearest to points (n, 3)."""
        offset = points[:, None] - self.constant  # (n, m, 3)
        wrap = torch.round(offset)
        across = torch.einsum("mij,nmj->nmi", self.away, offset - wrap)  # (n, m, 3)
        distance = (across[:, :, None] - self.images).square().sum(dim=-1)  # (n, m, t)
        best = distance.flatten(1).argmin(dim=1)
        branch, image = best // distance.shape[2], best % distance.shape[2]
        translation = _IMAGES[image] if distance.shape[2] > 1 else torch.zeros_like(points)
        rows = torch.arange(len(points))
        origin = self.constant[branch] + wrap[rows, branch] + translation  # (n, 3)
        free = torch.einsum("nij,nj->ni", self.inverse[branch], points - origin)
        nearest = torch.einsum("nij,nj->ni", self.linear[branch], free) + origin
        return torch.remainder(free, 1.0), nearest


@lru_cache(maxsize=4096)
def _branches(spacegroup: int, letter: int) -> Branches:
    return Branches.from_maps(orbit_maps(spacegroup, letter))
