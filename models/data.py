"""What goes into models and what is asked of them: plain frozen records, no tensors.

This module is light: pymatgen is imported for type checkers only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.errors import OptionsError

if TYPE_CHECKING:
    from pymatgen.core import Structure

FORMATION_ENERGY = "formation_energy_per_atom"
"""Key of the formation energy [eV/atom] in `LabelledStructure.properties`."""

E_ABOVE_HULL = "e_above_hull"
"""Key of the energy above the convex hull [eV/atom] in `LabelledStructure.properties`."""

STABLE = "stable"
"""Key of the stability target, 1.0 (on or near the hull) or 0.0, in `LabelledStructure.properties`."""


@dataclass(frozen=True)
class Conditions:
    """What every crystal of one `sample` call must keep to.

    Raises:
        OptionsError: No elements, or bounds that no crystal can meet.
    """

    elements: tuple[str, ...]
    """Symbols that may occur. A crystal need not hold all of them, see `n_elements`."""
    n_elements: tuple[int, int]
    """Smallest and largest number of different elements in one crystal, both included."""
    max_atoms: int
    """Largest number of atoms in the primitive cell."""

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

    def allows(self, structure: Structure) -> bool:
        """Say whether `structure` keeps to the conditions, counting the atoms of the cell as given."""
        symbols = {site.specie.symbol for site in structure}
        low, high = self.n_elements
        return (
            symbols <= set(self.elements) and low <= len(symbols) <= high and len(structure) <= self.max_atoms
        )


@dataclass(frozen=True)
class LabelledStructure:
    """One crystal with what is known about it."""

    structure: Structure
    """The crystal as it was labelled; for relaxed labels the relaxed one."""
    properties: Mapping[str, float | None] = field(default_factory=dict)
    """Known values by name, for example `formation_energy_per_atom` [eV/atom], `e_above_hull` [eV/atom]
    and `stable` (1.0 or 0.0); None, like a missing key, stands for not known."""

    def known(self, name: str) -> float | None:
        """Return the value of `name`, or None where it is not known."""
        return self.properties.get(name)
