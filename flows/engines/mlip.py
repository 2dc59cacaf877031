"""Engine `mlip`: any ASE calculator by its import path, or a short name; the cheap fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from flows.engines.base import EngineCheck, EngineConfig
from flows.errors import EngineOptionsError
from flows.schemas import Fidelity

if TYPE_CHECKING:
    from flows.engines.ase_makers import PathMaker

NAMED = {
    "chgnet": "chgnet.model.dynamics:CHGNetCalculator",
    "emt": "ase.calculators.emt:EMT",
    "lj": "ase.calculators.lj:LennardJones",
}
"""Short names of calculators."""


class MlipConfig(EngineConfig):
    """Options of the engine `mlip`."""

    calculator: str = Field(
        "chgnet", description="chgnet, emt, lj, or the path «module:Class» of an ASE calculator."
    )
    calculator_options: dict[str, Any] = Field(default={}, description="Keyword arguments of the calculator.")
    fmax_ev_per_ang: float = Field(0.05, gt=0, description="Largest force that counts as relaxed [eV/Å].")
    max_steps: int = Field(300, ge=2, description="Most steps of a relaxation.")


class MlipEngine:
    """An ASE calculator as engine."""

    Config: ClassVar[type[MlipConfig]] = MlipConfig
    fidelity = Fidelity.MLIP

    def __init__(self, config: MlipConfig | None = None) -> None:
        self.config = config or MlipConfig()

    @property
    def path(self) -> str:
        """Import path of the calculator."""
        return NAMED.get(self.config.calculator, self.config.calculator)

    def settings(self) -> dict[str, Any]:
        """Return the calculator, its options and the version of the package it comes from."""
        return {**self.config.model_dump(mode="json"), "calculator": self.path, "version": self.version()}

    def version(self) -> str:
        """Return the calculator's package with its version."""
        package = self.path.split(".")[0].split(":")[0]
        try:
            return f"{package} {metadata.version(package)}"
        except metadata.PackageNotFoundError:
            return package

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool) -> PathMaker:
        """Return a Maker that relaxes."""
        from flows.engines.ase_makers import PathMaker

        return PathMaker(
            name="relax",
            path=self.path,
            calculator_kwargs=dict(self.config.calculator_options),
            fix_symmetry=fix_symmetry,
            relax_cell=relax_cell,
            steps=self.config.max_steps,
            fmax_ev_per_ang=self.config.fmax_ev_per_ang,
        )

    def static_maker(self) -> PathMaker:
        """Return a Maker that computes one structure."""
        from flows.engines.ase_makers import PathMaker

        return PathMaker(
            name="static", path=self.path, calculator_kwargs=dict(self.config.calculator_options), steps=0
        )

    def check(self) -> EngineCheck:
        """Try to import the calculator."""
        from flows.engines.ase_makers import class_at

        try:
            class_at(self.path)
        except EngineOptionsError as error:
            return EngineCheck(False, error.what, error.cure)
        return EngineCheck(True, self.version())

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:  # noqa: ARG002
        """Return a few seconds: a universal potential on one core."""
        return 2.0 + 0.2 * n_atoms
