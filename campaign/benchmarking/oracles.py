"""Who knows the truth: a table of labels that were computed before, or a surrogate that is taken for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from campaign.benchmarking.pool_data import KnownPool, write_json
from campaign.storage.plain import plain


@dataclass(frozen=True)
class Answer:
    """What a label would find."""

    structure: dict[str, Any]
    """Structure at the end, pymatgen dictionary."""
    formation_energy_per_atom: float
    """On the scale of the reference's hull [eV/atom]."""


class Oracle(Protocol):
    """Answers for the label engine."""

    def answer(self, candidate: str, structure: Mapping[str, Any]) -> Answer | str:
        """Return what a label of a candidate would find, or why it would fail."""
        ...


@dataclass(frozen=True)
class TableOracle:
    """Looks the truth up."""

    pool: KnownPool

    def answer(self, candidate: str, structure: Mapping[str, Any]) -> Answer | str:
        """Return the energy that the file holds, for the crystal as it is."""
        energy = self.pool.truth.get(candidate)
        return "its truth is not known" if energy is None else Answer(dict(structure), energy)


@dataclass(frozen=True)
class SurrogateOracle:
    """Takes the surrogate's relaxation for the truth; what was relaxed once is kept for all campaigns."""

    surrogate: Any
    """See `models.surrogates.base.Surrogate`."""
    folder: Path
    """Where answers are kept, one file each."""
    max_steps: int = 300
    fmax_ev_per_ang: float = 0.05

    def answer(self, candidate: str, structure: Mapping[str, Any]) -> Answer | str:
        """Return structure and energy after a relaxation that keeps the symmetry."""
        file = self.folder / f"{candidate}.json"
        if file.is_file():
            found = orjson.loads(file.read_bytes())
        else:
            found = self._relaxed(structure)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, found)
        if found["error"] is not None:
            return str(found["error"])
        return Answer(found["structure"], found["formation_energy_per_atom"])

    def _relaxed(self, structure: Mapping[str, Any]) -> dict[str, Any]:
        import math

        from pymatgen.core import Structure

        relaxed = self.surrogate.relax(
            [Structure.from_dict(dict(structure))],
            fix_symmetry=True,
            max_steps=self.max_steps,
            fmax_ev_per_ang=self.fmax_ev_per_ang,
        )[0]
        energy = math.nan
        if relaxed.error is None:
            energy = float(
                self.surrogate.formation_energies([relaxed.structure], [relaxed.energy_per_atom])[0]
            )
        error = relaxed.error or (None if relaxed.converged else "its relaxation did not converge")
        if error is None and not math.isfinite(energy):
            error = "the surrogate gives no formation energy"
        if error is not None:
            return {"error": error}
        document = plain(relaxed.structure.as_dict())
        return {"error": None, "structure": document, "formation_energy_per_atom": energy}
