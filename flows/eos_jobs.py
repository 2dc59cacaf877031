"""The jobs of the label flow `eos` that no engine runs: cells of other volumes, and the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jobflow import Flow, Response, job
from pymatgen.analysis.eos import EOS, EOSError
from pymatgen.core import Structure

from flows.causes import OutputParseError
from flows.engines.ase_maker import plain_structure
from flows.registry import ENGINES, build
from flows.schemas import EosSummary


@job(name="volumes")
def run_volumes(relaxed: Structure, factors: Sequence[float], maker: Any) -> Response:
    """Replace this job by one calculation of each volume.

    Args:
        relaxed: The crystal at its own volume.
        factors: Volumes in units of that one.
        maker: Relaxes atoms in a fixed cell.
    """
    jobs = []
    for factor in factors:
        cell = plain_structure(relaxed)
        cell.scale_lattice(relaxed.volume * factor)
        one = maker.make(cell)
        one.name = f"volume {factor:g}"
        jobs.append(one)
    return Response(replace=Flow(jobs, [one.output for one in jobs]))


@job(name="equation of state")
def fit_volumes(outputs: Sequence[Any], about: dict[str, Any]) -> dict[str, Any]:
    """Fit Vinet's equation of state.

    Args:
        outputs: Of the calculations.
        about: Import path and options of the engine, which reads its own outputs.

    Returns:
        An `EosSummary`.

    Raises:
        OutputParseError: No equation fits: the energies have no minimum among the volumes.
    """
    engine = build(about["engine"], ENGINES, "engine", about["engine_options"])
    found = [engine.read(output) for output in outputs]
    structures = [Structure.from_dict(one.structure) for one in found]
    volumes = np.array([one.volume / len(one) for one in structures])
    energies = np.array([one.energy for one in found]) / np.array([len(one) for one in structures])
    return eos_summary(volumes.tolist(), energies.tolist()).model_dump(mode="json")


def eos_summary(volumes: Sequence[float], energies: Sequence[float]) -> EosSummary:
    """Return the equation that fits energies [eV/atom] at volumes [Å³/atom].

    Raises:
        OutputParseError: None does.
    """
    try:
        fit = EOS("vinet").fit(list(volumes), list(energies))
    except (EOSError, ValueError, RuntimeError) as error:
        raise OutputParseError(f"no equation of state fits ({error})") from error
    if not min(volumes) < fit.v0 < max(volumes):
        raise OutputParseError(
            f"the energy has no minimum among the volumes: {fit.v0:.3f} Å³/atom lies outside of "
            f"{min(volumes):.3f} to {max(volumes):.3f}"
        )
    errors = np.asarray(energies) - np.array([fit(volume) for volume in volumes])
    return EosSummary(
        volume_per_atom=float(fit.v0),
        energy_per_atom=float(fit.e0),
        bulk_modulus_gpa=float(fit.b0_GPa),
        bulk_modulus_derivative=float(fit.b1),
        largest_error_ev_per_atom=float(np.abs(errors).max()),
        volumes_per_atom=list(volumes),
        energies_per_atom=list(energies),
    )
