"""What a label says, and how a failure is told: plain pydantic documents, independent of any engine."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class FailureCause(StrEnum):
    """Why a job gave no result; each cause has its own policy in the campaign."""

    SCF_NOT_CONVERGED = "scf_not_converged"
    """The electronic cycle did not settle."""
    IONIC_NOT_CONVERGED = "ionic_not_converged"
    """The relaxation used up its steps before the forces were small; the next try goes on from its last geometry."""
    OUT_OF_MEMORY = "out_of_memory"
    """The machine's memory did not suffice."""
    WALLTIME = "walltime"
    """The block ended before the job did."""
    NODE_LOST = "node_lost"
    """The worker or its node went away."""
    BAD_GEOMETRY = "bad_geometry"
    """The crystal cannot be computed: atoms on top of one another, a flat cell, an element without setup."""
    MISSING_SETUP = "missing_setup"
    """A pseudopotential, PAW dataset or POTCAR, or the code itself, is not where the engine looks for it."""
    CODE_CRASHED = "code_crashed"
    """The code's own process was killed or ended with an error that says nothing better."""
    PARSE_ERROR = "parse_error"
    """The engine ran, but its output cannot be read."""
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


class LabelStep(BaseModel):
    """What one calculation of a label took."""

    model_config = ConfigDict(extra="forbid")

    name: str
    energy_per_atom: float
    """[eV/atom]"""
    n_ionic_steps: int
    wall_seconds: float


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
