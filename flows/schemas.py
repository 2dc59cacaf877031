"""What a label says, and how a failure is told: plain pydantic documents, independent of any engine."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FailureCause(StrEnum):
    """Why a job gave no result; each cause has its own policy in the campaign."""

    SCF_NOT_CONVERGED = "scf_not_converged"
    """The electronic cycle did not settle."""
    IONIC_NOT_CONVERGED = "ionic_not_converged"
    """The relaxation used up its steps before the forces were small; the next try goes on from its last geometry."""
    OUT_OF_MEMORY = "out_of_memory"
    """The machine's memory did not suffice."""
    WALLTIME = "walltime"
    """The job's time, or its block, ended before the job did; the next try goes on from its last geometry."""
    NODE_LOST = "node_lost"
    """The worker or its node went away."""
    BAD_GEOMETRY = "bad_geometry"
    """The crystal cannot be computed: atoms on top of one another, a flat cell."""
    MISSING_SETUP = "missing_setup"
    """A pseudopotential, PAW dataset or POTCAR, or the code itself, is not where the engine looks for it."""
    CODE_CRASHED = "code_crashed"
    """The code's own process was killed or ended with an error that says nothing better."""
    PARSE_ERROR = "parse_error"
    """The engine ran, but its output is torn or cannot be read."""
    CANCELLED = "cancelled"
    """A person took it out of the queue."""
    UNKNOWN = "unknown"
    """Anything else; see the message."""


class FailureInfo(BaseModel):
    """A failure: typed, with the words a person needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_enum_values=True)

    cause: FailureCause
    message: str
    """One line."""
    detail: str = ""
    """End of the traceback."""
    block_ended: bool = False
    """With the cause `walltime`: the block's time was over, not the job's own."""


class Fidelity(StrEnum):
    """How far a label's energy can be trusted."""

    DFT = "dft"
    MLIP = "mlip"
    """A machine-learning or empirical potential."""


class Calculation(BaseModel):
    """One calculation of a flow as every engine tells it: what `Engine.read` gives for a job's output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    structure: dict[str, Any]
    """Structure at the end, pymatgen dictionary."""
    energy: float
    """Energy of the cell [eV]."""
    max_force: float | None
    """Largest force on an atom at the end [eV/Å]."""
    stress_gpa: list[list[float]] | None
    """(3, 3) stress at the end [GPa], negative when compressed."""
    converged: bool
    n_ionic_steps: int
    """Geometries computed after the first; 0 for a static."""
    wall_seconds: float
    code_version: str = ""
    """Code and version as its output says them; empty where the engine knows them without."""
    corrections: tuple[str, ...] = ()
    """What was changed in the inputs to get the calculation done, one line for each error that was met."""
    mp_correction: float | None = None
    """What makes the energy comparable with the Materials Project's [eV per cell]; None where nothing does."""

    @field_validator("structure", mode="before")
    @classmethod
    def _as_dictionary(cls, value: Any) -> Any:
        """Take a structure as well: a store gives back decoded what was stored in a job's output."""
        return value.as_dict() if hasattr(value, "as_dict") else value


class LabelStep(BaseModel):
    """What one calculation of a label took."""

    model_config = ConfigDict(extra="forbid")

    name: str
    energy_per_atom: float
    """[eV/atom]"""
    n_ionic_steps: int
    wall_seconds: float
    corrections: list[str] = []
    """What was changed in the inputs to get it done: these were not quite the label's settings."""


class PhononSummary(BaseModel):
    """Harmonic phonons of a label's final structure; bands, densities of states and force constants lie in `data`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_frequency_thz: float
    """Lowest frequency on the mesh and along the band path [THz]; negative for an imaginary one."""
    max_frequency_thz: float
    """[THz]"""
    imaginary_tolerance_thz: float
    """What a frequency may lie below 0 and still be taken for numerical noise [THz]."""
    dynamically_stable: bool
    """Whether no frequency is imaginary beyond the tolerance."""
    zero_point_energy_per_atom: float
    """[eV/atom], imaginary modes left out."""
    free_energy_300k_per_atom: float
    """Vibrational part of the Helmholtz free energy at 300 K [eV/atom], imaginary modes left out."""
    supercell_matrix: list[list[int]]
    """(3, 3) supercell vectors in those of the conventional cell, rows."""
    n_supercell_atoms: int
    n_displacements: int
    """Displaced supercells that were computed; 0 with perturbation theory."""
    n_responses: int = 0
    """Points at which responses were computed; 0 with displacements."""
    q_mesh: list[int]
    """(3,) points of the mesh in the primitive reciprocal cell."""
    data_uuid: str
    """Job whose large output holds `band_structure`, `dos`, `thermal` and `force_constants`."""


class ElasticSummary(BaseModel):
    """Elastic tensor of a label's final structure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor_gpa: list[list[float]]
    """(6, 6) in Voigt's notation and the axes of the IEEE standard [GPa]."""
    lowest_eigenvalue_gpa: float
    """Of the tensor [GPa]."""
    born_stable: bool
    """Whether every strain costs energy: the tensor is positive definite."""
    bulk_modulus_gpa: float | None
    """Hill's average [GPa]; None, as all averages, where the crystal is not stable."""
    shear_modulus_gpa: float | None
    """Hill's average [GPa]."""
    young_modulus_gpa: float | None
    """Of Hill's averages [GPa]."""
    poisson_ratio: float | None
    universal_anisotropy: float | None
    """0 for an isotropic crystal."""
    n_deformations: int
    """Strained cells that were computed."""


class EosSummary(BaseModel):
    """Vinet's equation of state of a label's final structure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    volume_per_atom: float
    """Of the lowest energy [Å³/atom]."""
    energy_per_atom: float
    """The lowest energy [eV/atom]."""
    bulk_modulus_gpa: float
    """At that volume [GPa]."""
    bulk_modulus_derivative: float
    """By the pressure."""
    largest_error_ev_per_atom: float
    """Of the fit [eV/atom]."""
    volumes_per_atom: list[float]
    """(n,) computed [Å³/atom]."""
    energies_per_atom: list[float]
    """(n,) computed [eV/atom]."""


class States(BaseModel):
    """Energies of electrons in a fixed density: on a mesh of k-points and along a path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mesh: list[int]
    """(3,) points of the Γ-centred mesh."""
    mesh_weights: list[float]
    """(n_k,) of its irreducible points, their sum 1."""
    mesh_energies_ev: list[list[list[float]]]
    """(n_spins, n_k, n_bands) [eV]; one spin where both are alike."""
    path_energies_ev: list[list[list[float]]]
    """(n_spins, n_points, n_bands) [eV], the same bands."""


class ElectronicCalculation(BaseModel):
    """What the jobs of an engine's electronic maker give."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calculation: Calculation
    total_moment_ub: float
    """Magnetic moment of the cell [µB]."""
    n_electrons: float
    """Valence electrons of the cell."""
    fermi_level_ev: float
    """On the scale of the states' energies [eV]."""
    k_mesh: list[int]
    """(3,) k-points of the self-consistent calculation."""
    folder: str
    """Where the engine may have left the density."""
    states: States | None = None
    """None for a calculation of the energy alone."""


class ElectronicSummary(BaseModel):
    """Electrons of a label's crystal; bands and densities of states lie in `data`.

    The gap is that of the functional: PBE's are too small, silicon's half of the measured one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_metal: bool
    """Whether no gap divides the occupied states from the empty ones."""
    band_gap_ev: float
    """[eV]; 0 for a metal."""
    is_direct: bool | None
    """Whether the gap is that of one k-point, to 1 meV; None for a metal."""
    direct_gap_ev: float | None
    """Smallest gap at one k-point [eV]."""
    vbm_ev: float | None
    """Highest occupied energy [eV], on the engine's own scale; None for a metal."""
    cbm_ev: float | None
    """Lowest empty energy [eV]."""
    fermi_level_ev: float
    """[eV]"""
    total_moment_ub: float
    """Magnetic moment of the cell [µB]."""
    moment_per_atom_ub: float
    """[µB/atom]"""
    magnetic_start: str
    """Which start gave the lowest energy: non-magnetic or ferromagnetic."""
    start_energies_ev_per_atom: dict[str, float]
    """Energies of all starts that were computed [eV/atom]."""
    n_bands: int
    """Bands of each spin that were computed."""
    k_mesh: list[int]
    """(3,) k-points of the self-consistent calculation."""
    states_mesh: list[int]
    """(3,) k-points of the density of states."""
    n_path_points: int
    n_atoms: int
    """Of the primitive cell that was computed."""
    data_uuid: str
    """Job whose large output holds `band_structure` and `dos`."""


class LabelDoc(BaseModel):
    """The result of a label flow."""

    model_config = ConfigDict(extra="forbid", use_enum_values=True)

    flow: str
    engine: str
    engine_version: str
    """Code and version that computed the label, as found by the worker."""
    fidelity: Fidelity
    settings: dict[str, Any]
    """What decides the meaning of the energy: see `flows.run.settings_of`."""
    settings_hash: str
    structure: dict[str, Any] = Field(description="Final structure, pymatgen dictionary.")
    formula: str
    n_atoms: int
    energy: float
    """Energy of the cell [eV]; for smeared occupations extrapolated to zero width."""
    energy_per_atom: float
    """[eV/atom]"""
    mp_correction_per_atom: float | None = None
    """What makes the energy comparable with the Materials Project's [eV/atom]; None where nothing does."""
    max_force: float | None = None
    """Largest force on an atom in the final structure [eV/Å]."""
    stress_gpa: list[list[float]] | None = None
    """(3, 3) stress of the final structure [GPa], negative when compressed (ASE's sign)."""
    volume: float
    """Volume of the final cell [Å³]."""
    volume_per_atom: float
    """[Å³/atom]"""
    spacegroup_before: int
    """International number at symprec 0.1 Å of the structure the flow began with."""
    spacegroup_after: int
    converged: bool
    n_ionic_steps: int = 0
    wall_seconds: float
    """Wall time of the calculations of this label, failed tries left out [s]."""
    core_hours: float
    """`wall_seconds` times the cores that each calculation held [h]."""
    steps: list[LabelStep] = []
    """The calculations in order."""
    phonon: PhononSummary | None = None
    """Of the flow `phonon`."""
    elastic: ElasticSummary | None = None
    """Of the flow `elastic`."""
    equation_of_state: EosSummary | None = None
    """Of the flow `eos`."""
    electronic: ElectronicSummary | None = None
    """Of the flow `electronic`."""
