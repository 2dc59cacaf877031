"""Label flow `elastic`: the elastic tensor from stresses of strained cells, the engine injected.

A relaxation; one strained cell after another with its atoms relaxed in it, all independent of one another (atomate2's
jobs, which leave out what symmetry makes equal); a fit of the tensor. The label's energy and structure are those of
the relaxation. Light: options are read without importing jobflow or a calculator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from flows.relax import RelaxConfig, labelled, relaxed

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

    from flows.engines.base import Engine


class ElasticConfig(RelaxConfig):
    """Options of `elastic`."""

    strains: tuple[float, ...] = Field(
        (-0.01, -0.005, 0.005, 0.01),
        min_length=1,
        description="Strains of each of the six kinds; 0 is the relaxed crystal.",
    )


class ElasticLabelMaker:
    """Relaxation, strained cells, elastic tensor."""

    Config: ClassVar[type[ElasticConfig]] = ElasticConfig

    def __init__(self, config: ElasticConfig | None = None) -> None:
        self.config = config or ElasticConfig()

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        from atomate2.common.jobs.elastic import generate_elastic_deformations, run_elastic_deformations

        from flows.elastic_jobs import elastic_job

        config = self.config
        relaxing = relaxed(config, structure, engine)
        relax = relaxing[-1]
        deformations = generate_elastic_deformations(
            relax.output.structure, strain_magnitudes=list(config.strains), symprec=config.symprec_ang
        )
        strained = run_elastic_deformations(
            relax.output.structure,
            deformations.output,
            elastic_relax_maker=engine.relax_maker(
                fix_symmetry=False, relax_cell=False, symprec_ang=config.symprec_ang
            ),
        )
        tensor = elastic_job(
            relax.output.structure, relax.output.output.stress, strained.output, config.symprec_ang
        )
        return labelled(
            relaxing,
            structure,
            engine,
            settings,
            others=[deformations, strained, tensor],
            found={"elastic": tensor.output},
        )
