"""The last job of every label flow: gathers what the label says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobflow import job

from flows.building import settings_hash
from flows.schemas import LabelDoc

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC_ANG = 0.1
"""Tolerance of recorded space groups [Å], the Materials Project's own."""


@job
def collect_label(
    before: Structure, after: Structure, output: Any, n_steps: int | None, about: dict[str, Any]
) -> dict[str, Any]:
    """Gather what a label says from the last calculation.

    Args:
        before: Structure that the flow began with.
        after: Final structure.
        output: Output of the last calculation (energy [eV], forces [eV/Å], stress [kbar or eV/Å³ by its maker]).
        n_steps: Ionic steps of the relaxation, None without one.
        about: Settings, engine version and fidelity.
    """
    import numpy as np

    read = output.get if isinstance(output, dict) else lambda key, default=None: getattr(output, key, default)
    settings, energy = about["settings"], float(read("energy") or float("nan"))
    forces, stress = read("forces"), read("stress")
    return LabelDoc(
        flow=settings["flow"],
        engine=settings["engine"],
        engine_version=about["version"],
        fidelity=about["fidelity"],
        settings=settings,
        settings_hash=settings_hash(settings),
        structure=after.as_dict(),
        formula=after.composition.reduced_formula,
        n_atoms=len(after),
        energy=energy,
        energy_per_atom=energy / len(after),
        max_force=None if forces is None else float(np.linalg.norm(np.asarray(forces, float), axis=1).max()),
        stress_gpa=None if stress is None else (-np.asarray(stress, float) / 10).tolist(),
        volume_per_atom=after.volume / len(after),
        spacegroup_before=_space_group(before),
        spacegroup_after=_space_group(after),
        converged=True,  # a calculation that did not converge has failed before
        n_ionic_steps=int(n_steps or 0),
    ).model_dump(mode="json")


def _space_group(structure: Structure) -> int:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        return int(SpacegroupAnalyzer(structure, symprec=SYMPREC_ANG).get_space_group_number())
    except (SymmetryUndeterminedError, TypeError, ValueError):
        return 1
