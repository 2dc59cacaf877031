"""What engines of density-functional theory with an ASE calculator share: presets, k-points, limits, costs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from flows.engines.base import AseConfig, AseEngine, EngineCheck
from flows.schemas import Fidelity

PresetName = Literal["fast", "normal", "precise"]

NO_SETTING = frozenset({"preset", "max_steps", "max_scf", "command", "pseudo_dir"})
"""Options that change no energy by themselves."""


class DftConfig(AseConfig):
    """Options that every such engine has; what is None comes from the preset."""

    preset: PresetName = Field(
        "normal", description="fast (screening without first-row elements and 3d metals), normal, precise."
    )
    kpts_per_inverse_ang: float | None = Field(
        None,
        gt=0,
        description="Density of the Γ-centred k-points [points per Å⁻¹, 2π in the reciprocal cell].",
    )
    smearing_ev: float | None = Field(None, gt=0, description="Fermi-Dirac width [eV].")
    fmax_ev_per_ang: float | None = Field(
        None, gt=0, description="A relaxation ends when no force, on atoms or cell, exceeds this [eV/Å]."
    )
    max_steps: int = Field(60, ge=2, description="Most steps of one try of a relaxation.")
    max_scf: int = Field(100, ge=2, description="Most electronic iterations at one geometry.")


class DftEngine(AseEngine):
    """An engine whose options are presets that single options change."""

    Config: ClassVar[type[AseConfig]] = DftConfig
    fidelity = Fidelity.DFT
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Preset -> values of the options that are left out."""
    core_seconds: ClassVar[Mapping[str, float]] = {}
    """Preset -> core-seconds of one atom, relaxation and static together."""

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy, the preset resolved.

        The code's version is not among them: it is recorded on each label, and an update must not make every label
        of a campaign another one.
        """
        chosen = self.config.model_dump(mode="json", exclude=set(NO_SETTING), exclude_none=True)
        return {**self.presets[self.config.preset], **chosen}

    @property
    def fmax_ev_per_ang(self) -> float:
        """Force limit of relaxations [eV/Å]."""
        return float(self.settings()["fmax_ev_per_ang"])

    @abstractmethod
    def known_elements(self) -> frozenset[str]:
        """Return the elements that the code has data for; none if the data are not on this machine."""

    def unsupported(self, elements: Sequence[str]) -> tuple[str, ...]:
        """Return the elements without data; none where nothing is known, for the workers may have what is not here."""
        known = self.known_elements()
        return tuple(element for element in elements if known and element not in known)

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:  # noqa: ARG002
        """Return a rough cost: growing as n^1.5, measured on symmetric cells of 1 to 4 atoms on one core.

        Cells of low symmetry take several times as long, for their k-points.
        """
        return self.core_seconds[self.config.preset] * n_atoms**1.5


class CodeEngine(DftEngine):
    """An engine whose code is a program of its own, with an option `command` for its launch line."""

    debian: ClassVar[str] = ""
    """Debian's packages of the code."""

    @abstractmethod
    def lack(self) -> tuple[str, str]:
        """Return what is said where no element is known: what is missing where, and the cure."""

    def check(self) -> EngineCheck:
        """Run the code for its version, and look for its data."""
        version = self.version()
        if version.endswith("not installed"):
            cure = f"install it (Debian: apt-get install {self.debian}), or set the option command"
            return EngineCheck(False, f"{self.config.command!r} does not run", cure)
        known = self.known_elements()
        if not known:
            what, cure = self.lack()
            return EngineCheck(False, f"{version}, but {what}", cure)
        return EngineCheck(True, f"{version}, {len(known)} elements")
