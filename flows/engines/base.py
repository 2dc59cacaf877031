"""What every engine does, and the base of engines that are ASE calculators. Imports neither atomate2 nor a code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from flows.schemas import Calculation, Fidelity

if TYPE_CHECKING:
    from flows.engines.ase_maker import CalculatorMaker


class EngineConfig(BaseModel):
    """Base of an engine's options: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class EngineCheck:
    """Whether an engine works on this machine."""

    ok: bool
    what: str
    """What was found."""
    cure: str = ""


class Engine(Protocol):
    """A code with its settings.

    `settings()` is what decides the meaning of a label: two engines with equal settings give the same energy for
    the same structure, whatever cores, commands or numbers of steps they are allowed. `flows.testing.check_engine`
    checks this contract.
    """

    Config: ClassVar[type[BaseModel]]
    config: Any
    """An instance of `Config`."""
    fidelity: Fidelity

    def __init__(self, config: Any) -> None: ...

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy: cut-offs, densities, functional."""
        ...

    def version(self) -> str:
        """Return name and version of the code."""
        ...

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool, symprec_ang: float) -> Any:
        """Return a jobflow Maker that relaxes a structure; its output has `structure`."""
        ...

    def static_maker(self, *, stress: bool) -> Any:
        """Return a jobflow Maker that computes one structure; without its stress if that may save work."""
        ...

    def read(self, output: Any) -> Calculation:
        """Read the output of one of the makers' jobs."""
        ...

    def unsupported(self, elements: Sequence[str]) -> tuple[str, ...]:
        """Return those of the elements that the engine has no data for, as far as it knows here."""
        ...

    def check(self) -> EngineCheck:
        """Say whether the engine works here."""
        ...

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:
        """Return a rough cost of a relaxation with its static [core-seconds]."""
        ...


class ElectronicEngine(Engine, Protocol):
    """An engine that also computes the states of electrons: what the flow `electronic` needs."""

    def electronic_maker(self, *, moments: Mapping[str, float], mesh_per_inverse_ang: float) -> Any:
        """Return a jobflow Maker of electronic calculations.

        Its `make(structure)` gives the energy of a crystal, and `make(structure, path, static)` the states in the
        density of such a calculation, on a mesh and at the points of `path` (n_points, 3) in reciprocal coordinates;
        both give a `flows.schemas.ElectronicCalculation`, which `read` reads as well.

        Args:
            moments: Element -> moment of its atoms to begin with [µB]; without any, spins are not polarised.
            mesh_per_inverse_ang: Density of the mesh of the states [points per Å⁻¹].
        """
        ...


@runtime_checkable
class DfptEngine(Protocol):
    """What an engine has beside the rest if its code computes responses (density-functional perturbation theory)."""

    def response_maker(self) -> Any:
        """Return a jobflow Maker with `make(structure, q_point, divisors)`.

        `q_point` is in units of the reciprocal vectors; numbers of k-points are multiples of `divisors`, so that
        their mesh holds k + q. The job's output are `real` and `imag`, (3 n_atoms, 3 n_atoms) [eV/Å²] each: the
        Fourier transform of the force constants as `flows.dfpt` has it.
        """
        ...


class AseConfig(EngineConfig):
    """Options that every engine with an ASE calculator has."""

    fmax_ev_per_ang: float | None = Field(
        0.05, gt=0, description="A relaxation ends when no force, on atoms or cell, exceeds this [eV/Å]."
    )
    max_steps: int = Field(100, ge=2, description="Most steps of one try of a relaxation.")


class AseEngine(ABC):
    """An engine that is an ASE calculator: a subclass says which, and what its settings mean."""

    Config: ClassVar[type[AseConfig]] = AseConfig
    fidelity: Fidelity = Fidelity.MLIP

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return what decides an energy."""

    @abstractmethod
    def version(self) -> str:
        """Return name and version of the code."""

    @abstractmethod
    def check(self) -> EngineCheck:
        """Say whether the engine works here."""

    @abstractmethod
    def calculator(self) -> Any:
        """Return a new ASE calculator; its files belong into `flows.job_context.job_folder()`."""

    @abstractmethod
    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:
        """Return a rough cost of a relaxation with its static [core-seconds]."""

    @property
    def fmax_ev_per_ang(self) -> float:
        """Force limit of relaxations [eV/Å]."""
        return float(self.config.fmax_ev_per_ang)

    def unsupported(self, elements: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: what a calculator knows is seen when it runs."""
        return ()

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool, symprec_ang: float) -> CalculatorMaker:
        """Return a Maker that relaxes."""
        return self._maker(
            name="relax",
            fix_symmetry=fix_symmetry,
            relax_cell=relax_cell,
            symprec=symprec_ang,
            steps=self.config.max_steps,
            fmax_ev_per_ang=self.fmax_ev_per_ang,
        )

    def static_maker(self, *, stress: bool) -> CalculatorMaker:
        """Return a Maker that computes one structure."""
        return self._maker(name="static", relax_cell=False, steps=0, stress=stress)

    def read(self, output: Any) -> Calculation:
        """Read the output of one of the makers' jobs."""
        from flows.engines.ase_maker import read_task

        return read_task(output)

    def _maker(self, **fields: Any) -> CalculatorMaker:
        from flows.engines.ase_maker import CalculatorMaker

        return CalculatorMaker(
            engine=f"{type(self).__module__}:{type(self).__qualname__}",
            engine_options=self.config.model_dump(mode="json"),
            **fields,
        )
