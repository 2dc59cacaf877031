"""Reference crystals: what is already known about a chemistry.

They serve three purposes: prototypes for generators, training data for models, and phases that candidates
compete with (see `campaign.references.hull`). Crystals are kept as plain arrays and become pymatgen Structures only
when somebody asks for one, so that 20,000 of them are read in a second. `campaign.references.catalogue` reads them.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SYMBOL = re.compile(r"[A-Z][a-z]?")


MOST_ANG = 1e4
"""Longest component of a lattice vector [Å]."""
MOST_CELLS = 1e6
"""Largest fractional coordinate."""


@dataclass(frozen=True, eq=False)
class RawCrystal:
    """An ordered crystal as plain arrays."""

    lattice: np.ndarray
    """(3, 3), rows a, b, c [Å]."""
    numbers: np.ndarray
    """(n_atoms,), atomic numbers."""
    frac_coords: np.ndarray
    """(n_atoms, 3), fractional coordinates."""

    def problem(self) -> str:
        """Say why this is no crystal, or return an empty string."""
        if self.numbers.size == 0:
            return "no atoms"
        if self.lattice.shape != (3, 3) or self.frac_coords.shape != (self.numbers.size, 3):
            return f"shapes do not fit: lattice {self.lattice.shape}, coordinates {self.frac_coords.shape}"
        # Written so that what is no number fails as well.
        if not (abs(self.lattice).max() <= MOST_ANG and abs(self.frac_coords).max() <= MOST_CELLS):
            return "a lattice vector or a coordinate is not finite, or absurdly large"
        if abs(np.linalg.det(self.lattice)) < 1e-3 * self.numbers.size:
            return "the cell has no volume"
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            return "an atomic number outside 1 to 118"
        return ""

    @property
    def formula(self) -> str:
        """Reduced formula as pymatgen writes it."""
        from pymatgen.core import Composition, Element

        counts = Counter(int(z) for z in self.numbers)
        return str(Composition({Element.from_Z(z): n for z, n in counts.items()}).reduced_formula)

    def build(self) -> Structure:
        """Return the pymatgen Structure."""
        from pymatgen.core import Element, Lattice, Structure

        species = [Element.from_Z(int(z)) for z in self.numbers]
        return Structure(Lattice(self.lattice), species, self.frac_coords)


@dataclass(frozen=True, eq=False)
class ReferenceEntry:
    """One known phase: a crystal, an energy, or both."""

    entry_id: str
    """Id in its source; not necessarily unique across sources."""
    formula: str
    """Reduced formula."""
    formation_energy_per_atom: float | None
    """Relative to the elements, on the source's own scale [eV/atom]; None where it is not known."""
    e_above_hull: float | None = None
    """As the source says [eV/atom]; None where it is not known."""
    source: str = ""
    """The source it was read from, as written in campaign.yaml."""
    raw: RawCrystal | None = None
    """The crystal; None for an entry that is an energy only."""
    on_hull_scale: bool = True
    """Whether its formation energy may compete in the hull; false where the hull has sources of its own."""

    @cached_property
    def structure(self) -> Structure | None:
        """The crystal as a pymatgen Structure, built when first asked for; None for an energy only."""
        return None if self.raw is None else self.raw.build()

    @cached_property
    def elements(self) -> frozenset[str]:
        """Symbols of its elements."""
        return frozenset(_SYMBOL.findall(self.formula))


@dataclass(frozen=True)
class SourceInfo:
    """What one source gave."""

    source: str
    """As written in campaign.yaml."""
    n_entries: int
    """Entries read."""
    n_set_aside: int
    """Items that could not be used; see `ReferenceSet.set_aside`."""
    note: str = ""
    """What the source says about itself."""


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Known phases, with an account of what could not be read."""

    entries: tuple[ReferenceEntry, ...]
    """In the order of the sources, and of the items within each."""
    set_aside: tuple[tuple[str, str], ...] = ()
    """(where, why) of every item that could not be used."""
    sources: tuple[SourceInfo, ...] = ()
    """What each source gave."""

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[ReferenceEntry]:
        return iter(self.entries)

    def within(self, elements: Iterable[str]) -> ReferenceSet:
        """Return the entries that hold no element but the given ones."""
        allowed = frozenset(elements)
        kept = tuple(entry for entry in self.entries if entry.elements <= allowed)
        return ReferenceSet(kept, self.set_aside, self.sources)

    def without_crystals_of(self, formulas: Iterable[str]) -> ReferenceSet:
        """Return the set with only the energies of some formulas, so that they count in the hull alone.

        Args:
            formulas: In any way of writing; every polymorph of each loses its crystal.
        """
        from pymatgen.core import Composition

        hidden = {Composition(formula).reduced_formula for formula in formulas}
        if not hidden:
            return self
        entries = tuple(
            dataclasses.replace(entry, raw=None) if entry.formula in hidden else entry
            for entry in self.entries
        )
        return ReferenceSet(entries, self.set_aside, self.sources)

    @cached_property
    def elements(self) -> frozenset[str]:
        """Every element that occurs."""
        return frozenset().union(*(entry.elements for entry in self.entries))

    @property
    def with_structure(self) -> list[ReferenceEntry]:
        """The entries that hold a crystal."""
        return [entry for entry in self.entries if entry.raw is not None]

    @property
    def structures(self) -> list[Structure]:
        """The crystals, built now; use `with_structure` to see how many there are without building them."""
        return [entry.raw.build() for entry in self.entries if entry.raw is not None]

    @property
    def hull_entries(self) -> list[ReferenceEntry]:
        """The entries whose formation energy makes the hull."""
        return [
            entry
            for entry in self.entries
            if entry.on_hull_scale and entry.formation_energy_per_atom is not None
        ]

    def in_bucket(self, bucket: str) -> list[ReferenceEntry]:
        """Return the entries that hold a crystal in a bucket of `campaign.references.fingerprint`."""
        return self._by_bucket.get(bucket, [])

    @cached_property
    def _by_bucket(self) -> dict[str, list[ReferenceEntry]]:
        from pymatgen.core import Element

        from campaign.references.fingerprint import formula_of_counts

        index: dict[str, list[ReferenceEntry]] = {}
        for entry in self.entries:
            if entry.raw is not None:
                counts = Counter(entry.raw.numbers.tolist())
                key = formula_of_counts({Element.from_Z(z).symbol: n for z, n in counts.items()})
                index.setdefault(key, []).append(entry)
        return index

    def summary(self) -> str:
        """Return one line for the log: what was read and what was set aside, with the commonest reason."""
        n_crystals = sum(entry.raw is not None for entry in self.entries)
        n_energies = sum(entry.formation_energy_per_atom is not None for entry in self.entries)
        line = f"{len(self.entries)} reference entries ({n_crystals} crystals, {n_energies} energies)"
        if self.set_aside:
            reason, count = Counter(why for _, why in self.set_aside).most_common(1)[0]
            line += f"; {len(self.set_aside)} set aside ({count} because: {reason})"
        return line
