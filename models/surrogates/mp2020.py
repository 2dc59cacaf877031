"""Corrections of the Materials Project for energies of its own settings that a potential foretells uncorrected.

Potentials that were trained on raw PBE(+U) energies of the Materials Project give such energies; formation energies
compare with its hull only after the corrections of Wang et al., Scientific Reports 11, 15496 (2021), as pymatgen has
them. Which calculation it would have been is told by the composition alone: the Materials Project puts a U on eight
transition metals where the most electronegative element is oxygen or fluorine.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

HUBBARD_EV = {
    "Co": 3.32, "Cr": 3.7, "Fe": 5.3, "Mn": 3.9, "Mo": 4.38, "Ni": 6.2, "V": 3.25, "W": 6.2,
}  # fmt: skip
"""U of the Materials Project's calculations of oxides and fluorides [eV] (pymatgen's MPRelaxSet)."""


def corrections(structures: Sequence[Structure]) -> np.ndarray:
    """Return what is to be added to uncorrected energies (n_crystals,) [eV/atom]; nan where pymatgen refuses."""
    return np.array([_correction(one) / len(one) for one in structures], dtype=float)


def hubbards_of(structure: Structure) -> dict[str, float]:
    """Return element -> U [eV] that the Materials Project would compute a crystal with; {} for plain PBE."""
    symbols = {element.symbol: element for element in structure.composition.elements}
    anion = max(symbols.values(), key=lambda element: (element.X, element.Z)).symbol
    wanted = HUBBARD_EV.keys() & symbols.keys() if anion in ("O", "F") else set()
    return {symbol: HUBBARD_EV.get(symbol, 0.0) for symbol in sorted(symbols)} if wanted else {}


def _correction(structure: Structure) -> float:
    from pymatgen.analysis.compatibility import CompatibilityError
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    hubbards = hubbards_of(structure)
    parameters = {"run_type": "GGA+U" if hubbards else "GGA", "hubbards": hubbards, "software": "vasp"}
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that oxidation states cannot be guessed, and what is done then
        try:
            adjustments = _scheme().get_adjustments(entry)
        except (CompatibilityError, ValueError, KeyError):
            return float("nan")
    return float(sum(one.value for one in adjustments))


@functools.cache
def _scheme() -> Any:
    from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)
