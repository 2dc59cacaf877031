"""Engine `mlip`: any ASE calculator by its import path, or a short name; the cheap fidelity."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any, ClassVar

from pydantic import Field

from flows.engines.base import AseConfig, AseEngine, EngineCheck
from flows.errors import EngineOptionsError

NAMED = {
    "chgnet": "chgnet.model.dynamics:CHGNetCalculator",
    "emt": "ase.calculators.emt:EMT",
    "lj": "ase.calculators.lj:LennardJones",
}
"""Short names of calculators."""

QUIET_OPTIONS: dict[str, dict[str, Any]] = {"chgnet": {"use_device": "cpu"}}
"""Options of the named calculators that change no energy; the user's own come over them."""


class MlipConfig(AseConfig):
    """Options of the engine `mlip`."""

    calculator: str = Field(
        "chgnet", description="chgnet, emt, lj, or the path «module:Class» of an ASE calculator."
    )
    calculator_options: dict[str, Any] = Field(default={}, description="Keyword arguments of the calculator.")
    max_steps: int = Field(500, ge=2, description="Most steps of one try of a relaxation.")


class MlipEngine(AseEngine):
    """An ASE calculator as engine."""

    Config: ClassVar[type[AseConfig]] = MlipConfig

    @property
    def path(self) -> str:
        """Import path of the calculator."""
        name: str = self.config.calculator
        return NAMED.get(name, name)

    def settings(self) -> dict[str, Any]:
        """Return the calculator, its options and the version of the package it comes from."""
        return {
            "calculator": self.path,
            "calculator_options": self.config.model_dump(mode="json")["calculator_options"],
            "fmax_ev_per_ang": self.config.fmax_ev_per_ang,
            "version": self.version(),
        }

    def version(self) -> str:
        """Return the calculator's package with its version; the name alone for a module of no distribution."""
        package = self.path.split(".")[0].split(":")[0]
        try:
            return f"{package} {metadata.version(package)}"
        except (metadata.PackageNotFoundError, ValueError):  # an empty name is a ValueError
            return package

    def calculator(self) -> Any:
        """Return a new calculator.

        Raises:
            EngineOptionsError: It does not import, or does not take the options.
        """
        options = {**QUIET_OPTIONS.get(self.config.calculator, {}), **self.config.calculator_options}
        found = _class_at(self.path)
        try:
            return found(**options)
        except TypeError as error:
            raise EngineOptionsError(
                f"the calculator does not take these options ({error})",
                value=options,
                cure="correct calculator_options",
            ) from error

    def check(self) -> EngineCheck:
        """Try to import the calculator."""
        try:
            _class_at(self.path)
        except EngineOptionsError as error:
            return EngineCheck(False, error.what, error.cure)
        return EngineCheck(True, self.version())

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:  # noqa: ARG002
        """Return a few seconds: a universal potential on one core."""
        return 2.0 + 0.2 * n_atoms


def _class_at(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise EngineOptionsError(
            "the calculator does not import",
            value=path,
            allowed=[*NAMED, "module:Class"],
            cure=f"install its package or correct the path ({error})",
        ) from error
