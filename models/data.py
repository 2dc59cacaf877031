"""What goes into models and what is asked of them: plain frozen records, no tensors.

This module is light: pymatgen is imported for type checkers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from models.errors import OptionsError

if TYPE_CHECKING:
    from pymatgen.core import Structure

FORMATION_ENERGY = "formation_energy_per_atom"
"""Key of the formation energy [eV/atom] in `LabelledStructure.properties`."""

E_ABOVE_HULL = "e_above_hull"
"""Key of the energy above the convex hull [eV/atom] in `LabelledStructure.properties`."""

SYMPREC = 0.1
"""Tolerance [Å] of the space groups that conditions ask for, as the Materials Project takes it."""

STABLE = "stable"
"""Key of the stability target, 1.0 (on or near the hull) or 0.0, in `LabelledStructure.properties`."""


@dataclass(frozen=True)
class Conditions:
    """What every crystal of one `sample` call must keep to.

    Raises:
        OptionsError: No elements, bounds that no crystal can meet, a formula that cannot be read or that the
            other conditions rule out, or a space group that does not exist.
    """

    elements: tuple[str, ...]
    """Symbols that may occur. A crystal need not hold all of them, see `n_elements`."""
    n_elements: tuple[int, int]
    """Smallest and largest number of different elements in one crystal, both included."""
    max_atoms: int
    """Largest number of atoms in the primitive cell."""
    formula: str | None = None
    """Reduced formula that every crystal must have, any way of writing it; kept as pymatgen writes it."""
    spacegroups: tuple[int, ...] = ()
    """International numbers, one of which every crystal must have at `SYMPREC`; empty for any."""

    def __post_init__(self) -> None:
        low, high = self.n_elements
        if not self.elements:
            raise OptionsError("no elements to sample from", cure="name at least one element")
        if len(set(self.elements)) != len(self.elements):
            raise OptionsError("an element is named twice", value=self.elements, cure="name each one once")
        if not 1 <= low <= high:
            raise OptionsError(
                "the range of the number of elements is empty",
                value=self.n_elements,
                allowed="1 <= low <= high",
            )
        if low > len(self.elements):
            raise OptionsError(
                f"crystals of at least {low} elements asked from {len(self.elements)} elements",
                value=self.elements,
                cure="name more elements or lower n_elements",
            )
        if self.max_atoms < 1:
            raise OptionsError("max_atoms leaves no room", value=self.max_atoms, allowed="1 or more")
        if not all(1 <= number <= 230 for number in self.spacegroups):
            raise OptionsError("no such space group", value=self.spacegroups, allowed="1 to 230")
        if self.formula is not None:
            self._check_formula(self.formula)

    def _check_formula(self, formula: str) -> None:
        """Keep the formula in its reduced form, if the other conditions leave it possible."""
        from pymatgen.core import Composition

        try:
            counts = Composition(formula).get_el_amt_dict()
        except ValueError as error:
            raise OptionsError(f"the formula cannot be read ({error})", value=formula) from error
        low, high = self.n_elements
        if not counts or any(amount != int(amount) for amount in counts.values()):
            raise OptionsError("the formula holds no whole number of atoms", value=formula)
        object.__setattr__(self, "formula", Composition(formula).reduced_formula)
        if not set(counts) <= set(self.elements) or not low <= len(counts) <= high:
            raise OptionsError(
                "the formula does not keep to the other conditions",
                value=formula,
                allowed=f"{low} to {high} of {', '.join(self.elements)}",
            )
        if sum(self.amounts().values()) > self.max_atoms:
            raise OptionsError("max_atoms leaves no room for the formula", value=self.max_atoms)

    def amounts(self) -> dict[str, int]:
        """Return symbol -> atoms in one formula unit, without common divisor; empty where no formula is asked."""
        from math import gcd

        from pymatgen.core import Composition

        if self.formula is None:
            return {}
        counts = {symbol: int(n) for symbol, n in Composition(self.formula).get_el_amt_dict().items()}
        divisor = gcd(*counts.values())
        return {symbol: n // divisor for symbol, n in counts.items()}

    def allows(self, structure: Structure) -> bool:
        """Say whether `structure` keeps to the conditions, counting the atoms of the cell as given."""
        symbols = {site.specie.symbol for site in structure}
        low, high = self.n_elements
        if not (
            symbols <= set(self.elements) and low <= len(symbols) <= high and len(structure) <= self.max_atoms
        ):
            return False
        if self.formula is not None and structure.composition.reduced_formula != self.formula:
            return False
        return not self.spacegroups or self._spacegroup(structure) in self.spacegroups

    @staticmethod
    def _spacegroup(structure: Structure) -> int:
        import numpy as np

        from models.symmetrise import spacegroup_number

        numbers = np.array([site.specie.Z for site in structure])
        return spacegroup_number(structure.lattice.matrix, structure.frac_coords, numbers, SYMPREC)

    def document(self) -> dict[str, Any]:
        """Return the conditions as a plain document, which `of` reads."""
        return {
            "elements": list(self.elements),
            "n_elements": list(self.n_elements),
            "max_atoms": self.max_atoms,
            "formula": self.formula,
            "spacegroups": list(self.spacegroups),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Return the conditions that a plain document tells; `formula` and `spacegroups` may be missing.

        Raises:
            OptionsError: No crystal can meet them.
        """
        low, high = document["n_elements"]
        return cls(
            elements=tuple(document["elements"]),
            n_elements=(low, high),
            max_atoms=document["max_atoms"],
            formula=document.get("formula"),
            spacegroups=tuple(document.get("spacegroups") or ()),
        )


@dataclass(frozen=True)
class LabelledStructure:
    """One crystal with what is known about it."""

    structure: Structure
    """The crystal as it was labelled; for relaxed labels the relaxed one."""
    properties: Mapping[str, float | None] = field(default_factory=dict)
    """Known values by name, for example `formation_energy_per_atom` [eV/atom], `e_above_hull` [eV/atom]
    and `stable` (1.0 or 0.0); None, like a missing key, stands for not known."""
    campaign: bool = False
    """Whether the label is one of a campaign's own, and not known before it."""

    def known(self, name: str) -> float | None:
        """Return the value of `name`, or None where it is not known."""
        return self.properties.get(name)
