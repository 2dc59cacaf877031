"""Engine `gpaw`: plane-wave PAW density-functional theory with GPAW.

Energies are GPAW's extrapolation to zero smearing width. Stresses are those of a fixed cut-off: what the basis adds
when the cell changes (the Pulay stress) is corrected for, so that a relaxation ends at the volume where the recorded
energy is lowest. A static starts anew on its own cell, with a basis and k-points of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from flows.engines.base import AseConfig, EngineCheck
from flows.engines.dft import DftConfig, DftEngine, PresetName
from flows.job_context import job_folder
from flows.schemas import Calculation, ElectronicCalculation

PRESETS: dict[str, dict[str, float]] = {
    # Screening. Light elements and metals only: 300 eV is far too little for O, F, N and 3d metals.
    "fast": {
        "ecut_ev": 300.0, "kpts_per_inverse_ang": 3.5, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.05,
        "converge_energy_ev": 5e-4, "converge_density": 1e-3, "converge_eigenstates_ev2": 1e-5,
    },
    "normal": {
        "ecut_ev": 500.0, "kpts_per_inverse_ang": 5.0, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.03,
        "converge_energy_ev": 5e-4, "converge_density": 1e-4, "converge_eigenstates_ev2": 1e-6,
    },
    "precise": {
        "ecut_ev": 700.0, "kpts_per_inverse_ang": 7.0, "smearing_ev": 0.05, "fmax_ev_per_ang": 0.01,
        "converge_energy_ev": 1e-4, "converge_density": 1e-5, "converge_eigenstates_ev2": 4e-8,
    },
}  # fmt: skip
"""Values of the options that are left out; `GpawConfig` has their units."""

CORE_SECONDS: dict[str, float] = {"fast": 4.0, "normal": 10.0, "precise": 60.0}
"""Core-seconds of one atom, relaxation and static together; see `DftEngine.expected_core_seconds`."""


class GpawConfig(DftConfig):
    """Options of the engine `gpaw`; what is None comes from the preset."""

    preset: PresetName = Field(
        "normal", description="fast (screening without O, F, N, 3d metals), normal, precise."
    )
    xc: str = Field("PBE", description="Exchange-correlation functional as GPAW names it.")
    ecut_ev: float | None = Field(None, gt=100, description="Plane-wave cut-off [eV].")
    converge_energy_ev: float | None = Field(
        None, gt=0, description="Largest change of the energy in the last iterations [eV/electron]."
    )
    converge_density: float | None = Field(
        None, gt=0, description="Largest change of the density [electrons/valence electron]."
    )
    converge_eigenstates_ev2: float | None = Field(
        None, gt=0, description="Largest residual of the eigenstates [eV²/electron]."
    )
    spinpol: bool = Field(False, description="Spin-polarised, from ferromagnetic moments of 1 µB per atom.")
    max_scf: int = Field(200, ge=10, description="Most electronic iterations at one geometry.")


class GpawEngine(DftEngine):
    """GPAW with plane waves."""

    Config: ClassVar[type[AseConfig]] = GpawConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    core_seconds: ClassVar[Mapping[str, float]] = CORE_SECONDS

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy, the preset resolved."""
        return {**super().settings(), "datasets": "paw-pbe" if self.config.xc == "PBE" else "paw"}

    def known_elements(self) -> frozenset[str]:
        """Return the elements with a PAW dataset; none if GPAW is not installed here."""
        return _datasets(self.config.xc)

    def version(self) -> str:
        """Return the versions of GPAW and of its PAW data."""
        return ", ".join(f"{package} {_version(package)}" for package in ("gpaw", "gpaw-data"))

    def calculator(self) -> Any:
        """Return a GPAW calculator whose log is `gpaw.txt` in the job's folder."""
        from flows.engines.gpaw_calculator import FixedCutoffGpaw

        return FixedCutoffGpaw(self.settings(), max_scf=self.config.max_scf, folder=job_folder())

    def electronic_maker(self, *, moments: Mapping[str, float], mesh_per_inverse_ang: float) -> Any:
        """Return a Maker of electronic calculations; its spins come before the option `spinpol`."""
        from flows.engines.gpaw_electronic import GpawElectronicMaker

        return GpawElectronicMaker(
            engine=f"{type(self).__module__}:{type(self).__qualname__}",
            engine_options=self.config.model_dump(mode="json"),
            moments=dict(moments),
            mesh_per_inverse_ang=mesh_per_inverse_ang,
        )

    def read(self, output: Any) -> Calculation:
        """Read the output of one of the makers' jobs."""
        return output.calculation if isinstance(output, ElectronicCalculation) else super().read(output)

    def check(self) -> EngineCheck:
        """Compute nothing, but find GPAW and its PAW datasets."""
        if util.find_spec("gpaw") is None:
            return EngineCheck(False, "gpaw is not installed", "CC=g++ pip install gpaw gpaw-data")
        try:
            import gpaw  # noqa: F401
        except Exception as error:  # its compiled part may fail in any way
            cure = "CC=g++ pip install --force-reinstall gpaw"
            return EngineCheck(False, f"gpaw does not import: {error}", cure)
        known = _datasets(self.config.xc)
        if not known:
            return EngineCheck(False, f"no PAW datasets for {self.config.xc}", "pip install gpaw-data")
        return EngineCheck(True, f"{self.version()}, {len(known)} elements")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


@lru_cache(maxsize=4)
def _datasets(xc: str) -> frozenset[str]:
    """Return the elements that have a PAW dataset for a functional."""
    if util.find_spec("gpaw") is None:
        return frozenset()
    try:
        from gpaw import setup_paths
    except ImportError:
        return frozenset()
    suffixes = (f".{xc}", f".{xc}.gz")
    return frozenset(
        path.name.partition(".")[0]
        for folder in setup_paths
        if Path(folder).is_dir()
        for path in Path(folder).iterdir()
        if path.name.count(".") == suffixes[path.name.endswith(".gz")].count(".")
        and path.name.endswith(suffixes)
    )
