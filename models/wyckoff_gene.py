"""The Wyckoff gene: which element sits on which Wyckoff position of which space group.

A gene leaves out the lattice and the free coordinates, so it stands for a whole family of crystals. Letters refer
to the settings of `models.symmetry`. One crystal has several such descriptions, since origin and axes may be
chosen in several ways; `canonical` takes the smallest, so that equal crystals have equal genes. The name is that
of WyCryst (Zhu et al., Matter 7, 3469 (2024)), which keeps equivalent genes apart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from models.errors import GeneError
from models.symmetry import (
    LETTERS,
    MAX_LETTERS,
    N_GROUPS,
    letter_permutations,
    tables,
)

N_ELEMENTS = 118
FORM = "spacegroup|element:letter|..., for example 221|Ba:a|O:c|Ti:b"


@dataclass(frozen=True, order=True)
class WyckoffGene:
    """A space group and its occupied orbits.

    Args:
        spacegroup: Number of the group, 1 to 230.
        orbits: (element symbol, letter), one entry for every occupied orbit, in any order.
    """

    spacegroup: int
    """Number of the group."""
    orbits: tuple[tuple[str, str], ...]
    """(element symbol, letter) of every occupied orbit, sorted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "orbits", tuple(sorted((str(e), str(letter)) for e, letter in self.orbits)))

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """The symbols, by atomic number."""
        return tuple(sorted({symbol for symbol, _ in self.orbits}, key=atomic_number))

    @property
    def n_orbits(self) -> int:
        """Number of occupied orbits."""
        return len(self.orbits)

    @cached_property
    def dof(self) -> int:
        """Number of free coordinates of all orbits together; those of the lattice are not counted."""
        return int(tables().dof[self.spacegroup, list(self.letter_indices)].sum())

    @cached_property
    def letter_indices(self) -> tuple[int, ...]:
        """Index of the letter of every orbit, a = 0."""
        return tuple(LETTERS.index(letter) for _, letter in self.orbits)

    @cached_property
    def composition(self) -> dict[str, int]:
        """Symbol -> atoms in the conventional cell, by atomic number."""
        amounts = tables().multiplicity[self.spacegroup, list(self.letter_indices)].tolist()
        found: Counter[str] = Counter()
        for (symbol, _), amount in zip(self.orbits, amounts, strict=True):
            found[symbol] += amount
        return {symbol: found[symbol] for symbol in self.elements}

    @property
    def atoms_per_conventional_cell(self) -> int:
        """Number of atoms in the conventional cell."""
        return sum(self.composition.values())

    @property
    def atoms_per_primitive_cell(self) -> int:
        """Number of atoms in a primitive cell."""
        return self.atoms_per_conventional_cell // int(tables().centrings[self.spacegroup])

    @cached_property
    def reduced_formula(self) -> str:
        """Reduced formula as pymatgen writes it."""
        from pymatgen.core import Composition

        return str(Composition(self.composition).reduced_formula)

    def text(self) -> str:
        """Return the gene on one line, as "221|Ba:a|O:c|Ti:b"."""
        return "|".join([str(self.spacegroup), *(f"{symbol}:{letter}" for symbol, letter in self.orbits)])

    @classmethod
    def from_text(cls, text: str) -> WyckoffGene:
        """Read what `text` wrote.

        Raises:
            GeneError: If the text does not spell a gene, or one that no crystal can have.
        """
        number, *orbits = str(text).strip().split("|")
        pairs = [tuple(orbit.split(":")) for orbit in orbits]
        if not number.isdecimal() or any(len(pair) != 2 for pair in pairs):
            raise GeneError("This is not the text of a Wyckoff gene", value=text, allowed=FORM)
        gene = cls(int(number), tuple((pair[0], pair[1]) for pair in pairs))
        require_feasible(gene)
        return gene


@lru_cache(maxsize=1)
def element_symbols() -> tuple[str, ...]:
    """Return the symbols (119,) by atomic number; that of 0 is empty."""
    from pymatgen.core import Element

    return ("", *(str(Element.from_Z(number).symbol) for number in range(1, N_ELEMENTS + 1)))


@lru_cache(maxsize=1)
def _numbers() -> dict[str, int]:
    return {symbol: number for number, symbol in enumerate(element_symbols()) if number}


def atomic_number(symbol: str) -> int:
    """Return the atomic number of an element, or 0 where there is no such element."""
    return _numbers().get(symbol, 0)


def problems(gene: WyckoffGene) -> list[str]:
    """Return what keeps a gene from being that of a crystal; nothing if it is feasible."""
    if not 1 <= gene.spacegroup <= N_GROUPS:
        return [f"there is no space group {gene.spacegroup}"]
    if not gene.orbits:
        return ["no orbit is occupied"]
    known = tables()
    n_letters = int(known.n_letters[gene.spacegroup])
    found = [
        f"there is no element {symbol}"
        for symbol in sorted({s for s, _ in gene.orbits})
        if not atomic_number(symbol)
    ]
    used = Counter(letter for _, letter in gene.orbits)
    for letter in sorted(used):
        index = LETTERS.find(letter) if len(letter) == 1 else -1
        if not 0 <= index < n_letters:
            found.append(f"space group {gene.spacegroup} has no letter {letter}")
        elif used[letter] > 1 and known.dof[gene.spacegroup, index] == 0:
            found.append(
                f"letter {letter} of space group {gene.spacegroup} has no freedom and is taken {used[letter]} times"
            )
    return found


def require_feasible(gene: WyckoffGene) -> None:
    """Do nothing if a crystal can have this gene.

    Raises:
        GeneError: If none can.
    """
    found = problems(gene)
    if found:
        raise GeneError(
            "No crystal has this Wyckoff gene: " + ", ".join(found), value=gene.text(), allowed=FORM
        )


def canonical_row(gene: WyckoffGene) -> int:
    """Return the row of `letter_permutations` that makes the gene smallest."""
    permutations = _permutations(gene.spacegroup)
    if len(permutations) == 1:
        return 0
    ranks = {symbol: place for place, symbol in enumerate(sorted({symbol for symbol, _ in gene.orbits}))}
    elements = np.array([ranks[symbol] for symbol, _ in gene.orbits])
    codes = np.sort(
        elements * MAX_LETTERS + permutations[:, list(gene.letter_indices)], axis=1
    )  # (rows, n_orbits)
    rows = np.arange(len(codes))
    for column in codes.T:
        values = column[rows]
        rows = rows[values == values.min()]
        if len(rows) == 1:
            break
    return int(rows[0])


@lru_cache(maxsize=N_GROUPS)
def _permutations(spacegroup: int) -> npt.NDArray[np.int64]:
    permutations: npt.NDArray[np.int64] = letter_permutations(spacegroup).numpy()
    return permutations


def moved(gene: WyckoffGene, row: int) -> WyckoffGene:
    """Return the gene with its letters exchanged by one row of `letter_permutations`."""
    image = _permutations(gene.spacegroup)[row]
    orbits = zip(gene.orbits, gene.letter_indices, strict=True)
    return WyckoffGene(
        gene.spacegroup, tuple((symbol, LETTERS[image[index]]) for (symbol, _), index in orbits)
    )


@lru_cache(maxsize=1 << 16)
def canonical(gene: WyckoffGene) -> WyckoffGene:
    """Return the smallest gene of the same crystals: letters run over all choices of origin and axes.

    Raises:
        GeneError: If no crystal can have this gene.
    """
    require_feasible(gene)
    return moved(gene, canonical_row(gene))
