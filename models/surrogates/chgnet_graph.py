"""CHGNet's crystal graph for many crystals at once, built with arrays instead of objects.

CHGNet sees two graphs: atoms joined by bonds up to 6 Å, and bonds up to 3 Å joined by angles. Every bond is
held twice as a directed bond (i -> j and j -> i) that shares one undirected bond. chgnet's own converter
builds Python objects per bond; here the same index arrays come from sorting, and all crystals of a batch are
joined before anything is computed, so that forces and stresses of all need one backward pass.

Source of the definition: B. Deng et al., Nature Machine Intelligence 5, 1031 (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from models.relaxation import Geometry

if TYPE_CHECKING:
    from chgnet.model import CHGNet
    from chgnet.model.model import BatchedGraph

MAX_BONDS_PER_ATOM = 1500
"""A cell with more neighbours than this within 6 Å is collapsed (fcc lead has 50, solid hydrogen 500)."""


class GraphError(Exception):
    """One crystal has no usable graph; the message says why."""


@dataclass(frozen=True)
class CrystalGraph:
    """Bonds and angles of one crystal, as indices."""

    geometry: Geometry
    bonds: np.ndarray
    """(n_directed, 2): centre and neighbour."""
    images: np.ndarray
    """(n_directed, 3): lattice translations of the neighbour."""
    undirected: np.ndarray
    """(n_directed,): undirected bond of each directed bond."""
    one_directed: np.ndarray
    """(n_undirected,): one directed bond of each undirected bond."""
    angles: np.ndarray
    """(n_angles, 2): directed bonds from the same centre."""


def crystal_graph(geometry: Geometry, atom_cutoff: float, bond_cutoff: float) -> CrystalGraph:
    """Find bonds and angles.

    Args:
        geometry: The crystal.
        atom_cutoff: Longest bond [Å].
        bond_cutoff: Longest bond that takes part in angles [Å].

    Raises:
        GraphError: Coordinates are not finite, an atom has no neighbour, or the cell is collapsed.
    """
    centre, neighbour, images, lengths = _neighbours(geometry, atom_cutoff)
    n_atoms = len(geometry.numbers)
    if len(np.unique(centre)) < n_atoms:
        raise GraphError(f"an atom has no neighbour within {atom_cutoff} Å")
    undirected, one_directed = _pair_up(centre, neighbour, images)
    return CrystalGraph(
        geometry=geometry,
        bonds=np.stack([centre, neighbour], axis=1),
        images=images,
        undirected=undirected,
        one_directed=one_directed,
        angles=_angles(centre, np.flatnonzero(lengths < bond_cutoff), n_atoms),
    )


def _neighbours(geometry: Geometry, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, neighbour, image and length of every directed bond up to `cutoff`."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    lattice = np.ascontiguousarray(geometry.lattice, dtype=float)
    coords = np.ascontiguousarray(geometry.frac_coords @ lattice, dtype=float)
    if not (np.isfinite(coords).all() and np.isfinite(lattice).all()):
        raise GraphError("coordinates or lattice are not finite")
    n_atoms = len(coords)
    expected = n_atoms / max(geometry.volume, 1e-9) * 4.19 * cutoff**3  # neighbours in the sphere
    if expected > MAX_BONDS_PER_ATOM:
        raise GraphError(f"collapsed: {geometry.volume / n_atoms:.2f} Å³ per atom")
    centre, neighbour, images, lengths = find_points_in_spheres(
        coords, coords, r=float(cutoff), pbc=np.ones(3, dtype=np.int64), lattice=lattice, tol=1e-8
    )
    keep = (centre != neighbour) | (lengths > 1e-8)
    if keep.any() and lengths[keep].min() < 1e-3:
        raise GraphError("two atoms are at the same place")
    return centre[keep], neighbour[keep], np.rint(images[keep]).astype(np.int64), lengths[keep]


def _pair_up(centre: np.ndarray, neighbour: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give both directions of a bond one undirected index; raise GraphError where one is missing."""
    # A bond and its reverse differ by (i, j, image) -> (j, i, -image). The direction whose key is smaller
    # names the pair. Keys are the five integers packed into one.
    reach = int(np.abs(images).max(initial=0)) + 1
    base = 2 * reach + 1
    n_atoms = int(max(centre.max(initial=0), neighbour.max(initial=0))) + 1
    weights = np.array([base * base, base, 1])
    forward = (centre * n_atoms + neighbour) * base**3 + (images + reach) @ weights
    backward = (neighbour * n_atoms + centre) * base**3 + (reach - images) @ weights
    _, one_directed, undirected = np.unique(
        np.minimum(forward, backward), return_index=True, return_inverse=True
    )
    if len(centre) != 2 * len(one_directed):  # a bond exactly as long as the cutoff, by rounding
        raise GraphError("bonds do not pair up; an atom sits on the cutoff sphere of another")
    return undirected.reshape(-1), one_directed


def _angles(centre: np.ndarray, short: np.ndarray, n_atoms: int) -> np.ndarray:
    """Return all ordered pairs of different directed bonds in `short` that share their centre."""
    order = short[np.argsort(centre[short], kind="stable")]
    counts = np.bincount(centre[order], minlength=n_atoms)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    per_bond = counts[centre[order]]  # partners of each bond, itself among them
    first = np.repeat(np.arange(len(order)), per_bond)
    offset = np.arange(len(first)) - np.repeat(np.cumsum(per_bond) - per_bond, per_bond)
    second = np.repeat(starts[centre[order]], per_bond) + offset
    differ = first != second
    return np.stack([order[first[differ]], order[second[differ]]], axis=1)


@dataclass(frozen=True)
class Assembled:
    """A batch in chgnet's own form, with the two leaves that forces and stress are derived from."""

    graph: BatchedGraph
    cart_coords: Tensor
    """(n_atoms, 3) [Å], strained."""
    strain: Tensor
    """(n_crystals, 3, 3), zero; the derivative by it is volume times stress."""
    volumes: Tensor
    """(n_crystals,) [Å³]."""
    n_atoms: list[int]


def assemble(model: CHGNet, graphs: Sequence[CrystalGraph], device: torch.device) -> Assembled:
    """Join graphs and expand bonds and angles into CHGNet's basis, in one go for all crystals."""
    from chgnet.model.model import BatchedGraph

    n_atoms = [len(graph.geometry.numbers) for graph in graphs]
    atom_offset = _offsets(n_atoms)
    directed_offset = _offsets([len(graph.bonds) for graph in graphs])
    undirected_offset = _offsets([len(graph.one_directed) for graph in graphs])

    def joined(parts: list[np.ndarray], offsets: np.ndarray) -> Tensor:
        shifted = [part + offset for part, offset in zip(parts, offsets, strict=True)]
        return torch.as_tensor(np.concatenate(shifted), device=device)

    bonds = joined([graph.bonds for graph in graphs], atom_offset)  # (n_directed, 2)
    undirected = joined([graph.undirected for graph in graphs], undirected_offset)  # (n_directed,)
    one_directed = joined([graph.one_directed for graph in graphs], directed_offset)  # (n_undirected,)
    angles = joined([graph.angles for graph in graphs], directed_offset)  # (n_angles, 2)
    owner = torch.as_tensor(np.repeat(np.arange(len(graphs)), n_atoms), device=device)  # (n_atoms,)

    def floats(parts: list[np.ndarray]) -> Tensor:
        return torch.as_tensor(np.concatenate(parts), dtype=torch.float32, device=device)

    lattice = floats([graph.geometry.lattice[None] for graph in graphs])  # (n_crystals, 3, 3)
    strain = torch.zeros_like(lattice, requires_grad=True)
    strained = lattice @ (torch.eye(3, device=device) + strain)
    cart = torch.einsum("ni,nij->nj", floats([g.geometry.frac_coords for g in graphs]), strained[owner])
    images = floats([graph.images for graph in graphs])
    shift = torch.einsum("ni,nij->nj", images, strained[owner[bonds[:, 0]]])  # (n_directed, 3) [Å]
    bases_ag, bases_bg, vectors = model.bond_basis_expansion(
        center=cart[bonds[:, 0]],
        neighbor=cart[bonds[:, 1]],
        undirected2directed=one_directed,
        image=shift,  # already Cartesian, hence the unit lattice
        lattice=torch.eye(3, device=device),
    )
    bond_graph = torch.stack(
        [bonds[angles[:, 0], 0], undirected[angles[:, 0]], undirected[angles[:, 1]]], dim=1
    )  # (n_angles, 3): centre, first bond, second bond
    angle_bases = (
        model.angle_basis_expansion(vectors[angles[:, 0]], vectors[angles[:, 1]])
        if len(angles)
        else torch.zeros(0, device=device)
    )
    volumes = torch.linalg.det(lattice.double()).abs().float()
    batched = BatchedGraph(
        atomic_numbers=torch.as_tensor(
            np.concatenate([g.geometry.numbers for g in graphs]), dtype=torch.int32, device=device
        ),
        bond_bases_ag=bases_ag,
        bond_bases_bg=bases_bg,
        angle_bases=angle_bases,
        batched_atom_graph=bonds,
        batched_bond_graph=bond_graph,
        atom_owners=owner,
        directed2undirected=undirected,
        atom_positions=[cart],
        strains=[strain],
        volumes=volumes,
    )
    return Assembled(batched, cart, strain, volumes, n_atoms)


def elements(numbers: Tensor, n_atoms: Sequence[int]) -> list[Any]:
    """Return atomic numbers (n_atoms,) crystal by crystal, as CHGNet's composition model wants them."""
    return [SimpleNamespace(atomic_number=part) for part in torch.split(numbers, list(n_atoms))]


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
