"""Label flow `phonon`: harmonic phonons, the engine injected.

A tight relaxation; force constants of a supercell; frequencies by phonopy. The force constants come from displaced
supercells (atomate2's jobs, which replace themselves by as many calculations as symmetry leaves over), or, where the
engine has it, from density-functional perturbation theory: responses of the primitive cell at the points that the
supercell would hold, one job each. The label's energy and structure are those of the relaxation. Light: options are
read without importing jobflow, phonopy or a calculator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from flows.engines.base import DfptEngine
from flows.errors import EngineOptionsError
from flows.relax import RelaxConfig, labelled, relaxed

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

    from flows.engines.base import Engine


class PhononConfig(RelaxConfig):
    """Options of `phonon`."""

    method: Literal["displacements", "dfpt"] = Field(
        "displacements",
        description="Displaced supercells, or dfpt: perturbation theory at the points that fit into the supercell; "
        "without the long-range part of polar crystals (no LO-TO splitting) either way.",
    )
    displacement_ang: float = Field(0.01, gt=0, le=0.2, description="How far an atom is moved [Å].")
    min_supercell_ang: float = Field(
        10.0, gt=0, description="Least distance between opposite faces of the supercell [Å]."
    )
    max_supercell_atoms: int = Field(
        256, ge=1, description="A crystal whose supercell would have more atoms is refused."
    )
    q_points_per_inverse_ang: float = Field(
        12.0,
        gt=0,
        description="Density of the mesh for frequencies and densities of states [points per Å⁻¹].",
    )
    imaginary_tolerance_thz: float = Field(
        0.15,
        ge=0,
        description="A frequency this far below 0 still counts as noise of the forces [THz].",
    )


class PhononLabelMaker:
    """Relaxation, displaced supercells, frequencies."""

    Config: ClassVar[type[PhononConfig]] = PhononConfig

    def __init__(self, config: PhononConfig | None = None) -> None:
        self.config = config or PhononConfig()

    def refuse(self, engine: Engine, name: str) -> None:
        """Refuse an engine that lacks what the options ask for.

        Raises:
            EngineOptionsError: Responses are wanted, and it computes none.
        """
        if self.config.method == "dfpt" and not isinstance(engine, DfptEngine):
            raise EngineOptionsError(
                f"engine {name} has no perturbation theory for phonons",
                value="method: dfpt",
                allowed="method: displacements",
                cure="choose displacements, or an engine that has it, such as abinit",
            )

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow.

        Raises:
            EngineOptionsError: As `refuse`.
        """
        from flows.phonon_jobs import unit_and_supercell

        self.refuse(engine, settings["engine"])
        relaxing = relaxed(self.config, structure, engine)
        cells = unit_and_supercell(relaxing[-1].output.structure, self.config.model_dump(mode="json"))
        constants = self._responses if self.config.method == "dfpt" else self._displacements
        jobs = constants(cells.output["unit"], cells.output["supercell_matrix"], engine)
        return labelled(
            relaxing,
            structure,
            engine,
            settings,
            others=[cells, *jobs],
            found={"phonon": jobs[-1].output["summary"]},
        )

    def _displacements(self, unit: Any, supercell: Any, engine: Engine) -> list[Any]:
        """Return the jobs from cells to frequencies by displaced supercells."""
        from atomate2.common.jobs.phonons import generate_phonon_displacements, run_phonon_displacements

        from flows.phonon_jobs import CODE, frequencies_job

        config = self.config
        displaced = generate_phonon_displacements(
            structure=unit,
            supercell_matrix=supercell,
            displacement=config.displacement_ang,
            sym_reduce=True,
            symprec=config.symprec_ang,
            use_symmetrized_structure=None,
            kpath_scheme="seekpath",
            code=CODE,
        )
        forces = run_phonon_displacements(
            displacements=displaced.output,
            structure=unit,
            supercell_matrix=supercell,
            phonon_maker=engine.static_maker(stress=False),
        )
        found = frequencies_job(unit, supercell, forces.output, config.model_dump(mode="json"))
        return [displaced, forces, found]

    def _responses(self, unit: Any, supercell: Any, engine: Any) -> list[Any]:
        """Return the jobs from cells to frequencies by perturbation theory."""
        from flows.dfpt_jobs import response_frequencies_job, run_responses

        options = self.config.model_dump(mode="json")
        responses = run_responses(unit, supercell, engine.response_maker(), options)
        return [responses, response_frequencies_job(unit, supercell, responses.output, options)]
