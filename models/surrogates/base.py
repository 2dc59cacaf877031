"""What a surrogate must offer, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.metrics import Metrics
    from models.surrogates.frames import Frame


@dataclass(frozen=True)
class Relaxed:
    """Outcome of the relaxation of one crystal. It is always there: a failure is told in `error`."""

    structure: Structure
    """The relaxed crystal, same species order as given; the crystal as given where `error` is set."""
    energy_per_atom: float
    """Energy of `structure` [eV/atom] on the surrogate's own scale; nan where `error` is set."""
    max_force: float
    """Largest force on an atom [eV/Å]; nan where `error` is set."""
    converged: bool
    """Whether forces, and stress where the cell was relaxed, fell below the threshold."""
    n_steps: int
    """Steps taken; every step costs one evaluation of the potential."""
    spacegroup_before: int
    """Space-group number as given, at the tolerance asked for; 0 where spglib finds none."""
    spacegroup_after: int
    """Space-group number of `structure`, at the same tolerance; 0 where spglib finds none."""
    error: str | None = None
    """Why the crystal could not be relaxed, in one line."""


class Surrogate(Protocol):
    """A universal potential. A crystal that it cannot treat gives nan or `Relaxed.error`, no exception."""

    Config: type[Any]
    """Frozen pydantic model of the options."""

    @property
    def version(self) -> str:
        """Name and version of the potential: two equal versions give equal energies."""
        ...

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        """Return energies (n_crystals,) [eV/atom] of crystals as they are; nan where it fails."""
        ...

    def relax(
        self,
        structures: Sequence[Structure],
        *,
        fix_symmetry: bool,
        max_steps: int,
        fmax_ev_per_ang: float,
        relax_cell: bool = True,
        symprec: float = 0.1,
    ) -> list[Relaxed]:
        """Relax crystals together; one outcome per crystal, in the order given."""
        ...

    def element_energy(self, symbol: str) -> float:
        """Return the energy [eV/atom] of the element's ground state on the surrogate's own scale."""
        ...

    def formation_energies(
        self, structures: Sequence[Structure], energies: Sequence[float] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return formation energies (n_crystals,) [eV/atom] against `element_energy`; nan where unknown.

        Args:
            structures: The crystals.
            energies: Their energies [eV/atom] on the surrogate's scale, where already known.
        """
        ...


@runtime_checkable
class TunableSurrogate(Protocol):
    """What a surrogate has beside the rest if it can learn from frames; `models.surrogates.chgnet` has it."""

    def fine_tune(self, frames: Sequence[Frame], replay: Sequence[Frame], seed: int) -> Metrics:
        """Learn frames in place, from the weights that it has.

        Energies that are not on its own scale are brought onto it first, by a shift that is fitted to these frames
        (`models.surrogates.frames.fit_shift`) and kept in its checkpoints.

        Args:
            frames: Of DFT.
            replay: Frames of the first training or like them, on its own scale, shown against forgetting.
            seed: Of everything random.

        Returns:
            Figures of the training.

        Raises:
            TrainingDataError: Nothing to learn from, or the training diverged.
        """
        ...

    def evaluate_frames(self, frames: Sequence[Frame]) -> Metrics:
        """Return mean absolute errors: `n`, `energy:mae` [eV/atom], `force:mae` [eV/Å], `stress:mae` [GPa].

        What no frame knows is left out.

        Raises:
            TrainingDataError: Energies are on another scale, and no shift to its own was ever fitted.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        ...

    @classmethod
    def load(cls, folder: Path, device: str | None = None) -> Self:
        """Read a checkpoint; `device` None: the one it was saved with."""
        ...
