"""A world whose energies follow a law that a head can learn, so that labels which break it stand out.

The formation energy of a binary compound is the mean of a number per element, give or take `NOISE_EV_PER_ATOM` that
depends on its volume. The engine can be told to poison the labels of one round.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from components import ElementHead, face_centred, note_execution
from pymatgen.core import Lattice, Structure
from test_driver import small_campaign

AFFINITY = {"Al": -0.1, "Ca": -0.5, "Ge": -1.5, "Mg": -0.2, "Si": -1.0, "Sr": -0.8}
"""Part of each element in the formation energy of a compound [eV/atom]."""

NOISE_EV_PER_ATOM = 0.02
REFERENCE_ERROR_EV_PER_ATOM = 0.06
"""Of the compounds of the reference, to both sides: labels have something to teach."""
ROUND_OF = 8
"""Labels in a round."""
POISONED = 2
"""Round whose labels are poisoned."""
SHIFT_EV_PER_ATOM = 0.5


def law(symbols: list[str]) -> float:
    """Return the formation energy [eV/atom], without noise."""
    return 0.0 if len(set(symbols)) == 1 else sum(AFFINITY[one] for one in symbols) / len(symbols)


class Alloying(Calculator):
    """Engine of this world; writes down each execution, and from their number knows the round.

    Args:
        log: File that gets a line per execution; one beside it remembers energies.
        poison: `none`, `high` and `low` (shifted by a constant), `swapped` (each crystal gets the energy of the one
            before it in its round).
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE wants it

    def __init__(self, log: str, poison: str = "none") -> None:
        super().__init__()
        note_execution(log)
        self._memory, self._poison = Path(log).with_suffix(".energies"), poison
        self._number = len(Path(log).read_text().splitlines()) - 1

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        symbols, volume = atoms.get_chemical_symbols(), atoms.get_volume() / len(atoms)
        energy = law(symbols)
        if len(set(symbols)) > 1:
            energy += NOISE_EV_PER_ATOM * math.sin(40 * volume)
        known = json.loads(self._memory.read_text()) if self._memory.exists() else {}
        self._memory.write_text(json.dumps({**known, str(self._number): energy}))
        place = self._number - len(AFFINITY)  # the elements come first
        if place // ROUND_OF == POISONED:
            if self._poison == "swapped":
                energy = known[str(self._number - 1)]
            else:
                energy += SHIFT_EV_PER_ATOM * {"none": 0, "high": 1, "low": -1}[self._poison]
        self.results = {
            "energy": energy * len(atoms),
            "forces": np.zeros((len(atoms), 3)),
            "stress": np.zeros(6),
        }


class AlloyHead(ElementHead):
    """Knows that elements have no formation energy, and learns the law of their compounds."""

    @staticmethod
    def _fractions(structure: Structure) -> np.ndarray:
        row = ElementHead._fractions(structure)
        return row if np.count_nonzero(row) > 1 else np.zeros_like(row)


def alloy_reference(folder: Path) -> Path:
    """Write the elements and one compound of each pair of them."""
    symbols = sorted(AFFINITY)
    crystals = [Structure(face_centred(4.2), [one], [[0, 0, 0]]) for one in symbols]
    crystals += [
        Structure(Lattice.cubic(3.7), [one, other], [[0, 0, 0], [0.5] * 3])
        for place, one in enumerate(symbols)
        for other in symbols[place + 1 :]
    ]
    entries = [
        {
            "material_id": str(number),
            "structure": crystal.as_dict(),
            "formation_energy_per_atom": law([site.specie.symbol for site in crystal])
            + (len(crystal) > 1) * REFERENCE_ERROR_EV_PER_ATOM * math.sin(5 * number),
        }
        for number, crystal in enumerate(crystals)
    ]
    file = folder / "alloys.json"
    file.write_text(json.dumps(entries))
    return file


def alloy_campaign(folder: Path, poison: str = "none", **blocks: Any) -> Path:
    """Write a campaign in this world."""
    alloy_reference(folder)
    (folder / "site.yaml").write_text("pools: {gpu: {workers: 1}, cpu: {workers: 1}, dft: {workers: 1}}\n")
    options = {"log": str(folder / "executions.jsonl"), "poison": poison}
    acquisition = {
        "candidates_per_round": 24,
        "labels_per_round": ROUND_OF,
        "lookahead_rounds": 0,
        "policy": "random",
    }
    given = {
        "chemistry": {"elements": sorted(AFFINITY), "n_elements": 2, "max_atoms": 4},
        "reference": {"crystals": ["alloys.json"]},
        "acquisition": acquisition | blocks.pop("acquisition", {}),
        "labels": {
            "engine_options": {"calculator": "alloys:Alloying", "calculator_options": options},
        },
        "learn": {"heads": [{"kind": "alloys:AlloyHead"}], "holdout_fraction": 0.3} | blocks.pop("learn", {}),
        "batching": {"sample": 24, "screen": 24},
        "stop": {"rounds": 4},
        "site": "site.yaml",
    }
    return small_campaign(folder, **given | blocks)
