"""What ASE calculators of codes that run as programs of their own share: crystals as codes take them, k-points."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, kpts2sizeandoffsets

from flows.causes import OutputParseError
from flows.cures import iterations
from flows.job_context import cures

PARSERS_RAISE = (
    RuntimeError, ValueError, KeyError, IndexError, AssertionError, TypeError, StopIteration, NameError,
)  # fmt: skip
"""What ASE's readers raise where lines or numbers are missing."""
MOMENT = 1.0
"""Initial moment of every atom in a spin-polarised calculation whose structure has none [µB]."""


class CodeCalculator(Calculator):
    """A calculator whose k-points are chosen for the first geometry and kept while it relaxes.

    Args:
        settings: What the engine's `settings` gives.
        command: Launch line of the code.
        max_scf: Most electronic iterations at one geometry, in a try without cures.
        folder: Absolute folder of its files.
    """

    # shortened for an instance without stress, so no ClassVar
    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, settings: Mapping[str, Any], command: str, max_scf: int, folder: Path) -> None:
        super().__init__()
        self._settings = dict(settings)
        self._command = command
        self._max_scf = iterations(max_scf, cures())
        self._folder = folder
        self._kpts: tuple[int, int, int] | None = None

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute all properties of a geometry at once, as each run begins anew; the parameters are ASE's."""
        super().calculate(atoms, properties, system_changes)
        bare = bare_atoms(self.atoms, spins=bool(self._settings.get("spinpol")))
        if self._kpts is None:
            self._kpts = kpts_for(bare, self._settings["kpts_per_inverse_ang"])
        self.results.update(self._computed(bare, self._kpts))

    @property
    def _wants_stress(self) -> bool:
        return "stress" in self.implemented_properties

    @abstractmethod
    def close(self) -> None:
        """End what runs, and remove large files that only the next geometry would have used."""

    @abstractmethod
    def _computed(self, atoms: Atoms, kpts: tuple[int, int, int]) -> dict[str, Any]:
        """Return the results for a geometry, in ASE's units."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Take whatever a parser makes of torn results for what it is.

    Raises:
        OutputParseError: The results are not all there.
    """
    try:
        yield
    except PARSERS_RAISE as error:
        raise OutputParseError(f"{path.name} cannot be read ({type(error).__name__}: {error})") from error


def kpts_for(atoms: Atoms, density: float) -> tuple[int, int, int]:
    """Return the numbers of Γ-centred k-points along the reciprocal vectors [density: points per Å⁻¹, with 2π]."""
    size, _ = kpts2sizeandoffsets(density=density, gamma=True, atoms=atoms)
    return int(size[0]), int(size[1]), int(size[2])


def bare_atoms(atoms: Atoms, *, spins: bool) -> Atoms:
    """Return atoms without constraints, in a right-handed cell, with moments if spins count.

    Codes refuse a left-handed cell. The one spanned by the opposite vectors is right-handed and the same lattice, so
    forces and stress stay what they are.
    """
    cell = np.array(atoms.cell)
    if np.linalg.det(cell) < 0:
        cell = -cell
    bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=cell, pbc=True)
    if spins:
        moments = atoms.get_initial_magnetic_moments()
        bare.set_initial_magnetic_moments(moments if moments.any() else np.full(len(atoms), MOMENT))
    return bare
