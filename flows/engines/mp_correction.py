"""Corrections of the Materials Project for a VASP calculation with its settings, by pymatgen.

GGA and GGA+U energies of the Materials Project are comparable with one another only after the corrections of Wang et
al., Scientific Reports 11, 15496 (2021) for anions and for elements with a U; so are others only with them, and only
where settings and POTCARs are the same.
"""

from __future__ import annotations

import warnings

from emmet.core.tasks import TaskDoc
from pymatgen.analysis.compatibility import CompatibilityError, MaterialsProject2020Compatibility
from pymatgen.entries.computed_entries import ComputedStructureEntry

from flows.engines.ase_maker import plain_structure


def mp_correction(task: TaskDoc) -> float | None:
    """Return what is to be added to a calculation's energy [eV per cell].

    Returns:
        None where the Materials Project would not take the calculation: another functional, other POTCARs, or no U
        where it has one.
    """
    if task.entry is None or task.structure is None:
        return None
    entry = ComputedStructureEntry(
        plain_structure(task.structure),
        float(task.entry.uncorrected_energy),
        parameters=dict(task.entry.parameters),
    )
    with warnings.catch_warnings():
        # that oxidation states cannot be guessed, and what is done then
        warnings.simplefilter("ignore")
        try:
            adjustments = MaterialsProject2020Compatibility().get_adjustments(entry)
        except (CompatibilityError, ValueError, KeyError):
            return None
    return float(sum(one.value for one in adjustments))
