"""Wyckoff genes of crystals, and genes as arrays for models that learn them.

The gene itself is `models.wyckoff_gene.WyckoffGene`; this module hands on its names.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import spglib
import torch

from models.errors import GeneError
from models.symmetry import (
    LETTERS,
    MAX_LETTERS,
    N_GROUPS,
    letter_permutations,
    normaliser_maps,
    project,
    tables,
)
from models.wyckoff_gene import (
    N_ELEMENTS,
    WyckoffGene,
    atomic_number,
    canonical,
    canonical_row,
    element_symbols,
    moved,
    problems,
    require_feasible,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = [
    "RefinedCrystal",
    "WyckoffGene",
    "arrays_from_genes",
    "atomic_number",
    "canonical",
    "element_symbols",
    "feasible",
    "gene_of",
    "genes_from_arrays",
    "orbits_of",
    "problems",
    "require_feasible",
    "slot_order",
]


@dataclass(frozen=True)
class RefinedCrystal:
    """A crystal in the standard setting of its space group, described by its orbits."""

    gene: WyckoffGene
    """Canonical."""
    lattice: npt.NDArray[np.float64]
    """(3, 3), rows a, b, c of the conventional cell [Å], idealised by spglib."""
    parameters: npt.NDArray[np.float64]
    """(n_orbits, 3), x, y, z of each orbit of `gene.orbits`, in its order; 0 where they are not free."""


def gene_of(structure: Structure, symprec: float = 0.1) -> WyckoffGene | None:
    """Return the canonical gene of a crystal at tolerance `symprec` [Å].

    None where there is none: partial occupation, dummy species, broken numbers, or spglib finds no symmetry.
    """
    found = _symmetry_of(structure, symprec)
    return None if found is None else canonical(found.gene)


def orbits_of(structure: Structure, symprec: float = 0.1) -> RefinedCrystal | None:
    """Return a crystal's canonical gene with its conventional lattice and the parameters of its orbits.

    The lattice and the atoms are those that spglib has made to obey the symmetry exactly, in the choice of origin
    and axes to which the canonical gene belongs. None as in `gene_of`.
    """
    found = _symmetry_of(structure, symprec)
    if found is None:
        return None
    gene, points, lattice = found.gene, found.points, found.lattice
    row = canonical_row(gene)
    affine = normaliser_maps(gene.spacegroup)[row].numpy()  # (3, 4)
    points = points @ affine[:, :3].T + affine[:, 3]
    lattice = np.linalg.inv(affine[:, :3]).T @ lattice
    image = moved(gene, row)
    # `moved` sorts its orbits; carry the points along.
    permutation = letter_permutations(gene.spacegroup)[row].tolist()
    pairs = [(symbol, LETTERS[permutation[LETTERS.index(letter)]]) for symbol, letter in gene.orbits]
    order = sorted(range(len(pairs)), key=pairs.__getitem__)
    return RefinedCrystal(image, lattice, _parameters(image, points[order]))


def _parameters(gene: WyckoffGene, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    n = gene.n_orbits
    letters = torch.tensor(gene.letter_indices, dtype=torch.int64)
    projection = project(torch.from_numpy(points), torch.full((n,), gene.spacegroup), letters)
    found: npt.NDArray[np.float64] = projection.parameters.numpy()
    return found


@dataclass(frozen=True)
class _Symmetry:
    """What spglib says of a crystal, in our setting."""

    gene: WyckoffGene
    """Not canonical."""
    lattice: npt.NDArray[np.float64]
    """(3, 3) of the conventional cell [Å]."""
    points: npt.NDArray[np.float64]
    """(n_orbits, 3), one point of each orbit of `gene.orbits`, in its order."""


def _symmetry_of(structure: Structure, symprec: float) -> _Symmetry | None:
    cell = _cell(structure)
    if cell is None:
        return None
    dataset = _dataset(cell, symprec)
    if dataset is None:
        return None
    number = int(dataset.number)
    # An atom of the standard cell and one of the input are the same atom of the primitive cell.
    input_atom = {int(primitive): atom for atom, primitive in enumerate(dataset.mapping_to_primitive)}
    orbits: dict[int, tuple[str, str, int]] = {}
    for atom, primitive in enumerate(dataset.std_mapping_to_primitive):
        source = input_atom.get(int(primitive))
        if source is None:
            return None
        symbol = element_symbols()[int(dataset.std_types[atom])]
        orbits.setdefault(
            int(dataset.crystallographic_orbits[source]), (symbol, str(dataset.wyckoffs[source]), atom)
        )
    entries = sorted(orbits.values())
    gene = WyckoffGene(number, tuple((symbol, letter) for symbol, letter, _ in entries))
    if problems(gene) or gene.atoms_per_conventional_cell != len(dataset.std_types):
        return None  # at a tolerance too loose for this crystal spglib's orbits do not fit its group
    points = np.asarray(dataset.std_positions, dtype=np.float64)[[atom for _, _, atom in entries]]
    return _Symmetry(gene, np.asarray(dataset.std_lattice, dtype=np.float64), points)


def _cell(structure: Structure) -> tuple[Any, Any, Any] | None:
    """Return lattice, fractional coordinates and atomic numbers, or None where spglib could not bear them."""
    try:
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    except AttributeError:  # partial occupation
        return None
    lattice = np.asarray(structure.lattice.matrix, dtype=np.float64)
    points = np.asarray(structure.frac_coords, dtype=np.float64).reshape(-1, 3)
    if len(numbers) == 0 or numbers.min() < 1 or numbers.max() > N_ELEMENTS:
        return None
    if not (np.isfinite(lattice).all() and np.isfinite(points).all()):
        return None  # spglib would end the process with a segmentation fault
    if abs(np.linalg.det(lattice)) < 1e-6:
        return None
    return lattice, points % 1.0, numbers


def _dataset(cell: tuple[Any, Any, Any], symprec: float) -> Any:
    """Return spglib's dataset in our setting, or None where it finds none."""
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
        if dataset is None:
            return None
        hall = int(tables().hall_number[int(dataset.number)])
        if int(dataset.hall_number) != hall:
            dataset = spglib.get_symmetry_dataset(cell, symprec=symprec, hall_number=hall)
    except Exception:  # spglib raises its own errors, or returns None, depending on its version
        return None
    return dataset


@lru_cache(maxsize=1)
def slot_order() -> npt.NDArray[np.int64]:
    """Return the place (119,) of every atomic number when elements are sorted into slots; 0 comes last.

    By electronegativity (Pauling's, from pymatgen), then by atomic number; elements without a value follow.
    """
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of every element without a value
        scale = np.array([np.inf, *(float(Element(symbol).X) for symbol in element_symbols()[1:])])
    scale[np.isnan(scale)] = np.inf
    order = np.lexsort((np.arange(N_ELEMENTS + 1), scale))
    order = np.concatenate([order[order != 0], [0]])
    place = np.empty(N_ELEMENTS + 1, dtype=np.int64)
    place[order] = np.arange(N_ELEMENTS + 1)
    return place


def feasible(
    spacegroup: npt.NDArray[Any], elements: npt.NDArray[Any], counts: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Say which genes a crystal can have.

    Args:
        spacegroup: (n,) numbers of groups.
        elements: (n, k) atomic numbers, 0 for an empty slot.
        counts: (n, k, 27) how many orbits of each letter each slot takes.

    Returns:
        (n,): the group, elements and letters exist, letters without freedom are taken at most once by all slots
        together, slots have orbits if and only if they have an element, and no element comes twice.
    """
    spacegroup, elements, counts = np.asarray(spacegroup), np.asarray(elements), np.asarray(counts)
    known = tables()
    inside = (spacegroup >= 1) & (spacegroup <= N_GROUPS)
    group = np.where(inside, spacegroup, 0).astype(np.int64)
    most = np.array([0, 1, np.iinfo(np.int64).max])[_LIMIT_OF_DOF[known.dof.numpy() + 1]][group]  # (n, 27)
    rising = np.sort(elements, axis=1)
    twice = (rising[:, 1:] == rising[:, :-1]) & (rising[:, 1:] > 0)
    filled = elements > 0
    return np.asarray(
        inside
        & ((elements >= 0) & (elements <= N_ELEMENTS)).all(axis=1)
        & filled.any(axis=1)
        & ~twice.any(axis=1)
        & (filled == (counts > 0).any(axis=2)).all(axis=1)
        & (counts >= 0).all(axis=(1, 2))
        & (counts.sum(axis=1) <= most).all(axis=1)
    )


_LIMIT_OF_DOF = np.array([0, 1, 2, 2, 2])
"""By dof + 1: letters that do not exist, that have no freedom, that have some."""


def genes_from_arrays(
    spacegroup: npt.NDArray[Any], elements: npt.NDArray[Any], counts: npt.NDArray[Any]
) -> list[WyckoffGene]:
    """Return the genes of arrays as `feasible` takes them, as they are: neither checked nor canonical."""
    symbols = element_symbols()
    found = []
    for number, slots, amounts in zip(
        np.asarray(spacegroup).tolist(), np.asarray(elements).tolist(), np.asarray(counts), strict=True
    ):
        orbits: list[tuple[str, str]] = []
        for slot, letter in zip(*np.nonzero(amounts), strict=True):
            orbits += [(symbols[slots[slot]], LETTERS[letter])] * int(amounts[slot, letter])
        found.append(WyckoffGene(int(number), tuple(orbits)))
    return found


def arrays_from_genes(
    genes: Sequence[WyckoffGene], n_slots: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return space groups (n,), atomic numbers (n, n_slots) in the order of slots, and counts (n, n_slots, 27).

    Raises:
        GeneError: If a gene has more elements than there are slots.
    """
    spacegroup = np.array([gene.spacegroup for gene in genes], dtype=np.int64)
    elements = np.zeros((len(genes), n_slots), dtype=np.int64)
    counts = np.zeros((len(genes), n_slots, MAX_LETTERS), dtype=np.int64)
    order = slot_order()
    for row, gene in enumerate(genes):
        numbers = sorted(
            (atomic_number(symbol) for symbol in gene.elements), key=lambda number: int(order[number])
        )
        if len(numbers) > n_slots:
            raise GeneError(
                "A Wyckoff gene has more elements than there are slots",
                value=gene.text(),
                allowed=f"up to {n_slots}",
            )
        elements[row, : len(numbers)] = numbers
        for (symbol, _), letter in zip(gene.orbits, gene.letter_indices, strict=True):
            counts[row, numbers.index(atomic_number(symbol)), letter] += 1
    return spacegroup, elements, counts
