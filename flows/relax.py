"""Label flows without phonons: static, relax, and relax followed by a static; the engine is injected.

Light: options are read without importing jobflow or a calculator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

    from flows.engines.base import Engine


class StaticConfig(BaseModel):
    """Options of `static`: none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RelaxConfig(StaticConfig):
    """Options of `relax` and `relax_static`."""

    fix_symmetry: bool = Field(True, description="Keep the space group of the structure that is given.")
    symprec_ang: float = Field(0.01, gt=0, description="Tolerance for the space group that is kept [Å].")
    relax_cell: bool = Field(True, description="Relax the cell with the positions.")
    relaxations: int = Field(
        1,
        ge=1,
        le=10,
        description="Relaxations one after another, each with a basis and k-points for the cell that it begins with: "
        "2 is the usual double relaxation, 4 what Alverson et al. (2024) did with CrysTens' crystals.",
    )


class StaticLabelMaker:
    """One calculation of the structure as it is."""

    Config: ClassVar[type[StaticConfig]] = StaticConfig

    def __init__(self, config: StaticConfig | None = None) -> None:
        self.config = config or StaticConfig()

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        return labelled([engine.static_maker(stress=True).make(structure)], structure, engine, settings)


class RelaxLabelMaker:
    """A relaxation; its last step is the label, in the basis and with the k-points of its first cell."""

    Config: ClassVar[type[RelaxConfig]] = RelaxConfig

    def __init__(self, config: RelaxConfig | None = None) -> None:
        self.config = config or RelaxConfig()

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        return labelled(relaxed(self.config, structure, engine), structure, engine, settings)


class RelaxStaticLabelMaker(RelaxLabelMaker):
    """A relaxation, then a calculation of the relaxed structure with a basis and k-points of its own.

    The energy is that of the second; the stress is that of the relaxation's last step, at the same structure.
    """

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        relax = relaxed(self.config, structure, engine)
        static = engine.static_maker(stress=False).make(relax[-1].output.structure)
        return labelled([*relax, static], structure, engine, settings)


def relaxed(config: RelaxConfig, structure: Structure, engine: Engine) -> list[Any]:
    """Return the jobs of the relaxations, each beginning where the one before it ended."""
    maker = engine.relax_maker(
        fix_symmetry=config.fix_symmetry, relax_cell=config.relax_cell, symprec_ang=config.symprec_ang
    )
    jobs = [maker.make(structure)]
    while len(jobs) < config.relaxations:
        jobs.append(maker.make(jobs[-1].output.structure))
    return jobs


def labelled(
    jobs: Sequence[Any],
    structure: Structure,
    engine: Engine,
    settings: dict[str, Any],
    *,
    others: Sequence[Any] = (),
    found: dict[str, Any] | None = None,
) -> Flow:
    """Return calculations in order, and the job that makes a label of them.

    Args:
        jobs: Calculations; the last one has the label's energy and structure.
        structure: What the flow begins with.
        engine: Reads the calculations.
        settings: Of the label.
        others: Jobs of the flow whose outputs are no calculations of the label.
        found: Summaries by their names in `LabelDoc`, references to outputs of `others`.
    """
    from jobflow import Flow

    from flows.label_job import collect_label

    about = {
        "settings": settings,
        "engine": settings["engine"],
        "engine_options": engine.config.model_dump(mode="json"),
    }
    label = collect_label(structure, [one.output for one in jobs], [one.name for one in jobs], about, found)
    return Flow(
        [*jobs, *others, label], output=label.output, name=f"{settings['flow']} {structure.reduced_formula}"
    )
