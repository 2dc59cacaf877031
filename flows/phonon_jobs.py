"""The jobs of the label flow `phonon` that no engine runs: its cells, and frequencies from forces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jobflow import CURRENT_JOB, job
from phonopy import Phonopy
from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath
from pymatgen.core import Structure
from pymatgen.io.phonopy import get_phonopy_structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from flows.causes import BadGeometryError, OutputParseError
from flows.engines.ase_maker import plain_structure
from flows.schemas import PhononSummary
from flows.supercells import q_mesh, supercell_matrix

CODE = "ase"
"""Whose units atomate2 takes for the forces: eV/Å, as every engine here gives them."""

BAND_POINTS = 51
"""Points of a segment of the band path."""

TEMPERATURES_K = (0.0, 1000.0, 50.0)
"""First, last and step of the thermal properties [K]."""

KJ_PER_MOL_IN_EV = 1.0 / 96.48533212331
"""1 kJ/mol [eV] (CODATA 2018)."""

LARGE = ("band_structure", "dos", "thermal", "force_constants")
"""What goes to the additional store `data`."""

Array = npt.NDArray[np.float64]


@job
def unit_and_supercell(relaxed: Structure, options: dict[str, Any]) -> dict[str, Any]:
    """Return the conventional cell of a relaxed structure as `unit`, and its `supercell_matrix`.

    Raises:
        BadGeometryError: No symmetry is found, as where atoms lie on top of one another.
        LabelInputError: The supercell would have too many atoms.
    """
    plain = plain_structure(relaxed)
    try:
        unit = SpacegroupAnalyzer(plain, symprec=options["symprec_ang"]).get_conventional_standard_structure()
    except (TypeError, ValueError, AttributeError) as error:
        raise BadGeometryError(f"no symmetry is found in the relaxed structure ({error})") from error
    matrix = supercell_matrix(
        np.array(unit.lattice.matrix), len(unit), options["min_supercell_ang"], options["max_supercell_atoms"]
    )
    return {"unit": unit, "supercell_matrix": matrix}


@job(name="frequencies", data=list(LARGE))
def frequencies_job(
    unit: Structure, supercell: list[list[int]], displaced: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Return frequencies from the forces on displaced supercells.

    Args:
        unit: Conventional cell.
        supercell: (3, 3) whole numbers.
        displaced: `forces`, one (n_atoms, 3) [eV/Å] for each displaced supercell, in phonopy's order.
        options: Of `flows.phonon.PhononConfig`.

    Returns:
        `summary` (a `PhononSummary`), and in the store `data` what `LARGE` names.

    Raises:
        OutputParseError: The forces do not fit the supercells, or are no numbers.
    """
    made = phonons_of(
        unit,
        np.array(supercell, dtype=np.int64),
        [np.array(one, dtype=np.float64) for one in displaced["forces"]],
        options,
    )
    summary = made.summary(options["imaginary_tolerance_thz"], str(CURRENT_JOB.job.uuid))
    return {"summary": summary.model_dump(mode="json"), **made.large()}


@dataclass(frozen=True)
class Phonons:
    """Frequencies that phonopy has computed."""

    phonon: Phonopy
    mesh: list[int]
    n_displacements: int = 0
    n_responses: int = 0

    def frequencies(self) -> Array:
        """Return all frequencies (n,) [THz] of the mesh and the band path; imaginary ones are negative."""
        bands = self.phonon.get_band_structure_dict()["frequencies"]
        return np.concatenate(
            [self.phonon.get_mesh_dict()["frequencies"].ravel(), *(np.ravel(some) for some in bands)]
        )

    def summary(self, tolerance_thz: float, data_uuid: str) -> PhononSummary:
        """Return what the label says."""
        every = self.frequencies()
        thermal = self.phonon.get_thermal_properties_dict()
        free = np.asarray(thermal["free_energy"], dtype=float) * KJ_PER_MOL_IN_EV
        n_atoms = len(self.phonon.primitive)
        at_300 = int(np.argmin(np.abs(np.asarray(thermal["temperatures"]) - 300.0)))
        return PhononSummary(
            min_frequency_thz=float(every.min()),
            max_frequency_thz=float(every.max()),
            imaginary_tolerance_thz=tolerance_thz,
            dynamically_stable=bool(every.min() >= -tolerance_thz),
            zero_point_energy_per_atom=float(free[0]) / n_atoms,
            free_energy_300k_per_atom=float(free[at_300]) / n_atoms,
            supercell_matrix=np.asarray(self.phonon.supercell_matrix).astype(int).tolist(),
            n_supercell_atoms=len(self.phonon.supercell),
            n_displacements=self.n_displacements,
            n_responses=self.n_responses,
            q_mesh=self.mesh,
            data_uuid=data_uuid,
        )

    def large(self) -> dict[str, Any]:
        """Return bands, densities of states, thermal properties and force constants as plain lists."""
        phonon = self.phonon
        bands = phonon.get_band_structure_dict()
        dos = phonon.get_total_dos_dict()
        thermal = phonon.get_thermal_properties_dict()
        return {
            "band_structure": {
                "q_points": [np.asarray(part).tolist() for part in bands["qpoints"]],
                "distances_inverse_ang": [np.asarray(part).tolist() for part in bands["distances"]],
                "frequencies_thz": [np.asarray(part).tolist() for part in bands["frequencies"]],
                "labels": list(phonon.band_structure.labels),
                "connected": [bool(one) for one in phonon.band_structure.path_connections],
            },
            "dos": {
                "frequencies_thz": np.asarray(dos["frequency_points"]).tolist(),
                "states_per_thz": np.asarray(dos["total_dos"]).tolist(),
            },
            "thermal": {
                "temperatures_k": np.asarray(thermal["temperatures"]).tolist(),
                "free_energy_kj_per_mol": np.asarray(thermal["free_energy"]).tolist(),
                "entropy_j_per_k_mol": np.asarray(thermal["entropy"]).tolist(),
                "heat_capacity_j_per_k_mol": np.asarray(thermal["heat_capacity"]).tolist(),
            },
            "force_constants": {
                "ev_per_ang2": np.asarray(phonon.force_constants).tolist(),
                "primitive": plain_of(phonon.primitive).as_dict(),
                "supercell": plain_of(phonon.supercell).as_dict(),
            },
        }


def phonons_of(
    unit: Structure, supercell: npt.NDArray[np.int64], forces: list[Array], options: dict[str, Any]
) -> Phonons:
    """Compute frequencies from forces on displaced supercells.

    Raises:
        OutputParseError: The forces do not fit the supercells, or are no numbers.
    """
    phonon = prepared(unit, supercell, options)
    phonon.generate_displacements(distance=options["displacement_ang"])
    wanted = (len(phonon.displacements), len(phonon.supercell), 3)
    found = np.array(forces) if len({one.shape for one in forces}) == 1 else np.zeros(0)
    if found.shape != wanted or not np.isfinite(found).all():
        raise OutputParseError(f"forces of shape {found.shape}, {wanted} wanted, or some are no numbers")
    phonon.forces = found
    phonon.produce_force_constants()
    return frequencies_of(phonon, options, n_displacements=wanted[0])


def prepared(unit: Structure, supercell: npt.NDArray[np.int64], options: dict[str, Any]) -> Phonopy:
    """Return phonopy's view of a conventional cell and its supercell, with the primitive cell that it finds."""
    return Phonopy(
        get_phonopy_structure(unit), supercell, primitive_matrix="auto", symprec=options["symprec_ang"]
    )


def frequencies_of(
    phonon: Phonopy, options: dict[str, Any], *, n_displacements: int = 0, n_responses: int = 0
) -> Phonons:
    """Compute frequencies of force constants, on which the acoustic sum rule is imposed."""
    phonon.symmetrize_force_constants()
    cell = np.array(phonon.primitive.cell)
    mesh = q_mesh(2.0 * np.pi * np.linalg.inv(cell).T, options["q_points_per_inverse_ang"])
    phonon.run_mesh(mesh, is_gamma_center=True)
    phonon.run_total_dos()
    first, last, step = TEMPERATURES_K
    phonon.run_thermal_properties(t_min=first, t_max=last, t_step=step)
    bands, labels, connected = get_band_qpoints_by_seekpath(phonon.primitive, BAND_POINTS)
    phonon.run_band_structure(bands, path_connections=connected, labels=labels)
    return Phonons(phonon, mesh, n_displacements, n_responses)


def plain_of(atoms: Any) -> Structure:
    """Return phonopy's atoms as a structure."""
    return Structure(atoms.cell, atoms.symbols, atoms.scaled_positions)
