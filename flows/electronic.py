"""Label flow `electronic`: band gap, magnetic moment, bands and density of states, the engine injected.

A relaxation; calculations of the primitive cell without spins and, where spins may matter, from ferromagnetic moments;
the states of the lower one in its density, on a denser mesh and along seekpath's path. The label's energy and structure
are those of the lower calculation. Light: options are read without importing jobflow, seekpath or a calculator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from flows.errors import EngineOptionsError
from flows.registry import ENGINES, resolve
from flows.relax import RelaxConfig, labelled, relaxed

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

    from flows.engines.base import ElectronicEngine, Engine

NON_MAGNETIC, FERROMAGNETIC = "non-magnetic", "ferromagnetic"
FAINT_MOMENT = 0.5
"""Moment to begin with of atoms outside of the d and f blocks [µB]."""


class ElectronicConfig(RelaxConfig):
    """Options of `electronic`."""

    spin: Literal["auto", "off", "on"] = Field(
        "auto",
        description="Whether a ferromagnetic start is tried beside the non-magnetic one; auto: where an element is of "
        "the d or f block.",
    )
    initial_moment_ub: float = Field(
        3.0, gt=0, le=10, description="Moment to begin with of atoms of the d and f blocks [µB]; others: 0.5."
    )
    mesh_per_inverse_ang: float = Field(
        8.0,
        gt=0,
        description="Density of the mesh of the states [points per Å⁻¹, 2π in the reciprocal cell].",
    )
    path_points_per_inverse_ang: float = Field(
        20.0, gt=0, description="Density of points along the path of the band structure [points per Å⁻¹]."
    )
    dos_width_ev: float = Field(
        0.1, gt=0, description="Width of the Gaussians that the states are broadened with [eV]."
    )


class ElectronicLabelMaker:
    """Relaxation, magnetic starts, states."""

    Config: ClassVar[type[ElectronicConfig]] = ElectronicConfig

    def __init__(self, config: ElectronicConfig | None = None) -> None:
        self.config = config or ElectronicConfig()

    def refuse(self, engine: Engine, name: str) -> None:
        """Raise for an engine that computes no states of electrons; see `able_engine`."""
        able_engine(engine, name)

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow.

        Raises:
            EngineOptionsError: The engine computes no states of electrons.
        """
        from flows.electronic_jobs import primitive_and_path, run_states, states_job

        config, able = self.config, able_engine(engine, settings["engine"])
        relaxing = relaxed(config, structure, engine)
        cell = primitive_and_path(
            relaxing[-1].output.structure, config.symprec_ang, config.path_points_per_inverse_ang
        )
        elements = sorted({site.specie.symbol for site in structure})
        makers, statics = [], []
        for name, moments in starts(elements, config.spin, config.initial_moment_ub).items():
            maker = able.electronic_maker(moments=moments, mesh_per_inverse_ang=config.mesh_per_inverse_ang)
            static = maker.make(cell.output["primitive"])
            static.name = name
            makers.append(maker)
            statics.append(static)
        names = [one.name for one in statics]
        states = run_states(
            cell.output["primitive"], cell.output["k_points"], [one.output for one in statics], makers
        )
        found = states_job(
            cell.output, names, [one.output for one in statics], states.output, config.dos_width_ev
        )
        return labelled(
            [*relaxing, *statics, states],
            structure,
            engine,
            settings,
            others=[cell, found],
            found={"electronic": found.output["summary"]},
        )


def starts(elements: list[str], spin: str, moment_ub: float) -> dict[str, dict[str, float]]:
    """Return the magnetic starts by name: element -> moment [µB], none without spins."""
    from pymatgen.core import Element

    magnetic = {one: moment_ub if Element(one).block in ("d", "f") else FAINT_MOMENT for one in elements}
    wanted = spin == "on" or (spin == "auto" and moment_ub in magnetic.values())
    return {NON_MAGNETIC: {}} | ({FERROMAGNETIC: magnetic} if wanted else {})


def able_engine(engine: Engine, name: str) -> ElectronicEngine:
    """Return the engine if it computes states of electrons.

    Raises:
        EngineOptionsError: It does not; says which do.
    """
    if not hasattr(engine, "electronic_maker"):
        raise EngineOptionsError(
            "the flow electronic needs an engine that computes states of electrons",
            value=name,
            allowed=[one for one in ENGINES if hasattr(resolve(one, ENGINES, "engine"), "electronic_maker")],
            cure="choose one of these for this flow",
        )
    return engine  # type: ignore[return-value]
