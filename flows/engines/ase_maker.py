"""The jobflow maker that engines with an ASE calculator share, on atomate2's relaxer."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseObject, AseResult, AseStructureTaskDoc, AseTaskDoc
from atomate2.ase.utils import OPTIMIZERS, AseRelaxer
from emmet.core.tasks import TaskState
from jobflow import job
from pymatgen.core import Structure

from flows.causes import BadGeometryError, IonicNotConvergedError, OutputParseError
from flows.cures import STEPS, Cure
from flows.job_context import cures, job_folder, note_geometry
from flows.job_files import LAST_GEOMETRY, write_json
from flows.registry import ENGINES, build
from flows.schemas import Calculation
from flows.trajectory import trajectory_document

LEAST_DISTANCE_ANG = 0.5
"""Atoms, or an atom and its image, closer than this are no crystal [Å]; H–H in H₂ is 0.74."""
LEAST_VOLUME_ANG3 = 1.5
"""Less volume per atom is no crystal [Å³]; the densest at ambient pressure, diamond, has 5.7."""
MOST_VOLUME_ANG3 = 500.0
"""More volume per atom is no crystal, and plane waves fill it at great cost [Å³]."""
SAVE_PERIOD_S = 5.0
"""Least time between two savings of the geometry [s]."""
CAREFUL_OPTIMIZER = "FIRE"
"""What `Cure.OTHER_OPTIMIZER` relaxes with: it follows forces alone, so a bad guess of curvatures cannot mislead it."""


@dataclass
class CalculatorMaker(AseRelaxMaker):
    """Relaxes, or with `steps=0` computes, a structure with an engine's ASE calculator.

    Unlike its parent it writes nothing into the working directory and nothing to standard output, refuses what
    cannot be computed before the engine starts, and takes a relaxation that ran out of steps for a failure. After
    any failure, or the end of the worker, the next try in the same folder goes on from the last geometry left there.
    """

    name: str = "relax"
    engine: str = ""
    """Registered name or import path of the engine."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    fmax_ev_per_ang: float = 0.05
    """Force limit [eV/Å], on the atoms and on the cell as ASE's `FrechetCellFilter` scales it."""
    optimizer: str = "BFGS"
    stress: bool = True
    """Whether the stress is computed; a relaxation of the cell needs it."""

    @job(data=["trajectory"], output_schema=AseStructureTaskDoc)
    def make(self, mol_or_struct: Structure, prev_dir: str | Path | None = None) -> AseStructureTaskDoc:
        """Compute a structure.

        Raises:
            BadGeometryError: No engine could compute this.
            IonicNotConvergedError: The steps are used up and forces are still large.
        """
        refuse_impossible(mol_or_struct)
        try:
            result = self.run_ase(mol_or_struct, prev_dir=prev_dir)
        finally:
            _close(getattr(self, "_calculator", None))
        document = AseTaskDoc.to_mol_or_struct_metadata_doc(
            type(self.calculator).__name__,
            result,
            self.steps,
            relax_cell=self.relax_cell,
            fix_symmetry=self.fix_symmetry,
            symprec=self.symprec if self.fix_symmetry else None,
            ionic_step_data=("energy",),
            store_trajectory=self.store_trajectory,
            tags=self.tags,
        )
        if len(result.trajectory.energy) < 2:  # its only geometry stands in the document
            return document
        # in a form of our own: thinned, and with stresses in the sign and unit of labels
        return document.model_copy(update={"objects": {AseObject.TRAJECTORY: _trajectory(result.trajectory)}})

    def run_ase(self, mol_or_struct: Structure, prev_dir: str | Path | None = None) -> AseResult:  # noqa: ARG002
        """Run the calculator through atomate2's relaxer."""
        folder = job_folder()
        # pymatgen cannot carry the constraint that keeps the symmetry, and need not
        warnings.filterwarnings("ignore", message="Only FixAtoms", category=UserWarning)
        relaxing, progress = self.steps > 1, _Progress(folder)
        steps = self.steps * (STEPS if relaxing and Cure.MORE_STEPS in cures() else 1)
        optimizer = CAREFUL_OPTIMIZER if Cure.OTHER_OPTIMIZER in cures() else self.optimizer
        relaxer = AseRelaxer(
            self.calculator,
            relax_cell=self.relax_cell,
            fix_symmetry=self.fix_symmetry and relaxing,
            symprec=self.symprec,
            optimizer=progress.optimizer(optimizer),
        )
        try:
            result = relaxer.relax(
                (_left_geometry(folder) if relaxing else None) or mol_or_struct,
                fmax=self.fmax_ev_per_ang,
                steps=steps,
                # verbose keeps the relaxer from exchanging sys.stdout, which is common to all threads
                verbose=True,
                # atomate2 numbers the jobs of a flow: "relax 3/12"
                logfile=str(folder / f"{self.name.split()[0]}.log"),
                final_atoms_object_file=None,
                use_emmet_models=True,
            )
            if not result.converged:
                raise IonicNotConvergedError(
                    f"forces above {self.fmax_ev_per_ang} eV/Å after {steps} steps; the next try goes on from there"
                )
        except Exception:
            progress.save()
            raise
        return result.model_copy(update={"dir_name": str(folder)})

    def _get_calculator(self) -> Any:
        calculator = build(self.engine, ENGINES, "engine", self.engine_options).calculator()
        if not self.stress:
            known = calculator.implemented_properties
            calculator.implemented_properties = [one for one in known if one != "stress"]
        return calculator


def refuse_impossible(structure: Structure) -> None:
    """Raise for crystals on which engines crash or run for ever.

    Raises:
        BadGeometryError: Atoms on top of one another, a flat or an empty cell.
    """
    per_atom = structure.volume / len(structure)
    if not LEAST_VOLUME_ANG3 <= per_atom <= MOST_VOLUME_ANG3:
        raise BadGeometryError(
            f"{per_atom:.3g} Å³ per atom is no crystal ({LEAST_VOLUME_ANG3} to {MOST_VOLUME_ANG3} Å³ are)"
        )
    neighbours = structure.get_neighbor_list(LEAST_DISTANCE_ANG)[3]
    if len(neighbours):
        raise BadGeometryError(f"atoms {min(neighbours):.3f} Å apart, less than {LEAST_DISTANCE_ANG} Å")


def plain_structure(structure: Structure) -> Structure:
    """Return lattice, elements and coordinates only: what calculators attach would not survive storing."""
    return Structure(structure.lattice, [site.specie.symbol for site in structure], structure.frac_coords)


def read_task(output: AseStructureTaskDoc) -> Calculation:
    """Read a calculation from an atomate2 ASE document.

    Its stress is in kbar with the sign of the Materials Project (positive when compressed).

    Raises:
        OutputParseError: Energy or structure are missing or no numbers.
    """
    try:
        final, energy = output.output, float(output.output.energy)
        forces = None if final.forces is None else np.asarray(final.forces, dtype=float)
        stress = None if final.stress is None else np.asarray(final.stress, dtype=float) / -10.0
        structure = plain_structure(output.structure)
    except (AttributeError, TypeError, ValueError) as error:
        raise OutputParseError(f"a calculation's output cannot be read: {error}") from error
    if not np.isfinite(energy) or (forces is not None and not np.isfinite(forces).all()):
        raise OutputParseError(f"energy {energy} eV or forces are no numbers")
    return Calculation(
        structure=structure.as_dict(),
        energy=energy,
        max_force=None if forces is None else float(np.linalg.norm(forces, axis=1).max()),
        stress_gpa=None if stress is None else stress.tolist(),
        converged=output.state == TaskState.SUCCESS,
        n_ionic_steps=max(0, int(final.n_steps or 1) - 1),
        wall_seconds=float(final.elapsed_time or 0.0),
    )


def _trajectory(found: Any) -> dict[str, Any]:
    """Return emmet's trajectory as a document of `flows.trajectory`."""
    return trajectory_document(
        found.elements,
        found.lattice,
        found.cart_coords,
        found.energy,
        forces=found.forces,
        stresses_kbar=found.stress,
    )


class _Progress:
    """Keeps the geometry of a relaxation as it goes: what a failed try or a lost worker had reached is not lost."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LAST_GEOMETRY
        self._first = True
        self._latest: Structure | None = None
        self._saved = time.monotonic()

    def optimizer(self, name: str) -> Callable[..., Any]:
        """Return a way to make an optimiser that tells of its steps."""

        def made(atoms: Any, **options: Any) -> Any:
            started = OPTIMIZERS[name](atoms, **options)
            # within a filter that relaxes the cell too lies the crystal
            started.attach(self._note, 1, getattr(atoms, "atoms", atoms))
            return started

        return made

    def _note(self, atoms: Any) -> None:
        if self._first:  # where this try began: nothing new
            self._first = False
            return
        note_geometry()
        coords = atoms.get_scaled_positions(wrap=False)
        self._latest = Structure(atoms.cell[:], atoms.get_chemical_symbols(), coords)
        if time.monotonic() - self._saved >= SAVE_PERIOD_S:
            self.save()

    def save(self) -> None:
        """Save the last geometry that was reached; nothing if there is none but the first."""
        if self._latest is not None:
            write_json(self._path, self._latest.as_dict())
            self._saved = time.monotonic()


def _close(calculator: Any) -> None:
    """Have a calculator end what it runs and remove what it kept for a next geometry, if it does such things."""
    close = getattr(calculator, "close", None)
    if callable(close):
        close()


def _left_geometry(folder: Path) -> Structure | None:
    """Return what an earlier try of this job left; a torn file counts as none."""
    try:
        return Structure.from_dict(json.loads((folder / LAST_GEOMETRY).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None
