"""Crystals as graphs: atoms, and directed edges to their nearest neighbours across the cell's borders.

Every atom is given its `max_neighbours` nearest neighbours. Where several neighbours share the last place
(six equal bonds, two places left), choosing some would make the graph depend on the order of the atoms and
on rounding. So none is chosen: with d_k the distance of the k-th nearest neighbour, an edge of length d has
the weight

    w(d) = 1                                    d <= d_k
    w(d) = (1 + cos(π (d - d_k) / 0.2 Å)) / 2   d_k < d < d_k + 0.2 Å

times an envelope that falls to 0 over the last 0.5 Å before the cutoff. Whole shells stay whole, and the
graph changes continuously when atoms move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.crystal import check_structures

if TYPE_CHECKING:
    from pymatgen.core import Structure

SHELL_WIDTH_ANG = 0.2
"""Neighbours beyond the last place fade out over this distance [Å]."""

ENVELOPE_WIDTH_ANG = 0.5
"""Neighbours fade out over this last stretch before the cutoff [Å]."""

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CrystalGraph:
    """One crystal as a graph; edges are sorted by their centre."""

    atomic_numbers: IntArray
    """(n_atoms,)"""
    centre: IntArray
    """(n_edges,) the atom that receives, never decreasing."""
    neighbour: IntArray
    """(n_edges,) the atom that sends, in whatever cell."""
    distance: FloatArray
    """(n_edges,) length [Å]."""
    weight: FloatArray
    """(n_edges,) in (0, 1]."""


@dataclass(frozen=True)
class GraphBatch:
    """Several crystal graphs in one set of tensors."""

    atomic_numbers: torch.Tensor
    """(n_atoms,) int64"""
    atoms_per_crystal: torch.Tensor
    """(n_crystals,) int64, at least 1 each."""
    neighbour: torch.Tensor
    """(n_edges,) int64, the sending atom; edges are sorted by the receiving atom."""
    edges_per_atom: torch.Tensor
    """(n_atoms,) int64 number of edges that each atom receives; may be 0."""
    distance: torch.Tensor
    """(n_edges,) float32 [Å]"""
    weight: torch.Tensor
    """(n_edges,) float32 in (0, 1]"""


def build_graph(structure: Structure, cutoff_ang: float, max_neighbours: int) -> CrystalGraph:
    """Find the neighbours of every atom of one crystal.

    Args:
        structure: An ordered crystal that passed `models.crystal.check_structures`.
        cutoff_ang: No neighbour is farther than this [Å].
        max_neighbours: How many nearest neighbours count in full; see the module's docstring for ties.
    """
    centre, neighbour, _, distance = structure.get_neighbor_list(cutoff_ang)
    order = np.lexsort((distance, centre))
    centre, neighbour, distance = centre[order], neighbour[order], distance[order]
    weight = edge_weights(centre, distance, len(structure), cutoff_ang, max_neighbours)
    kept = weight > 0.0
    return CrystalGraph(
        atomic_numbers=np.asarray(structure.atomic_numbers, dtype=np.int64),
        centre=centre[kept].astype(np.int64),
        neighbour=neighbour[kept].astype(np.int64),
        distance=distance[kept].astype(np.float64),
        weight=weight[kept],
    )


def edge_weights(
    centre: IntArray, distance: FloatArray, n_atoms: int, cutoff_ang: float, max_neighbours: int
) -> FloatArray:
    """Weigh edges as the module's docstring says.

    Args:
        centre: (n_edges,) receiving atom, never decreasing.
        distance: (n_edges,) [Å], increasing within one atom.
        n_atoms: Number of atoms of the crystal.
        cutoff_ang: The distance at which the envelope reaches 0 [Å].
        max_neighbours: k, the number of neighbours that count in full.

    Returns:
        (n_edges,) weights in [0, 1].
    """
    counts = np.bincount(centre, minlength=n_atoms)  # (n_atoms,)
    starts = np.cumsum(counts) - counts
    last_place = np.full(n_atoms, np.inf)  # d_k, infinite where an atom has fewer than k neighbours
    full = counts >= max_neighbours
    last_place[full] = distance[starts[full] + max_neighbours - 1]
    beyond = np.clip((distance - last_place[centre]) / SHELL_WIDTH_ANG, 0.0, 1.0)  # (n_edges,)
    to_edge = np.clip((distance - cutoff_ang) / ENVELOPE_WIDTH_ANG + 1.0, 0.0, 1.0)
    weights: FloatArray = 0.25 * (1.0 + np.cos(np.pi * beyond)) * (1.0 + np.cos(np.pi * to_edge))
    # The cosine of a rounded π leaves 1e-33 where it should be 0.
    return np.where((beyond >= 1.0) | (to_edge >= 1.0), 0.0, weights)


class GraphSet:
    """The graphs of many crystals, built once and cut into batches without touching the crystals again."""

    def __init__(self, graphs: Sequence[CrystalGraph]) -> None:
        self._numbers = _join([g.atomic_numbers for g in graphs], np.int64)
        self._neighbour = _join([g.neighbour for g in graphs], np.int64)  # counted within the own crystal
        self._distance = _join([g.distance for g in graphs], np.float32)
        self._weight = _join([g.weight for g in graphs], np.float32)
        self._degree = _join(
            [np.bincount(g.centre, minlength=len(g.atomic_numbers)) for g in graphs], np.int64
        )  # (n_atoms,) edges received
        self._n_atoms = np.array([len(g.atomic_numbers) for g in graphs], dtype=np.int64)
        self._n_edges = np.array([len(g.centre) for g in graphs], dtype=np.int64)
        self._atom_start = np.cumsum(self._n_atoms) - self._n_atoms
        self._edge_start = np.cumsum(self._n_edges) - self._n_edges

    @classmethod
    def from_structures(
        cls, structures: Sequence[Structure], cutoff_ang: float, max_neighbours: int
    ) -> GraphSet:
        """Build the graphs of `structures`, in their order.

        Raises:
            ModelsError: A structure is disordered, empty, collapsed or not finite.
        """
        check_structures(structures)
        return cls([build_graph(s, cutoff_ang, max_neighbours) for s in structures])

    def __len__(self) -> int:
        return len(self._n_atoms)

    @property
    def atoms_per_crystal(self) -> IntArray:
        """(n_crystals,) number of atoms of each crystal."""
        return self._n_atoms

    @property
    def edges_per_crystal(self) -> IntArray:
        """(n_crystals,) number of directed edges of each crystal."""
        return self._n_edges

    def batch(self, indices: npt.ArrayLike, device: str | torch.device = "cpu") -> GraphBatch:
        """Join the graphs at `indices` (n_crystals,), in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        n_atoms, n_edges = self._n_atoms[chosen], self._n_edges[chosen]
        atoms = joined_ranges(self._atom_start[chosen], n_atoms)  # (n_atoms,)
        edges = joined_ranges(self._edge_start[chosen], n_edges)  # (n_edges,)
        shift = np.repeat(np.cumsum(n_atoms) - n_atoms, n_edges)  # (n_edges,)

        def put(array: npt.NDArray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return GraphBatch(
            atomic_numbers=put(self._numbers[atoms]),
            atoms_per_crystal=put(n_atoms),
            neighbour=put(self._neighbour[edges] + shift),
            edges_per_atom=put(self._degree[atoms]),
            distance=put(self._distance[edges]),
            weight=put(self._weight[edges]),
        )


def _join(arrays: Sequence[npt.NDArray], dtype: type) -> npt.NDArray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def joined_ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Return the ranges start, start + 1, ..., start + length - 1, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)
