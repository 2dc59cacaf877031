"""Engine `cp2k`: Gaussians and plane waves with GTH pseudopotentials, by CP2K.

Basis sets are MOLOPT's (J. VandeVondele and J. Hutter, J. Chem. Phys. 127, 114105 (2007)), pseudopotentials those of
Goedecker, Teter and Hutter for PBE (M. Krack, Theor. Chem. Acc. 114, 145 (2005)). Debian's `cp2k-data` has both for
more than 70 elements. Energies are extrapolated to zero smearing width (`cp2k_calculator` says how).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from flows.engines.base import AseConfig
from flows.engines.code_run import answer_of, words_of
from flows.engines.cp2k_data import Kind, kinds_in
from flows.engines.dft import CodeEngine, DftConfig, PresetName
from flows.job_context import job_folder

PRESETS: dict[str, dict[str, float | str]] = {
    "fast": {
        "basis": "DZVP-MOLOPT-SR-GTH", "cutoff_ry": 300.0, "rel_cutoff_ry": 50.0, "eps_default": 1e-10,
        "kpts_per_inverse_ang": 3.5, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.05, "converge_density": 1e-5,
    },
    "normal": {
        "basis": "DZVP-MOLOPT-SR-GTH", "cutoff_ry": 500.0, "rel_cutoff_ry": 60.0, "eps_default": 1e-12,
        "kpts_per_inverse_ang": 5.0, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.03, "converge_density": 1e-6,
    },
    "precise": {
        "basis": "TZV2P-MOLOPT-PBE-GTH", "cutoff_ry": 800.0, "rel_cutoff_ry": 80.0, "eps_default": 1e-14,
        "kpts_per_inverse_ang": 7.0, "smearing_ev": 0.05, "fmax_ev_per_ang": 0.01, "converge_density": 1e-7,
    },
}  # fmt: skip
"""Values of the options that are left out; `Cp2kConfig` has their units."""

CORE_SECONDS: dict[str, float] = {"fast": 20.0, "normal": 60.0, "precise": 400.0}
"""Core-seconds of one atom, relaxation and static together; see `DftEngine.expected_core_seconds`."""

DATA = Path("/usr/share/cp2k")
"""Where Debian's `cp2k-data` has its tables."""
SEARCHED = "CP2K_DATA_DIR"
"""Environment variable, CP2K's own, that names the folder of its tables."""
TABLES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("-PBE-GTH", ("BASIS_MOLOPT_UZH",), "POTENTIAL_UZH"),
    ("-GTH", ("BASIS_MOLOPT", "BASIS_MOLOPT_UCL"), "GTH_POTENTIALS"),
)
"""End of a basis set's name, files with such basis sets, file with the pseudopotentials that they were made for."""
FAMILIES = {"PBE": "GTH-PBE"}
"""Pseudopotentials of a functional."""


class Cp2kConfig(DftConfig):
    """Options of the engine `cp2k`; what is None comes from the preset."""

    preset: PresetName = Field("normal", description="fast (screening), normal, precise (a larger basis).")
    xc: Literal["PBE"] = Field("PBE", description="Exchange-correlation functional.")
    basis: str | None = Field(
        None,
        pattern="-GTH$",
        description="Basis set without its end -q4, such as SZV-MOLOPT-SR-GTH.",
    )
    cutoff_ry: float | None = Field(None, gt=20, description="Cut-off of the density's finest grid [Ry].")
    rel_cutoff_ry: float | None = Field(
        None, gt=10, description="Cut-off that maps Gaussians to the grids [Ry]."
    )
    eps_default: float | None = Field(
        None, gt=0, lt=1e-4, description="Accuracy of integrals, CP2K's EPS_DEFAULT."
    )
    converge_density: float | None = Field(
        None, gt=0, description="Largest change of the density matrix, CP2K's EPS_SCF."
    )
    pseudo_dir: str | None = Field(
        None, description=f"Folder of CP2K's tables; left out: ${SEARCHED}, or {DATA}."
    )
    command: str = Field("cp2k.psmp", description="Launch line, such as «mpirun -n 4 cp2k.psmp».")


class Cp2kEngine(CodeEngine):
    """CP2K with Gaussians, plane waves and GTH pseudopotentials."""

    Config: ClassVar[type[AseConfig]] = Cp2kConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    core_seconds: ClassVar[Mapping[str, float]] = CORE_SECONDS
    debian = "cp2k cp2k-data"

    def settings(self) -> dict[str, Any]:
        """Return what decides an energy; the pseudopotentials follow from functional and basis set."""
        found = super().settings()
        return {**found, "pseudopotentials": f"{FAMILIES[self.config.xc]} of {tables_of(found['basis'])[1]}"}

    @property
    def pseudo_dir(self) -> Path:
        """Folder of CP2K's tables on this machine."""
        return Path(self.config.pseudo_dir or os.environ.get(SEARCHED) or DATA)

    def version(self) -> str:
        """Return what the code says of itself."""
        said = answer_of((*words_of(self.config.command), "--version"))
        found = re.search(r"CP2K version (\S+)", said)
        return f"cp2k {found[1]}" if found else "cp2k not installed"

    def calculator(self) -> Any:
        """Return a CP2K calculator whose files lie in the job's folder."""
        from flows.engines.cp2k_calculator import Cp2kCalculator

        folder, settings = self.pseudo_dir.absolute(), self.settings()
        bases, potentials = tables_of(settings["basis"])
        return Cp2kCalculator(
            settings,
            self.config.command,
            self.config.max_scf,
            job_folder(),
            files=tuple(folder / name for name in (*bases, potentials)),
            kinds=self._kinds(),
        )

    def lack(self) -> tuple[str, str]:
        """Return what is said where no element is known."""
        cure = f"Debian: apt-get install cp2k-data; or set pseudo_dir or ${SEARCHED}; or choose another basis"
        return f"no basis sets in {self.pseudo_dir}", cure

    def known_elements(self) -> frozenset[str]:
        """Return the elements with a basis set and a pseudopotential in the tables on this machine."""
        return frozenset(self._kinds())

    def _kinds(self) -> dict[str, Kind]:
        basis = self.settings()["basis"]
        bases, potentials = tables_of(basis)
        return kinds_in(self.pseudo_dir, bases, potentials, basis, FAMILIES[self.config.xc])


def tables_of(basis: str) -> tuple[tuple[str, ...], str]:
    """Return the files with a basis set, and the one with its pseudopotentials."""
    return next((bases, potentials) for end, bases, potentials in TABLES if basis.endswith(end))
