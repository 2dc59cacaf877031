"""Energy above the convex hull of reference phases, with pymatgen's `PhaseDiagram`.

The hull is that of the *reference*: a candidate is measured against it and not made part of it. A candidate
below it therefore has a negative `e_above_hull`: it would be a new stable phase, and its depth says by how
much it undercuts what is known (equally, how far to distrust the energy that was given for it).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from campaign.errors import ReferenceDataError
from campaign.references.entries import ReferenceEntry, ReferenceSet

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Composition

_MAX_CACHED_SYSTEMS = 512


@dataclass(frozen=True, eq=False)
class _Phase:
    """The lowest entry of one composition."""

    entry: ReferenceEntry
    composition: Composition  # one atom in total
    energy: float  # formation energy [eV/atom]


class ReferenceHull:
    """Convex hulls of reference phases, one per chemical system, built when first asked for.

    Args:
        entries: Phases with formation energies [eV/atom], all on one scale; those without are left out.

    Raises:
        ReferenceDataError: No entry has a formation energy.
    """

    def __init__(self, entries: Iterable[ReferenceEntry]) -> None:
        from pymatgen.core import Composition

        lowest: dict[str, ReferenceEntry] = {}
        for entry in entries:
            energy = entry.formation_energy_per_atom
            if energy is None or not math.isfinite(energy):
                continue
            known = lowest.get(entry.formula)
            if known is None or energy < _energy(known):
                lowest[entry.formula] = entry
        if not lowest:
            raise ReferenceDataError(
                "the reference holds no formation energies, so there is no hull",
                cure="give formation_energy_per_atom with the crystals, or name a source of hull energies",
            )
        # Formulas may be written in several ways; PhaseDiagram copes with doubles of a composition.
        self._phases: dict[frozenset[str], list[_Phase]] = {}
        for entry in lowest.values():
            composition = Composition(entry.formula).fractional_composition
            system = frozenset(element.symbol for element in composition)
            self._phases.setdefault(system, []).append(_Phase(entry, composition, _energy(entry)))
        self._diagrams: dict[frozenset[str], PhaseDiagram] = {}
        self._energies: dict[str, float] = {}
        """Formula -> energy of the hull [eV/atom], of compositions that were asked for."""

    @property
    def elements(self) -> frozenset[str]:
        """Elements that have an entry of their own."""
        return frozenset(symbol for system in self._phases if len(system) == 1 for symbol in system)

    def check(self, elements: Iterable[str]) -> None:
        """Make sure that every element has an entry of its own; there is no silent zero.

        Raises:
            ReferenceDataError: One line that names the elements that are missing.
        """
        missing = sorted(set(elements) - self.elements)
        if missing:
            raise ReferenceDataError(
                f"the reference lacks terminal elements ({', '.join(missing)}): there is no e_above_hull",
                allowed=sorted(self.elements)
                if len(self.elements) <= 12
                else f"{len(self.elements)} elements",
                cure="add an entry for each missing element (0 eV/atom where it is the reference state), "
                "or leave these elements out of the chemistry",
            )

    def hull_energy_per_atom(self, composition: Composition) -> float:
        """Return the hull's formation energy at a composition [eV/atom]; worked out once for each.

        Raises:
            ReferenceDataError: A terminal element is missing.
        """
        formula = composition.reduced_formula
        energy = self._energies.get(formula)
        if energy is None:
            diagram = self._diagram(frozenset(element.symbol for element in composition))
            fractions = composition.element_composition.fractional_composition
            energy = self._energies[formula] = float(diagram.get_hull_energy_per_atom(fractions))
        return energy

    @property
    def known_energies(self) -> dict[str, float]:
        """Formula -> energy of the hull [eV/atom], of the compositions that were asked for so far."""
        return dict(self._energies)

    def remember(self, energies: Mapping[str, float]) -> None:
        """Take over the `known_energies` of a hull of the same phases, so that they are not worked out again."""
        self._energies.update(energies)

    def e_above_hull(self, composition: Composition, formation_energy_per_atom: float) -> float:
        """Return the energy above the reference hull [eV/atom]; negative below it.

        Args:
            composition: Any multiple of the formula unit.
            formation_energy_per_atom: On the scale of the reference [eV/atom].

        Raises:
            ReferenceDataError: A terminal element is missing.
        """
        return float(formation_energy_per_atom) - self.hull_energy_per_atom(composition)

    def vertices(self, elements: Iterable[str]) -> list[ReferenceEntry]:
        """Return the entries on the hull of a chemical system and its sub-systems, elements first.

        These are the phases that decide `e_above_hull` there, and so the ones to compute again with another
        method for a hull of its own.

        Raises:
            ReferenceDataError: A terminal element is missing.
        """
        diagram = self._diagram(frozenset(elements))
        stable: list[ReferenceEntry] = [phase.attribute for phase in diagram.stable_entries]
        return sorted(stable, key=lambda entry: (len(entry.elements), entry.formula, entry.entry_id))

    def _diagram(self, symbols: frozenset[str]) -> PhaseDiagram:
        found = self._diagrams.get(symbols)
        if found is not None:
            return found
        self.check(symbols)
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        entries: list[Any] = [
            PDEntry(phase.composition, phase.energy, name=phase.entry.entry_id, attribute=phase.entry)
            for phase in self._within(sorted(symbols))
        ]
        diagram = PhaseDiagram(entries)
        if len(self._diagrams) >= _MAX_CACHED_SYSTEMS:
            self._diagrams.pop(next(iter(self._diagrams)))
        self._diagrams[symbols] = diagram
        return diagram

    def _within(self, symbols: Sequence[str]) -> list[_Phase]:
        """Return the phases of a chemical system and all its sub-systems."""
        if 2 ** len(symbols) > len(self._phases):
            allowed = frozenset(symbols)
            return [phase for system, phases in self._phases.items() if system <= allowed for phase in phases]
        subsets = (
            frozenset(part)
            for size in range(1, len(symbols) + 1)
            for part in itertools.combinations(symbols, size)
        )
        return [phase for subset in subsets for phase in self._phases.get(subset, ())]


@functools.lru_cache(maxsize=2)
def hull_of(reference: ReferenceSet) -> ReferenceHull:
    """Return the hull of a reference set's energies; one per set and process.

    Raises:
        ReferenceDataError: No entry has a formation energy.
    """
    return ReferenceHull(reference.hull_entries)


def _energy(entry: ReferenceEntry) -> float:
    energy = entry.formation_energy_per_atom
    if energy is None:  # callers have looked already
        raise ReferenceDataError("an entry without a formation energy", value=entry.entry_id)
    return energy
