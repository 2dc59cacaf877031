"""What every engine does, and the ASE makers that engines with an ASE calculator share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult, AseStructureTaskDoc, AseTaskDoc
from atomate2.ase.utils import AseRelaxer
from jobflow import job
from pydantic import BaseModel, ConfigDict
from pymatgen.core import Structure

from flows.causes import BadGeometryError, IonicNotConvergedError
from flows.schemas import Fidelity


class EngineConfig(BaseModel):
    """Base of an engine's options: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class EngineCheck:
    """Whether an engine works on this machine."""

    ok: bool
    what: str
    """What was found."""
    cure: str = ""


class Engine(Protocol):
    """A code with its settings.

    `settings()` is what decides the meaning of a label: two engines with equal settings and version give the same
    energy for the same structure, whatever cores or commands they use.
    """

    Config: ClassVar[type[BaseModel]]
    fidelity: Fidelity

    def __init__(self, config: Any) -> None: ...

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy: cut-offs, densities, functional."""
        ...

    def version(self) -> str:
        """Return name and version of the code."""
        ...

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool) -> Any:
        """Return a jobflow Maker that relaxes a structure."""
        ...

    def static_maker(self) -> Any:
        """Return a jobflow Maker that computes one structure."""
        ...

    def check(self) -> EngineCheck:
        """Say whether the engine works here."""
        ...

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:
        """Return a rough cost of a relaxation with its static [core-seconds]."""
        ...


def job_folder() -> Path:
    """Return the folder of the job that runs in this process; the working directory outside of one."""
    return Path(os.environ.get("FLOWS_JOB_DIR") or ".").absolute()


@dataclass
class CalculatorMaker(AseRelaxMaker):
    """Relaxes, or with `steps=0` computes, a structure with an ASE calculator.

    Unlike its parent it writes nothing into the working directory, refuses what cannot be computed before the
    engine starts, and takes a relaxation that ran out of steps for a failure.
    """

    name: str = "relax"
    min_distance_ang: float = 0.5
    """Atoms closer than this are refused [Å]."""
    fmax_ev_per_ang: float = 0.05
    optimizer: str = "BFGS"
    optimizer_options: dict[str, Any] = field(default_factory=dict)

    @job(data=["trajectory"], output_schema=AseStructureTaskDoc)
    def make(self, mol_or_struct: Structure, prev_dir: str | None = None) -> AseStructureTaskDoc:
        """Compute a structure."""
        _refuse_impossible(mol_or_struct, self.min_distance_ang)
        result = self.run_ase(mol_or_struct, prev_dir=prev_dir)
        if self.steps > 1 and not result.converged:
            raise IonicNotConvergedError(f"forces above {self.fmax_ev_per_ang} eV/Å after {self.steps} steps")
        return AseTaskDoc.to_mol_or_struct_metadata_doc(
            type(self.calculator).__name__,
            result,
            self.steps,
            relax_cell=self.relax_cell,
            fix_symmetry=self.fix_symmetry,
            symprec=self.symprec if self.fix_symmetry else None,
            ionic_step_data=("energy", "forces", "stress"),
        )

    def run_ase(self, mol_or_struct: Structure, prev_dir: str | None = None) -> AseResult:  # noqa: ARG002
        """Run the calculator through atomate2's relaxer."""
        relaxer = AseRelaxer(
            self.calculator,
            relax_cell=self.relax_cell,
            fix_symmetry=self.fix_symmetry,
            symprec=self.symprec,
            optimizer=self.optimizer,
        )
        folder = job_folder()
        return relaxer.relax(
            mol_or_struct,
            fmax=self.fmax_ev_per_ang,
            steps=self.steps,
            final_atoms_object_file=str(folder / "final_atoms.xyz"),
            **self.optimizer_options,
        )


def _refuse_impossible(structure: Structure, least: float) -> None:
    """Raise for crystals on which engines crash or run for ever."""
    if not structure.is_valid(tol=least):
        raise BadGeometryError(f"atoms closer than {least} Å, or a cell without volume")
    if structure.volume / len(structure) > 500:
        raise BadGeometryError(f"{structure.volume / len(structure):.0f} Å³ per atom: no crystal")
