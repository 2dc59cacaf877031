"""Label flows without phonons: static, relax, and relax followed by a static; the engine is injected."""

from __future__ import annotations

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
    from jobflow import Flow

    from flows.label_job import collect_label

    label = collect_label(
        structure,
        last.output.structure,
        last.output.output,
        None if relax is None else relax.output.output.n_steps,
        {"settings": settings, "version": engine.version(), "fidelity": str(engine.fidelity)},
    )
    return Flow([*jobs, label], output=label.output, name=f"{settings['flow']} {structure.reduced_formula}")
