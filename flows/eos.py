"""Label flow `eos`: the energy as a function of volume, the engine injected.

A relaxation; cells scaled to other volumes with their atoms relaxed in them, all independent of one another; a fit of
Vinet's equation (Vinet et al., J. Phys. C 19, L467 (1986)). The label's energy and structure are those of the
relaxation. Light: options are read without importing jobflow or a calculator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from flows.relax import RelaxConfig, labelled, relaxed

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

    from flows.engines.base import Engine

FEWEST_VOLUMES = 5
"""Vinet's equation has four parameters."""


class EosConfig(RelaxConfig):
    """Options of `eos`."""

    volume_factors: tuple[float, ...] = Field(
        (0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06), description="Volumes, in units of the relaxed one."
    )

    @field_validator("volume_factors")
    @classmethod
    def _enough_on_both_sides(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < FEWEST_VOLUMES or not 0.5 <= min(value) < 1.0 < max(value) <= 2.0:
            raise ValueError(f"{FEWEST_VOLUMES} different factors or more, 0.5 to 2, on both sides of 1")
        return value


class EosLabelMaker:
    """Relaxation, scaled cells, equation of state."""

    Config: ClassVar[type[EosConfig]] = EosConfig

    def __init__(self, config: EosConfig | None = None) -> None:
        self.config = config or EosConfig()

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        from flows.eos_jobs import fit_volumes, run_volumes

        config = self.config
        relaxing = relaxed(config, structure, engine)
        relax = relaxing[-1]
        maker = engine.relax_maker(
            fix_symmetry=config.fix_symmetry, relax_cell=False, symprec_ang=config.symprec_ang
        )
        scaled = run_volumes(relax.output.structure, list(config.volume_factors), maker)
        about = {
            "engine": settings["engine"],
            "engine_options": engine.config.model_dump(mode="json"),
        }
        fit = fit_volumes(scaled.output, about)
        return labelled(
            relaxing,
            structure,
            engine,
            settings,
            others=[scaled, fit],
            found={"equation_of_state": fit.output},
        )
