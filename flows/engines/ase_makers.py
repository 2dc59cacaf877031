"""ASE makers: jobs that relax or compute a structure with an ASE calculator, through atomate2."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult, AseStructureTaskDoc, AseTaskDoc
from atomate2.ase.utils import AseRelaxer
from jobflow import job
from pymatgen.core import Structure

from flows.causes import BadGeometryError, IonicNotConvergedError
from flows.errors import EngineOptionsError


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


@dataclass
class PathMaker(CalculatorMaker):
    """Maker of an ASE calculator that is named by its import path."""

    path: str = ""
    calculator_kwargs: dict[str, Any] = field(default_factory=dict)

    def _get_calculator(self) -> Any:
        return class_at(self.path)(**self.calculator_kwargs)


def class_at(path: str) -> Any:
    """Return the class at «module:Class».

    Raises:
        EngineOptionsError: It does not import.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EngineOptionsError(
            "the calculator does not import",
            value=path,
            allowed="module:Class",
            cure=f"install its package or correct the path ({error})",
        ) from error


@dataclass
class GpawMaker(CalculatorMaker):
    """Maker of GPAW calculations; the log goes to `gpaw.txt` in the job's folder."""

    calculator_kwargs: dict[str, Any] = field(default_factory=dict)

    def _get_calculator(self) -> Any:
        from gpaw import GPAW, PW, FermiDirac

        settings = self.calculator_kwargs
        return GPAW(
            mode=PW(settings["ecut_ev"]),
            xc=settings["xc"],
            kpts={"density": settings["kpts_per_inverse_ang"], "gamma": True},
            occupations=FermiDirac(settings["smearing_ev"]),
            convergence={"energy": settings["convergence_ev"]},
            maxiter=settings["max_scf"],
            spinpol=settings["spinpol"],
            txt=str(job_folder() / "gpaw.txt"),
        )
