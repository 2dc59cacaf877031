"""Formation energies and hull distances of labels, from the engine's own energies. Pure.

Every energy comes from one engine with one group of settings: formation energies are relative to the elements
computed so, and with `labels.hull: engine` the competing phases are too, so that errors of the method cancel. With
`labels.hull: materials_project` every energy is corrected as those of the Materials Project are, whose phases are the
competing ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from campaign.errors import ReferenceDataError
from campaign.references.entries import ReferenceEntry
from campaign.references.hull import ReferenceHull

if TYPE_CHECKING:
    from pymatgen.core import Composition


@dataclass(frozen=True)
class Judgement:
    """What a label's energy means."""

    formation_energy_per_atom: float | None
    """[eV/atom]; None where an element has no energy with these settings."""
    e_above_hull: float | None
    """[eV/atom]; negative below the reference hull."""


class GivenHull:
    """The hull of the reference data, for labels whose energies are formation energies on its scale.

    Args:
        hull: Of the reference.
    """

    def __init__(self, hull: ReferenceHull) -> None:
        self._hull = hull

    def judge(self, composition: Composition, result: Mapping[str, Any]) -> Judgement:
        """Return formation energy and hull distance of a label's result."""
        formation = float(result["energy_per_atom"])
        try:
            return Judgement(formation, self._hull.e_above_hull(composition, formation))
        except ReferenceDataError:
            return Judgement(formation, None)


class EngineHull:
    """Energies of elements, and of the phases that span the hull, on an engine's scale.

    Args:
        references: Finished labels of elements and phases: {formula, result: {energy_per_atom}}.
        phases: Further hull phases by their formation energies on the reference's scale, for
            `labels.hull: reference` and `materials_project`; empty for `engine`.
        corrected: Whether energies take the corrections of the Materials Project; those without any do not count.
    """

    def __init__(
        self,
        references: Iterable[Mapping[str, Any]],
        phases: Iterable[ReferenceEntry],
        *,
        corrected: bool = False,
    ) -> None:
        from pymatgen.core import Composition

        self._corrected = corrected
        known = [
            (Composition(one["formula"]), energy)
            for one in references
            if (energy := self._energy(one["result"])) is not None
        ]
        self.elements: dict[str, float] = {}
        for composition, energy in known:
            if len(composition.elements) == 1:
                symbol = composition.elements[0].symbol
                self.elements[symbol] = min(energy, self.elements.get(symbol, energy))
        entries = [
            ReferenceEntry(f"engine-{symbol}", symbol, 0.0, source="engine")
            for symbol in sorted(self.elements)
        ]
        for composition, energy in known:
            formation = self._formation(composition, energy)
            if len(composition.elements) > 1 and formation is not None:
                entries.append(
                    ReferenceEntry("engine-phase", composition.reduced_formula, formation, source="engine")
                )
        entries += [phase for phase in phases if len(phase.elements) > 1]
        self._hull = ReferenceHull(entries) if entries else None

    def judge(self, composition: Composition, result: Mapping[str, Any]) -> Judgement:
        """Return formation energy and hull distance of a label's result from the same engine and settings."""
        energy = self._energy(result)
        formation = None if energy is None else self._formation(composition, energy)
        if formation is None or self._hull is None:
            return Judgement(None, None)
        try:
            return Judgement(formation, self._hull.e_above_hull(composition, formation))
        except ReferenceDataError:
            return Judgement(formation, None)

    def _energy(self, result: Mapping[str, Any]) -> float | None:
        """Return the energy on this hull's scale [eV/atom]; None if the label has none there."""
        energy = float(result["energy_per_atom"])
        if not self._corrected:
            return energy
        correction = result.get("mp_correction_per_atom")
        return None if correction is None else energy + float(correction)

    def _formation(self, composition: Composition, energy_per_atom: float) -> float | None:
        fractions = composition.fractional_composition
        total = 0.0
        for element in fractions.elements:
            if element.symbol not in self.elements:
                return None
            total += fractions[element] * self.elements[element.symbol]
        return energy_per_atom - total
