"""The jobflow maker of the engine `gpaw` for electronic states: energies with and without spins, bands, meshes."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import kpts2sizeandoffsets
from jobflow import Maker, job
from pymatgen.core import Structure

from flows.engines.ase_maker import plain_structure, refuse_impossible
from flows.engines.gpaw_calculator import FixedCutoffGpaw, threads_held
from flows.job_context import job_folder
from flows.registry import ENGINES, build
from flows.schemas import Calculation, ElectronicCalculation, States

DENSITY = "density.gpw"
"""Where a calculation leaves its density, without wave functions."""
EMPTY_BANDS_PER_ATOM = 2
"""Empty bands that are converged, beside `EMPTY_BANDS`: enough for a few eV above the gap."""
EMPTY_BANDS = 4
MORE_BANDS = 0.2
"""Share of further bands that are not converged, for the eigensolver's sake."""


@dataclass
class GpawElectronicMaker(Maker):
    """Computes energies from magnetic starts, and the states in their densities."""

    name: str = "electronic"
    engine: str = "gpaw"
    """Registered name or import path of the engine."""
    engine_options: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)
    """Element -> moment of its atoms to begin with [µB]; without any, spins are not polarised."""
    mesh_per_inverse_ang: float = 8.0

    @job(data=["states"], output_schema=ElectronicCalculation)
    def make(
        self,
        structure: Structure,
        path: Sequence[Sequence[float]] | None = None,
        static: ElectronicCalculation | None = None,
    ) -> ElectronicCalculation:
        """Compute the energy of a structure, or with a path the states in the density of such a calculation.

        A density that is gone, because its folder is another machine's, is computed again.

        Raises:
            BadGeometryError: No engine could compute this.
        """
        refuse_impossible(structure)
        begin = time.monotonic()
        gpaw = _left_density(static) if static else None
        if gpaw is None or static is None:
            gpaw, static = self._settled(structure)
        states = None if path is None else self._states(gpaw, structure, np.array(path, dtype=np.float64))
        calculation = static.calculation.model_copy(update={"wall_seconds": time.monotonic() - begin})
        return static.model_copy(update={"calculation": calculation} | (states or {}))

    def _settled(self, structure: Structure) -> tuple[Any, ElectronicCalculation]:
        """Bring the electrons to self-consistency; return GPAW and what it found."""
        engine = build(self.engine, ENGINES, "engine", self.engine_options)
        settings = {**engine.settings(), "spinpol": bool(self.moments)}
        calculator = FixedCutoffGpaw(settings, max_scf=engine.config.max_scf, folder=job_folder())
        atoms = _atoms(structure)
        if self.moments:
            atoms.set_initial_magnetic_moments([self.moments[symbol] for symbol in atoms.symbols])
        calculator.calculate(atoms, ["energy", "forces"])
        gpaw = calculator.gpaw
        gpaw.write(job_folder() / DENSITY)
        size, _ = kpts2sizeandoffsets(density=settings["kpts_per_inverse_ang"], gamma=True, atoms=atoms)
        return gpaw, ElectronicCalculation(
            calculation=Calculation(
                structure=plain_structure(structure).as_dict(),
                energy=calculator.results["energy"],
                max_force=float(np.linalg.norm(calculator.results["forces"], axis=1).max()),
                stress_gpa=None,
                converged=True,
                n_ionic_steps=0,
                wall_seconds=0.0,
            ),
            total_moment_ub=float(gpaw.get_magnetic_moment()) if self.moments else 0.0,
            n_electrons=float(gpaw.get_number_of_electrons()),
            fermi_level_ev=float(gpaw.get_fermi_level()),
            k_mesh=[int(number) for number in size],
            folder=str(job_folder()),
        )

    def _states(self, gpaw: Any, structure: Structure, path: np.ndarray) -> dict[str, Any]:
        """Return states in a density, and the Fermi level of the mesh."""
        moment = float(gpaw.get_magnetic_moment()) if self.moments else 0.0
        filled = math.ceil((gpaw.get_number_of_electrons() + abs(moment)) / 2)
        kept = filled + EMPTY_BANDS + EMPTY_BANDS_PER_ATOM * len(structure)
        settings = build(self.engine, ENGINES, "engine", self.engine_options).settings()
        size, _ = kpts2sizeandoffsets(density=self.mesh_per_inverse_ang, gamma=True, atoms=_atoms(structure))
        common = {
            "nbands": math.ceil(kept * (1.0 + MORE_BANDS)),
            "convergence": {"bands": kept, "eigenstates": settings["converge_eigenstates_ev2"]},
        }
        with threads_held():
            on_mesh = gpaw.fixed_density(
                **common,
                kpts={"size": tuple(int(number) for number in size), "gamma": True},
                update_fermi_level=True,
                txt=str(job_folder() / "gpaw-mesh.txt"),
            )
            on_path = gpaw.fixed_density(
                **common,
                kpts=path,
                symmetry={"point_group": False, "time_reversal": False},
                txt=str(job_folder() / "gpaw-path.txt"),
            )
            states = States(
                mesh=[int(number) for number in size],
                mesh_weights=on_mesh.get_k_point_weights().tolist(),
                mesh_energies_ev=_energies(on_mesh, kept),
                path_energies_ev=_energies(on_path, kept),
            )
            return {"states": states, "fermi_level_ev": float(on_mesh.get_fermi_level())}


def _atoms(structure: Structure) -> Atoms:
    plain = plain_structure(structure)
    return Atoms(
        [site.specie.symbol for site in plain],
        cell=plain.lattice.matrix,
        scaled_positions=plain.frac_coords,
        pbc=True,
    )


def _energies(gpaw: Any, kept: int) -> list[list[list[float]]]:
    """Return the energies [eV] (n_spins, n_k, kept) of a calculation."""
    return [
        [
            np.sort(gpaw.get_eigenvalues(kpt=k, spin=spin))[:kept].tolist()
            for k in range(len(gpaw.get_ibz_k_points()))
        ]
        for spin in range(gpaw.get_number_of_spins())
    ]


def _left_density(static: ElectronicCalculation) -> Any:
    """Return GPAW with the density that a calculation left, None where it cannot be read."""
    from gpaw import GPAW

    path = Path(static.folder) / DENSITY
    try:
        return GPAW(path, txt=str(job_folder() / "gpaw.txt")) if path.exists() else None
    except Exception:  # torn, or of another version: it is computed again
        return None
