"""The jobs of the label flow `electronic` that no engine runs: cell and path, the lowest start, gap and densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import seekpath
from jobflow import CURRENT_JOB, Response, job
from pymatgen.core import Structure

from flows.causes import BadGeometryError, OutputParseError
from flows.schemas import ElectronicCalculation, ElectronicSummary, States

LARGE = ("band_structure", "dos")
"""What goes to the additional store `data`."""

LEAST_GAIN_EV = 1e-3
"""A magnetic start has to gain this much over the non-magnetic one [eV/atom]: else its moments went to nothing."""
LEAST_GAP_EV = 1e-3
"""Less is a metal [eV]."""
SAME_ENERGY_EV = 1e-3
"""A gap is direct if the smallest gap at one k-point is wider by less [eV]."""
WHOLE = 0.05
"""A number of electrons of a spin this far from a whole number fills no whole bands."""
STEPS_PER_WIDTH = 5
"""Points of a density of states within the width of a Gaussian."""

Array = npt.NDArray[np.float64]


@job(name="primitive cell")
def primitive_and_path(
    relaxed: Structure, symprec_ang: float, points_per_inverse_ang: float
) -> dict[str, Any]:
    """Return seekpath's primitive cell (Hinuma et al., Comput. Mater. Sci. 128, 140 (2017)) and its path.

    Args:
        relaxed: The crystal.
        symprec_ang: Tolerance of its symmetry [Å].
        points_per_inverse_ang: Points along the path [per Å⁻¹].

    Returns:
        `primitive`; of the path's points `k_points` (n, 3) in reciprocal coordinates, `distances_inverse_ang` (n,),
        `labels` (n,), empty between the special points; `segments`, first and one after last point of each.

    Raises:
        BadGeometryError: No symmetry is found, as where atoms lie on top of one another.
    """
    numbers = [site.specie.Z for site in relaxed]
    try:
        found = seekpath.get_explicit_k_path(
            (relaxed.lattice.matrix.tolist(), relaxed.frac_coords.tolist(), numbers),
            reference_distance=1.0 / points_per_inverse_ang,
            symprec=symprec_ang,
        )
    except Exception as error:  # spglib and seekpath each have errors of their own
        raise BadGeometryError(f"no path through the bands is found ({error})") from error
    return {
        "primitive": Structure(
            found["primitive_lattice"], found["primitive_types"].tolist(), found["primitive_positions"]
        ),
        "k_points": found["explicit_kpoints_rel"].tolist(),
        "distances_inverse_ang": found["explicit_kpoints_linearcoord"].tolist(),
        "labels": list(found["explicit_kpoints_labels"]),
        "segments": [list(one) for one in found["explicit_segments"]],
    }


@job(name="states")
def run_states(
    primitive: Structure,
    k_points: Sequence[Sequence[float]],
    statics: Sequence[ElectronicCalculation],
    makers: Sequence[Any],
) -> Response:
    """Replace this job by the states in the density of the lowest start.

    Args:
        primitive: The crystal.
        k_points: (n, 3) of the path.
        statics: Of the starts, the non-magnetic one first.
        makers: Of the starts.
    """
    best = lowest([one.calculation.energy / len(primitive) for one in statics])
    one = makers[best].make(primitive, path=[list(point) for point in k_points], static=statics[best])
    one.name = "states"
    return Response(replace=one)


@job(name="bands", data=list(LARGE))
def states_job(
    path: dict[str, Any],
    names: Sequence[str],
    statics: Sequence[ElectronicCalculation],
    found: ElectronicCalculation,
    width_ev: float,
) -> dict[str, Any]:
    """Return a summary of the states, and in the store `data` what `LARGE` names.

    Args:
        path: What `primitive_and_path` gave.
        names: Of the starts.
        statics: Of the starts, the non-magnetic one first.
        found: The states.
        width_ev: Of the density of states [eV].

    Raises:
        OutputParseError: States are missing or no numbers.
    """
    states, n_atoms = found.states, len(path["primitive"])
    if states is None:
        raise OutputParseError("the engine gave no states")
    on_mesh, on_path = (
        np.array(one, dtype=np.float64) for one in (states.mesh_energies_ev, states.path_energies_ev)
    )
    if on_path.shape[1] != len(path["k_points"]) or not (
        np.isfinite(on_mesh).all() and np.isfinite(on_path).all()
    ):
        raise OutputParseError(
            f"{on_path.shape[1]} points of a path, {len(path['k_points'])} wanted, or no numbers"
        )
    energies = [one.calculation.energy / n_atoms for one in statics]
    summary = ElectronicSummary(
        **gap_of(np.concatenate([on_mesh, on_path], axis=1), found.n_electrons, found.total_moment_ub),
        fermi_level_ev=found.fermi_level_ev,
        total_moment_ub=found.total_moment_ub,
        moment_per_atom_ub=found.total_moment_ub / n_atoms,
        magnetic_start=names[lowest(energies)],
        start_energies_ev_per_atom=dict(zip(names, energies, strict=True)),
        n_bands=on_mesh.shape[2],
        k_mesh=found.k_mesh,
        states_mesh=states.mesh,
        n_path_points=on_path.shape[1],
        n_atoms=n_atoms,
        data_uuid=str(CURRENT_JOB.job.uuid),
    )
    return {
        "summary": summary.model_dump(mode="json"),
        "band_structure": {
            **{key: value for key, value in path.items() if key != "primitive"},
            "primitive": path["primitive"].as_dict(),
            "energies_ev": on_path.tolist(),
            "fermi_level_ev": found.fermi_level_ev,
        },
        "dos": density_of_states(states, width_ev),
    }


def lowest(energies_ev_per_atom: Sequence[float]) -> int:
    """Return which start wins: the lowest, the first one if none is lower by more than noise."""
    best = int(np.argmin(energies_ev_per_atom))
    return best if energies_ev_per_atom[best] < energies_ev_per_atom[0] - LEAST_GAIN_EV else 0


def gap_of(energies_ev: Array, n_electrons: float, total_moment_ub: float) -> dict[str, Any]:
    """Return what divides occupied states from empty ones, by counting electrons.

    Args:
        energies_ev: (n_spins, n_k, n_bands), sorted in the last axis.
        n_electrons: Of the cell.
        total_moment_ub: Of the cell; electrons of spin up less those of spin down.

    Returns:
        `is_metal`, `band_gap_ev`, `is_direct`, `direct_gap_ev`, `vbm_ev`, `cbm_ev` of an `ElectronicSummary`.
    """
    metal = {"is_metal": True, "band_gap_ev": 0.0} | dict.fromkeys(
        ("is_direct", "direct_gap_ev", "vbm_ev", "cbm_ev")
    )
    moment = total_moment_ub if len(energies_ev) == 2 else 0.0
    counts = [(n_electrons + moment) / 2, (n_electrons - moment) / 2][: len(energies_ev)]
    filled = [round(count) for count in counts]
    if any(abs(count - whole) > WHOLE for count, whole in zip(counts, filled, strict=True)):
        return metal
    highest, lowest_empty = (
        np.stack([bands[:, which] for bands, which in zip(energies_ev, places, strict=True) if which >= 0])
        for places in ([whole - 1 for whole in filled], filled)
    )
    vbm, cbm = float(highest.max()), float(lowest_empty.min())
    if cbm - vbm < LEAST_GAP_EV:
        return metal
    direct = float((lowest_empty.min(axis=0) - highest.max(axis=0)).min())
    return {
        "is_metal": False,
        "band_gap_ev": cbm - vbm,
        "is_direct": direct - (cbm - vbm) < SAME_ENERGY_EV,
        "direct_gap_ev": direct,
        "vbm_ev": vbm,
        "cbm_ev": cbm,
    }


def density_of_states(states: States, width_ev: float) -> dict[str, Any]:
    """Return the density of states of each spin, every state a Gaussian of standard deviation `width_ev`.

    It ends where the highest band that was computed begins. `states_per_ev` (n_spins, n) counts states of the cell
    [1/eV]; where both spins are alike, the one there is counts both.
    """
    levels = np.array(states.mesh_energies_ev, dtype=np.float64)
    weights = np.array(states.mesh_weights)[:, None] * (2.0 / len(levels))
    grid = np.arange(levels.min() - 5.0 * width_ev, levels[:, :, -1].min(), width_ev / STEPS_PER_WIDTH)
    density = [
        [
            float(np.sum(weights * np.exp(-(((energy - spin) / width_ev) ** 2) / 2.0)))
            / (width_ev * np.sqrt(2.0 * np.pi))
            for energy in grid
        ]
        for spin in levels
    ]
    return {"energies_ev": grid.tolist(), "states_per_ev": density, "width_ev": width_ev}
