"""Label flows without phonons: static, relax, and relax followed by a static; the engine is injected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from jobflow import Flow, job
from pydantic import BaseModel, ConfigDict, Field

from flows.schemas import LabelDoc

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from flows.engines.base import Engine

SYMPREC_ANG = 0.1
"""Tolerance of recorded space groups [Å], the Materials Project's own."""


class StaticConfig(BaseModel):
    """Options of `static`: none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RelaxConfig(StaticConfig):
    """Options of `relax` and `relax_static`."""

    fix_symmetry: bool = Field(True, description="Keep the space group of the structure that is given.")
    relax_cell: bool = Field(True, description="Relax the cell with the positions.")


class StaticLabelMaker:
    """One calculation of the structure as it is."""

    Config: ClassVar[type[StaticConfig]] = StaticConfig

    def __init__(self, config: StaticConfig | None = None) -> None:
        self.config = config or StaticConfig()

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        static = engine.static_maker().make(structure)
        return _with_label([static], structure, engine, settings, last=static, relax=None)


class RelaxLabelMaker:
    """A relaxation; its last step is the label."""

    Config: ClassVar[type[RelaxConfig]] = RelaxConfig

    def __init__(self, config: RelaxConfig | None = None) -> None:
        self.config = config or RelaxConfig()

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        relax = self._relax(structure, engine)
        return _with_label([relax], structure, engine, settings, last=relax, relax=relax)

    def _relax(self, structure: Structure, engine: Engine) -> Any:
        options = self.config
        maker = engine.relax_maker(fix_symmetry=options.fix_symmetry, relax_cell=options.relax_cell)
        return maker.make(structure)


class RelaxStaticLabelMaker(RelaxLabelMaker):
    """A relaxation, then a calculation of the relaxed structure with a basis of its own."""

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        relax = self._relax(structure, engine)
        static = engine.static_maker().make(relax.output.structure)
        return _with_label([relax, static], structure, engine, settings, last=static, relax=relax)


def _with_label(
    jobs: list[Any],
    structure: Structure,
    engine: Engine,
    settings: dict[str, Any],
    *,
    last: Any,
    relax: Any | None,
) -> Flow:
    label = collect_label(
        structure,
        last.output.structure,
        last.output.output,
        None if relax is None else relax.output.output.n_steps,
        {"settings": settings, "version": engine.version(), "fidelity": str(engine.fidelity)},
    )
    return Flow([*jobs, label], output=label.output, name=f"{settings['flow']} {structure.reduced_formula}")


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

    from flows.building import settings_hash

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
