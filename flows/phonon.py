"""Label flow `phonon`: harmonic phonons by finite displacements, the engine injected.

A tight relaxation; one displaced supercell after another, all independent of one another (atomate2's jobs, which
replace themselves by as many calculations as symmetry leaves over); frequencies by phonopy. The label's energy and
structure are those of the relaxation. Light: options are read without importing jobflow, phonopy or a calculator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from flows.relax import RelaxConfig, labelled, relaxed

if TYPE_CHECKING:
    from jobflow import Flow
    from pymatgen.core import Structure

    from flows.engines.base import Engine


class PhononConfig(RelaxConfig):
    """Options of `phonon`."""

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

    def make(self, structure: Structure, engine: Engine, settings: dict[str, Any]) -> Flow:
        """Return the flow."""
        from atomate2.common.jobs.phonons import generate_phonon_displacements, run_phonon_displacements

        from flows.phonon_jobs import CODE, frequencies_job, unit_and_supercell

        config = self.config
        relaxing = relaxed(config, structure, engine)
        relax = relaxing[-1]
        cells = unit_and_supercell(relax.output.structure, config.model_dump(mode="json"))
        unit, supercell = cells.output["unit"], cells.output["supercell_matrix"]
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
        return labelled(
            relaxing,
            structure,
            engine,
            settings,
            others=[cells, displaced, forces, found],
            found={"phonon": found.output["summary"]},
        )
