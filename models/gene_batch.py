"""Wyckoff genes as tensors: one token for every element on every letter, and pairs of tokens within a gene.

Orbits of one element on one letter look alike to a gene, so they are one token with a count. A gene is first
made canonical, and where its space group has a twin of the other hand (P4₁ and P4₃, ...) moved to the twin with
the smaller number: crystals that are mirror images of each other have the same energy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from models.crystal import check_structures
from models.errors import ModelsError
from models.genes import WyckoffGene, atomic_number, canonical, gene_of
from models.graph import joined_ranges
from models.symmetry import tables

if TYPE_CHECKING:
    from pymatgen.core import Structure

TWINS = {
    78: 76,
    95: 91,
    96: 92,
    145: 144,
    153: 151,
    154: 152,
    170: 169,
    172: 171,
    179: 178,
    181: 180,
    213: 212,
}
"""The 11 pairs of enantiomorphic space groups; an inversion carries each letter to that of the same name, up to
a change of origin (International Tables A)."""

N_NUMBERS = 3
"""Length of `GeneBatch.numbers`."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LetterTable:
    """What the letters of all space groups are told apart by; arrays are (231, 27), -1 or 0 where there is none."""

    row: IntArray
    """A number of its own for every letter of every group, from 0."""
    site: IntArray
    """A number for every oriented site-symmetry symbol, from 0."""
    dof: IntArray
    """Free coordinates, 0 to 3."""
    multiplicity: IntArray
    """Points in the conventional cell."""
    log_order: npt.NDArray[np.float64]
    """Logarithm of the number of operations that leave a point of the orbit in place."""
    n_rows: int
    """Letters of all groups."""
    n_sites: int
    """Symbols of all groups."""


@lru_cache(maxsize=1)
def letter_table() -> LetterTable:
    """Return the table, made once from `models.symmetry.tables`."""
    known = tables()
    multiplicity = known.multiplicity.numpy()
    exists = multiplicity > 0
    row = np.full(multiplicity.shape, -1, dtype=np.int64)
    row[exists] = np.arange(exists.sum())
    symbols = sorted({symbol for group in known.site_symmetry for symbol in group})
    site = np.full(multiplicity.shape, -1, dtype=np.int64)
    for number, group in enumerate(known.site_symmetry):
        site[number, : len(group)] = [symbols.index(symbol) for symbol in group]
    general = multiplicity.max(axis=1, keepdims=True)  # the general position has every point
    log_order = np.log(np.maximum(general, 1) / np.maximum(multiplicity, 1))
    return LetterTable(row, site, known.dof.numpy(), multiplicity, log_order, int(exists.sum()), len(symbols))


@dataclass(frozen=True)
class GeneBatch:
    """Several genes in one set of tensors; tokens of one gene lie together, genes in order."""

    spacegroup: torch.Tensor
    """(n_genes,) int64, 1 to 230."""
    tokens_per_gene: torch.Tensor
    """(n_genes,) int64, at least 1 each."""
    atomic_numbers: torch.Tensor
    """(n_tokens,) int64"""
    letter: torch.Tensor
    """(n_tokens,) int64, `LetterTable.row`."""
    site: torch.Tensor
    """(n_tokens,) int64, `LetterTable.site`."""
    dof: torch.Tensor
    """(n_tokens,) int64, free coordinates of one orbit."""
    fraction: torch.Tensor
    """(n_tokens,) float32, share of the gene's atoms; they add up to 1 within a gene."""
    numbers: torch.Tensor
    """(n_tokens, 3) float32: the fraction, the logarithms of the number of orbits and of the site group's order."""
    neighbour: torch.Tensor
    """(n_pairs,) int64, the sending token of every pair within a gene, itself included; sorted by the receiver."""
    pairs_per_token: torch.Tensor
    """(n_tokens,) int64, pairs that each token receives: the tokens of its gene."""


class GeneSet:
    """Many genes as arrays, read once and cut into batches."""

    def __init__(self, genes: Sequence[WyckoffGene]) -> None:
        """Read genes; they need not be canonical.

        Raises:
            GeneError: No crystal can have one of the genes.
        """
        table = letter_table()
        found = [canonical_of_either_hand(gene) for gene in genes]
        tokens = [
            Counter(zip((atomic_number(s) for s, _ in g.orbits), g.letter_indices, strict=True))
            for g in found
        ]
        rows = [(z, letter, count) for each in tokens for (z, letter), count in each.items()]
        numbers, letter, count = np.array(rows, dtype=np.int64).reshape(-1, 3).T  # (n_tokens,) each
        self._spacegroup = np.array([gene.spacegroup for gene in found], dtype=np.int64)
        self._n_tokens = np.array([len(each) for each in tokens], dtype=np.int64)
        self._start = np.cumsum(self._n_tokens) - self._n_tokens
        place = np.repeat(self._spacegroup, self._n_tokens), letter
        atoms = table.multiplicity[place] * count  # (n_tokens,)
        # reduceat dislikes an empty list
        total = np.add.reduceat(atoms, self._start) if found else np.zeros(0, dtype=np.int64)
        fraction = atoms / np.repeat(total, self._n_tokens)
        self._atomic_numbers = numbers
        self._letter, self._site, self._dof = table.row[place], table.site[place], table.dof[place]
        self._numbers = np.stack([fraction, np.log(count), table.log_order[place]], axis=1).astype(np.float32)

    @classmethod
    def from_structures(cls, structures: Sequence[Structure], symprec: float) -> GeneSet:
        """Read the genes of crystals at tolerance `symprec` [Å]; one that is given twice is read once.

        Raises:
            ModelsError: A structure is disordered, empty, collapsed or not finite, or has no gene.
        """
        check_structures(structures)
        known: dict[int, WyckoffGene | None] = {}
        for place, structure in enumerate(structures):
            if id(structure) not in known:
                known[id(structure)] = gene_of(structure, symprec)
            if known[id(structure)] is None:
                raise ModelsError(
                    f"structure {place} of {len(structures)} ({structure.composition.reduced_formula}) has no "
                    "Wyckoff gene: no space group is found that its atoms obey",
                    value=f"symprec {symprec} Å",
                    cure="leave it out, relax it first, or change symprec",
                )
        return cls([gene for structure in structures if (gene := known[id(structure)]) is not None])

    def __len__(self) -> int:
        return len(self._spacegroup)

    def batch(self, indices: npt.ArrayLike, device: str | torch.device = "cpu") -> GeneBatch:
        """Join the genes at `indices` (n_genes,), in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        n_tokens = self._n_tokens[chosen]
        tokens = joined_ranges(self._start[chosen], n_tokens)  # (n_tokens,)
        starts = np.cumsum(n_tokens) - n_tokens
        per_token = np.repeat(n_tokens, n_tokens)
        numbers = self._numbers[tokens]

        def put(array: npt.NDArray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return GeneBatch(
            spacegroup=put(self._spacegroup[chosen]),
            tokens_per_gene=put(n_tokens),
            atomic_numbers=put(self._atomic_numbers[tokens]),
            letter=put(self._letter[tokens]),
            site=put(self._site[tokens]),
            dof=put(self._dof[tokens]),
            fraction=put(np.ascontiguousarray(numbers[:, 0])),
            numbers=put(numbers),
            neighbour=put(joined_ranges(np.repeat(starts, n_tokens), per_token)),
            pairs_per_token=put(per_token),
        )


@lru_cache(maxsize=1 << 16)
def canonical_of_either_hand(gene: WyckoffGene) -> WyckoffGene:
    """Return one gene for all descriptions of a crystal and of its mirror image.

    Raises:
        GeneError: No crystal can have this gene.
    """
    twin = TWINS.get(gene.spacegroup)
    return canonical(gene if twin is None else WyckoffGene(twin, gene.orbits))
