"""Whether crystals built from a space group have just that group, or by accident more.

spglib needs milliseconds for what is a smaller question here: the crystal obeys its group by construction, so only
operations outside the group are looked for, and as soon as one is found the answer is there. Three kinds exist:
translations of a smaller cell, operations of the lattice's own point group that the space group lacks (one of each
coset is enough), and symmetry of a lattice that happens to be of a higher system; the last is refused without
looking at the atoms. The tolerance is wider than spglib's, so what passes here passes there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from models.distances import ReducedCells, dot
from models.symmetry import N_GROUPS, operations, tables

MARGIN = 3.0
"""Tolerance in units of symprec: an operation is fixed by one atom, whose error and that of another add up."""

_HOLOHEDRIES = ((2, 2), (15, 10), (74, 47), (142, 123), (194, 191), (230, 221))
_RHOMBOHEDRAL = 166


def _holohedry(spacegroup: int) -> int:
    """Return a group whose point group is that of the lattice."""
    trigonal = tables().crystal_system[spacegroup] == "trigonal"
    if trigonal and int(tables().centrings[spacegroup]) == 3:
        return _RHOMBOHEDRAL
    return next(full for last, full in _HOLOHEDRIES if spacegroup <= last)


@lru_cache(maxsize=N_GROUPS)
def lattice_order(spacegroup: int) -> int:
    """Return the order of the point group of the lattice: 2, 4, 8, 16, 12, 24 or 48."""
    return len(torch.unique(operations(_holohedry(spacegroup))[0], dim=0))


@lru_cache(maxsize=N_GROUPS)
def missing_rotations(spacegroup: int) -> Tensor:
    """Return one rotation (n, 3, 3), conventional, of every coset of the group's in the lattice's point group."""
    own = torch.unique(operations(spacegroup)[0], dim=0)
    every = torch.unique(operations(_holohedry(spacegroup))[0], dim=0)
    seen = {_key(rotation) for rotation in own}
    found = [torch.zeros(0, 3, 3, dtype=torch.float64)]
    for rotation in every:
        if _key(rotation) not in seen:
            seen |= {_key(rotation @ other) for other in own}
            found.append(rotation[None])
    return torch.cat(found)


def _key(rotation: Tensor) -> tuple[int, ...]:
    return tuple(rotation.round().to(torch.int64).flatten().tolist())


@lru_cache(maxsize=1)
def _images() -> Tensor:
    grid = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).to(torch.float64)
    return grid[grid.abs().sum(dim=1) > 0]  # (26, 3)


def automorphisms(lattice: Tensor, tolerance_ang: float) -> Tensor:
    """Return how many operations (n,) the point groups of Minkowski-reduced lattices (n, 3, 3) have, about."""
    vectors = _images() @ lattice  # (n, 26, 3)
    products = vectors @ vectors.transpose(1, 2)
    own = lattice @ lattice.transpose(1, 2)
    length = own.diagonal(dim1=1, dim2=2).sqrt()  # (n, 3)
    lengths = products.diagonal(dim1=1, dim2=2).sqrt()  # (n, 26)
    fits = (lengths[:, None] - length[:, :, None]).abs() < tolerance_ang  # (n, 3, 26)
    close = tolerance_ang * (length[:, :, None] + length[:, None])  # (n, 3, 3)
    second = (products - own[:, 0, 1, None, None]).abs() < close[:, 0, 1, None, None]
    cell, a, b = (fits[:, 0, :, None] & fits[:, 1, None] & second).nonzero(as_tuple=True)
    third = (products[cell, a] - own[cell, 0, 2, None]).abs() < close[cell, 0, 2, None]
    third &= (products[cell, b] - own[cell, 1, 2, None]).abs() < close[cell, 1, 2, None]
    third &= fits[cell, 2]  # (n_found, 26)
    return torch.zeros(len(lattice), dtype=torch.int64).index_add_(0, cell, third.sum(dim=1))


@dataclass(frozen=True)
class _Rotations:
    """Operations to look for, without their translations."""

    owner: Tensor
    """(r,) the crystal."""
    turn: Tensor
    """(r, 3, 3) acting on rows of reduced fractions."""
    pure: Tensor
    """(r,) whether it is the identity: then the translation must not be."""


def exactly(
    spacegroup: Tensor, cells: ReducedCells, points: Tensor, element: Tensor, symprec: float
) -> Tensor:
    """Say which crystals have no symmetry beyond their space group.

    Args:
        spacegroup: (n,).
        cells: n cells.
        points: (n, m, 3) reduced fractions of the atoms of a primitive cell, padded.
        element: (n, m) atomic numbers, 0 for padding.
        symprec: spglib's tolerance [Å]; `MARGIN` times as much is allowed for.

    Returns:
        (n,) bool.
    """
    tolerance = MARGIN * symprec
    expected = torch.tensor([lattice_order(group) for group in spacegroup.tolist()], dtype=torch.int64)
    good = automorphisms(cells.lattice, tolerance) == expected
    found = _Rotations(*_to_look_for(spacegroup, cells, good))
    good[_symmetric(found, points, element, cells.metric, tolerance)] = False
    return good


def _to_look_for(spacegroup: Tensor, cells: ReducedCells, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = wanted.nonzero()[:, 0]
    crystal, rotation = [rows], [torch.eye(3, dtype=torch.float64).expand(len(rows), 3, 3)]
    for group in sorted(set(spacegroup[rows].tolist())):
        missing = missing_rotations(group)
        members = rows[spacegroup[rows] == group]
        crystal.append(members.repeat_interleave(len(missing)))
        rotation.append(missing.repeat(len(members), 1, 1))
    owner, turn = torch.cat(crystal), torch.cat(rotation)
    # Columns in conventional fractions, x' = W x, are rows x' = x @ inverse(M) @ W.T @ M in reduced ones.
    into = cells.from_conventional
    turn = torch.linalg.inv(into)[owner] @ turn.transpose(1, 2) @ into[owner]
    return owner, turn, torch.arange(len(owner)) < len(rows)


def _symmetric(look_for: _Rotations, points: Tensor, element: Tensor, metric: Tensor, tol: float) -> Tensor:
    """Return the crystals that one of these rotations, with some translation, maps onto themselves.

    The translation must bring an atom of the rarest element onto an atom of that element.
    """
    owner, turn = look_for.owner, look_for.turn
    same = element[:, :, None] == element[:, None]  # (n, m, m)
    amount = torch.where(element > 0, same.sum(dim=2), same.shape[1] + 1)
    anchor = amount.argmin(dim=1)  # (n,)
    targets = same[owner, anchor[owner]].clone()  # (r, m)
    targets[look_for.pure, anchor[owner[look_for.pure]]] = False
    row, target = targets.nonzero(as_tuple=True)
    start = (points[owner, anchor[owner]][:, None] @ turn)[:, 0]  # (r, 3)
    shift = points[owner[row], target] - start[row]
    for atom in range(points.shape[1]):
        if len(row) == 0:
            break
        crystal = owner[row]
        image = (points[crystal, atom][:, None] @ turn[row])[:, 0] + shift
        apart = image[:, None] - points[crystal]  # (c, m, 3)
        apart -= torch.round(apart)
        near = dot(apart @ metric[crystal], apart) < tol**2
        alive = (near & same[crystal, atom]).any(dim=1) | (element[crystal, atom] == 0)
        row, shift = row[alive], shift[alive]
    return torch.unique(owner[row])
