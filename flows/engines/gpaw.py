"""Engine `gpaw`: plane-wave PAW density-functional theory with GPAW, through atomate2's ASE makers.

A relaxation keeps the number of plane waves of its first cell in the sense of a fixed cut-off; the static that
follows starts anew on the relaxed cell, so that its energy has no trace of the first cell's basis. Energies are
GPAW's extrapolation to zero smearing width.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata, util
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from flows.engines.base import EngineCheck, EngineConfig
from flows.schemas import Fidelity

if TYPE_CHECKING:
    from flows.engines.ase_makers import GpawMaker

Preset = Literal["fast", "normal", "precise"]

PRESETS: dict[str, dict[str, float]] = {
    "fast": {"ecut_ev": 300.0, "kpts_per_inverse_ang": 2.5, "fmax_ev_per_ang": 0.08, "convergence_ev": 1e-3},
    "normal": {
        "ecut_ev": 400.0,
        "kpts_per_inverse_ang": 4.0,
        "fmax_ev_per_ang": 0.03,
        "convergence_ev": 5e-4,
    },
    "precise": {
        "ecut_ev": 600.0,
        "kpts_per_inverse_ang": 6.0,
        "fmax_ev_per_ang": 0.01,
        "convergence_ev": 1e-4,
    },
}
"""Cut-off [eV], k-points per Å⁻¹ of reciprocal length (2π included), force limit [eV/Å], energy [eV/electron]."""


class GpawConfig(EngineConfig):
    """Options of the engine `gpaw`; what is None comes from the preset."""

    preset: Preset = Field("normal", description="fast (screening), normal, precise.")
    xc: str = Field("PBE", description="Exchange-correlation functional as GPAW names it.")
    ecut_ev: float | None = Field(None, gt=100, description="Plane-wave cut-off [eV].")
    kpts_per_inverse_ang: float | None = Field(None, gt=0, description="k-point density [points per Å⁻¹].")
    smearing_ev: float = Field(0.1, gt=0, description="Fermi-Dirac width [eV].")
    fmax_ev_per_ang: float | None = Field(
        None, gt=0, description="Largest force that counts as relaxed [eV/Å]."
    )
    max_steps: int = Field(60, ge=2, description="Most steps of a relaxation.")
    max_scf: int = Field(150, ge=10, description="Most electronic iterations.")
    spinpol: bool = Field(False, description="Spin-polarised.")


class GpawEngine:
    """GPAW with plane waves."""

    Config: ClassVar[type[GpawConfig]] = GpawConfig
    fidelity = Fidelity.DFT

    def __init__(self, config: GpawConfig | None = None) -> None:
        self.config = config or GpawConfig()

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy, the preset resolved."""
        chosen = {
            key: value
            for key, value in self.config.model_dump(mode="json").items()
            if key != "preset" and value is not None
        }
        return {**PRESETS[self.config.preset], **chosen, "version": self.version()}

    def version(self) -> str:
        """Return the versions of GPAW and of its PAW data."""
        found = []
        for package in ("gpaw", "gpaw-data"):
            try:
                found.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                found.append(f"{package} not installed")
        return ", ".join(found)

    def relax_maker(self, *, fix_symmetry: bool, relax_cell: bool) -> GpawMaker:
        """Return a Maker that relaxes."""
        from flows.engines.ase_makers import GpawMaker

        settings = self.settings()
        return GpawMaker(
            name="relax",
            calculator_kwargs=settings,
            fix_symmetry=fix_symmetry,
            relax_cell=relax_cell,
            symprec=1e-3,
            steps=self.config.max_steps,
            fmax_ev_per_ang=settings["fmax_ev_per_ang"],
        )

    def static_maker(self) -> GpawMaker:
        """Return a Maker that computes one structure."""
        from flows.engines.ase_makers import GpawMaker

        return GpawMaker(name="static", calculator_kwargs=self.settings(), steps=0)

    def check(self) -> EngineCheck:
        """Compute nothing, but find GPAW and its PAW setups."""
        cure = "CC=g++ pip install gpaw gpaw-data"
        if util.find_spec("gpaw") is None:
            return EngineCheck(False, "gpaw is not installed", cure)
        try:
            from gpaw import setup_paths

            if util.find_spec("gpaw_data") is None and not setup_paths:
                return EngineCheck(False, "no PAW setups", "pip install gpaw-data")
        except ImportError as error:
            return EngineCheck(False, f"gpaw does not import: {error}", cure)
        return EngineCheck(True, self.version())

    def expected_core_seconds(self, n_atoms: int, elements: Sequence[str]) -> float:  # noqa: ARG002
        """Return a rough cost: measured about 3 s per atom and relaxation step for small cells at `fast`."""
        effort = {"fast": 1.0, "normal": 4.0, "precise": 20.0}[self.config.preset]
        return effort * 3.0 * n_atoms**1.5
