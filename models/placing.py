"""Atoms into cells, orbit after orbit, for thousands of crystals at once, so that none come too close.

Each orbit is tried at several parameters at once, and the first that keeps its distances from what has been placed
is taken. Fixed orbits come first, then those that need most room. By symmetry one atom of the new orbit against
all atoms is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.distances import ReducedCells, covalent_radii, dot, shortest_squared
from models.genes import WyckoffGene, atomic_number
from models.symmetry import free_parameters, orbit_maps, tables

LOOKED_AT_CLOSELY = 2
"""Of the tries that pass the quick check of one image each, so many go through the exact one."""


@dataclass(frozen=True)
class PackedGenes:
    """Genes as padded arrays; S is the largest number of orbits, M the largest number of points of one."""

    spacegroup: npt.NDArray[np.int64]
    """(n_genes,)."""
    n_orbits: npt.NDArray[np.int64]
    """(n_genes,)."""
    n_atoms: npt.NDArray[np.int64]
    """(n_genes,) in the primitive cell."""
    orbit: Tensor
    """(n_genes, S) row of each orbit in the tables below, in the gene's order; the last row, empty, for padding."""
    element: Tensor
    """(n_genes, S) atomic numbers."""
    order: Tensor
    """(n_genes, S) which orbit is placed first, second, ...; padding last."""
    maps: Tensor
    """(n_kinds + 1, M, 3, 4) from parameters to the points of one primitive cell."""
    counts: Tensor
    """(n_kinds + 1,) number of points."""
    free: Tensor
    """(n_kinds + 1, 3) whether x, y, z are free."""


@lru_cache(maxsize=4096)
def _kind(spacegroup: int, letter: int) -> tuple[Tensor, Tensor]:
    """Return the maps (m, 3, 4) of one primitive cell and which parameters are free (3,)."""
    maps = orbit_maps(spacegroup, letter)
    free = torch.zeros(3, dtype=torch.bool)
    free[list(free_parameters(spacegroup, letter))] = True
    return maps[: len(maps) // int(tables().centrings[spacegroup])], free


def pack(genes: Sequence[WyckoffGene]) -> PackedGenes:
    """Return feasible genes as arrays."""
    rows: dict[tuple[int, int], int] = {}
    for gene in genes:
        for letter in gene.letter_indices:
            rows.setdefault((gene.spacegroup, letter), len(rows))
    kinds = [_kind(*key) for key in rows]
    most = max((len(maps) for maps, _ in kinds), default=1)
    maps = torch.zeros(len(rows) + 1, most, 3, 4, dtype=torch.float64)
    counts = torch.zeros(len(rows) + 1, dtype=torch.int64)
    free = torch.zeros(len(rows) + 1, 3, dtype=torch.bool)
    for row, (some, which) in enumerate(kinds):
        maps[row, : len(some)], counts[row], free[row] = some, len(some), which
    widest = max((gene.n_orbits for gene in genes), default=1)
    orbit = np.full((len(genes), widest), len(rows), dtype=np.int64)
    element = np.zeros((len(genes), widest), dtype=np.int64)
    for place, gene in enumerate(genes):
        orbit[place, : gene.n_orbits] = [rows[gene.spacegroup, letter] for letter in gene.letter_indices]
        element[place, : gene.n_orbits] = [atomic_number(symbol) for symbol, _ in gene.orbits]
    points = counts.numpy()[orbit]
    room = points * covalent_radii().numpy()[element] ** 3
    room[~free.any(dim=1).numpy()[orbit]] = np.inf  # fixed orbits first
    room[orbit == len(rows)] = -1.0
    return PackedGenes(
        spacegroup=np.array([gene.spacegroup for gene in genes], dtype=np.int64),
        n_orbits=np.array([gene.n_orbits for gene in genes], dtype=np.int64),
        n_atoms=points.sum(axis=1),
        orbit=torch.from_numpy(orbit),
        element=torch.from_numpy(element),
        order=torch.from_numpy(np.argsort(-room, axis=1, kind="stable")),
        maps=maps,
        counts=counts,
        free=free,
    )


def points_of(packed: PackedGenes, orbit: Tensor, parameters: Tensor) -> Tensor:
    """Return the points (n, k, m, 3) of one orbit of each crystal, in conventional units.

    Args:
        packed: Where the maps are.
        orbit: (n,) rows of `packed.maps`; m is the largest of their counts.
        parameters: (n, k, 3).
    """
    m = max(int(packed.counts[orbit].max()), 1)
    maps = packed.maps[:, :m][orbit]  # (n, m, 3, 4)
    n, k = parameters.shape[:2]
    linear = maps[..., :3].reshape(n, m * 3, 3).transpose(1, 2)
    found = torch.baddbmm(maps[..., 3].reshape(n, 1, m * 3), parameters, linear)
    return found.reshape(n, k, m, 3)


def place(
    packed: PackedGenes,
    gene: Tensor,
    tries: Tensor,
    cells: ReducedCells,
    min_distance_factor: float,
) -> tuple[Tensor, Tensor]:
    """Place all orbits of each crystal.

    Args:
        packed: The genes.
        gene: (n,) row of each crystal's gene.
        tries: (n, s, k, 3) parameters to try, orbits in the gene's order, s at least the most that one of them has.
        cells: n cells.
        min_distance_factor: Atoms i, j are at least this times r_i + r_j apart.

    Returns:
        Rows of the crystals that succeeded (n_placed,) and their parameters (n_placed, S, 3).
    """
    rows = torch.arange(len(gene))
    chosen = torch.zeros(len(gene), packed.orbit.shape[1], 3, dtype=torch.float64)
    placed = torch.zeros(len(gene), 0, 3, dtype=torch.float64)  # (n, p, 3) reduced
    room = torch.zeros(len(gene), 0, dtype=torch.float64)  # (n, p) f·r, or -inf for padding
    for step in range(int(packed.n_orbits[gene.numpy()].max(initial=0))):
        which = packed.order[gene[rows], step]
        orbit = packed.orbit[gene[rows], which]
        parameters = tries[rows, which.clamp(max=tries.shape[1] - 1)]  # (n, k, 3)
        if not packed.free[orbit].any():
            parameters = parameters[:, :1]
        points = points_of(packed, orbit, parameters) @ cells.from_conventional[rows][:, None]  # (n, k, m, 3)
        own = min_distance_factor * covalent_radii()[packed.element[gene[rows], which]]  # (n,)
        there = torch.arange(points.shape[2]) < packed.counts[orbit][:, None]
        room_own = torch.where(there, own[:, None], -torch.inf)  # (n, m)
        tolerance = torch.cat([room_own[:, 1:], room], dim=1) + own[:, None]
        tolerance[orbit == len(packed.maps) - 1] = 0.0  # a crystal that has no such step
        best, accepted = _first_apart(points, placed, tolerance.clamp(min=0.0).square(), cells.metric[rows])
        kept = torch.arange(len(rows))[accepted]
        chosen[rows[accepted], which[accepted]] = parameters[kept, best[accepted]]
        placed = torch.cat([placed[accepted], points[kept, best[accepted]]], dim=1).contiguous()
        room = torch.cat([room[accepted], room_own[accepted]], dim=1)
        rows = rows[accepted]
        if len(rows) == 0:
            break
    return rows, chosen[rows]


def _first_apart(points: Tensor, placed: Tensor, limit: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first try (n,) whose first point keeps its distances, and whether there is one (n,).

    Args:
        points: (n, k, m, 3) reduced.
        placed: (n, p, 3) reduced.
        limit: (n, m - 1 + p) smallest squared distances from the others of the orbit and from `placed` [Å²].
        metric: (n, 3, 3).
    """
    n, k = points.shape[:2]
    first = points[:, :, :1]
    apart = torch.cat([points[:, :, 1:] - first, placed[:, None] - first], dim=2)  # (n, k, q, 3)
    q = apart.shape[2]
    if q == 0:
        return torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.bool)
    apart = apart - torch.round(apart)
    flat = apart.reshape(n, k * q, 3)
    quick = dot(flat @ metric, flat).reshape(n, k, q)
    passes = (quick >= limit[:, None]).all(dim=2)  # (n, k)
    passes &= passes.cumsum(dim=1) <= LOOKED_AT_CLOSELY
    row, attempt = passes.nonzero(as_tuple=True)
    exact = (shortest_squared(apart[row, attempt], metric[row]) >= limit[row]).all(dim=1)
    good = torch.zeros(n, k, dtype=torch.bool)
    good[row[exact], attempt[exact]] = True
    return good.to(torch.int8).argmax(dim=1), good.any(dim=1)
