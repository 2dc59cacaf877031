"""Which known phases a campaign computes itself, so that e_above_hull is on the engine's scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from campaign.config import CampaignConfig
from campaign.errors import ReferenceDataError
from campaign.references.hull import ReferenceHull

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceEntry, ReferenceSet


def reference_phases(config: CampaignConfig, reference: ReferenceSet) -> list[ReferenceEntry]:
    """Return the phases whose labels put e_above_hull on the engine's scale: elements first.

    A hull source may hold energies only; then the crystal comes from the crystals of the same formula, the lowest.

    Raises:
        ReferenceDataError: A terminal element, or a phase that the hull needs, has no crystal to compute.
    """
    elements = config.chemistry.elements
    if config.labels.hull == "given":
        return []
    within = reference.within(elements)
    needed = ReferenceHull(within.hull_entries).vertices(elements)
    if config.labels.hull != "engine":
        needed = [entry for entry in needed if len(entry.elements) == 1]
    crystals = _lowest_crystals(within)
    missing = [entry.formula for entry in needed if entry.raw is None and entry.formula not in crystals]
    if missing:
        raise ReferenceDataError(
            f"hull phases have an energy but no crystal to compute with the engine ({', '.join(missing[:8])})",
            cure="add their crystals to reference.crystals"
            + ("" if config.labels.hull != "engine" else ", or set labels.hull: reference"),
        )
    return [entry if entry.raw is not None else crystals[entry.formula] for entry in needed]


def _lowest_crystals(reference: ReferenceSet) -> dict[str, ReferenceEntry]:
    """Return formula -> the crystal with the lowest known energy; one without is taken only for want of another."""

    def height(entry: ReferenceEntry) -> tuple[float, float, str]:
        above, energy = entry.e_above_hull, entry.formation_energy_per_atom
        return (math.inf if above is None else above, math.inf if energy is None else energy, entry.entry_id)

    found: dict[str, ReferenceEntry] = {}
    for entry in reference.with_structure:
        known = found.get(entry.formula)
        if known is None or height(entry) < height(known):
            found[entry.formula] = entry
    return found
