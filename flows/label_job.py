"""The last job of every label flow: makes a label of its calculations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobflow import job
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

from flows.building import settings_hash
from flows.job_context import cores_held
from flows.registry import ENGINES, build
from flows.schemas import Calculation, LabelDoc, LabelStep

if TYPE_CHECKING:
    from flows.engines.base import Engine

SYMPREC_ANG = 0.1
"""Tolerance of recorded space groups [Å], the Materials Project's own."""


@job(name="label")
def collect_label(
    before: Structure,
    outputs: Sequence[Any],
    names: Sequence[str],
    about: dict[str, Any],
    found: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make a label of calculations; the last one has its energy and structure.

    Args:
        before: Structure that the flow began with.
        outputs: Outputs of the calculations in order.
        names: Names of the calculations.
        about: Settings of the label; import path and options of the engine, which reads its own outputs.
        found: Summaries of what the flow has found beside the energy, by their names in `LabelDoc`.
    """
    engine = build(about["engine"], ENGINES, "engine", about["engine_options"])
    steps = [engine.read(output) for output in outputs]
    label = label_of(before, steps, names, about["settings"], engine).model_dump(mode="json")
    return LabelDoc.model_validate({**label, **(found or {})}).model_dump(mode="json")


def label_of(
    before: Structure,
    calculations: Sequence[Calculation],
    names: Sequence[str],
    settings: dict[str, Any],
    engine: Engine,
) -> LabelDoc:
    """Return the label that calculations in order amount to."""
    last = calculations[-1]
    after = Structure.from_dict(last.structure)
    wall = sum(one.wall_seconds for one in calculations)
    steps = [
        LabelStep(
            name=name,
            energy_per_atom=one.energy / len(after),
            n_ionic_steps=one.n_ionic_steps,
            wall_seconds=one.wall_seconds,
            corrections=list(one.corrections),
        )
        for name, one in zip(names, calculations, strict=True)
    ]
    return LabelDoc(
        flow=settings["flow"],
        engine=settings["engine"],
        engine_version=", ".join(filter(None, (last.code_version, engine.version()))),
        fidelity=engine.fidelity,
        settings=settings,
        settings_hash=settings_hash(settings),
        structure=last.structure,
        formula=after.composition.reduced_formula,
        n_atoms=len(after),
        energy=last.energy,
        energy_per_atom=last.energy / len(after),
        mp_correction_per_atom=None if last.mp_correction is None else last.mp_correction / len(after),
        max_force=last.max_force,
        stress_gpa=next((one.stress_gpa for one in reversed(calculations) if one.stress_gpa), None),
        volume=after.volume,
        volume_per_atom=after.volume / len(after),
        spacegroup_before=_space_group(before),
        spacegroup_after=_space_group(after),
        converged=all(one.converged for one in calculations),
        n_ionic_steps=sum(one.n_ionic_steps for one in calculations),
        wall_seconds=wall,
        core_hours=wall * cores_held() / 3600,
        steps=steps,
    )


def _space_group(structure: Structure) -> int:
    try:
        return int(SpacegroupAnalyzer(structure, symprec=SYMPREC_ANG).get_space_group_number())
    except (SymmetryUndeterminedError, TypeError, ValueError):
        return 1
