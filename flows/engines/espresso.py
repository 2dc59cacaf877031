"""Engine `espresso`: plane waves with pw.x of Quantum ESPRESSO and the user's own pseudopotentials.

Energies are extrapolated to zero smearing width, stresses are those of a fixed cut-off (`espresso_calculator` says
how). Debian's `quantum-espresso-data` has examples of pseudopotentials only; a whole family, such as the SSSP
(G. Prandini et al., npj Comput. Mater. 4, 72 (2018)), goes into a folder that the options or the environment name.
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
from flows.engines.dft import CodeEngine, DftConfig
from flows.job_context import job_folder

PRESETS: dict[str, dict[str, float]] = {
    "fast": {
        "ecut_ev": 400.0, "kpts_per_inverse_ang": 3.5, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.05,
        "converge_energy_ry": 1e-7,
    },
    "normal": {
        "ecut_ev": 680.0, "kpts_per_inverse_ang": 5.0, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.03,
        "converge_energy_ry": 1e-8,
    },
    "precise": {
        "ecut_ev": 1100.0, "kpts_per_inverse_ang": 7.0, "smearing_ev": 0.05, "fmax_ev_per_ang": 0.01,
        "converge_energy_ry": 1e-10,
    },
}  # fmt: skip
"""Values of the options that are left out; `EspressoConfig` has their units."""

CORE_SECONDS: dict[str, float] = {"fast": 4.0, "normal": 20.0, "precise": 100.0}
"""Core-seconds of one atom, relaxation and static together; see `DftEngine.expected_core_seconds`."""

SEARCHED = "ESPRESSO_PSEUDO"
"""Environment variable, Quantum ESPRESSO's own, that names the folder of the pseudopotentials."""


class EspressoConfig(DftConfig):
    """Options of the engine `espresso`; what is None comes from the preset."""

    xc: Literal["PBE"] = Field("PBE", description="Functional of the pseudopotentials.")
    ecut_ev: float | None = Field(None, gt=100, description="Plane-wave cut-off [eV].")
    density_factor: float = Field(
        8.0,
        ge=4,
        description="Cut-off of the density by that of the waves; 4 suffices for norm-conserving ones.",
    )
    converge_energy_ry: float | None = Field(
        None, gt=0, description="Largest estimated error of the energy, pw.x's conv_thr [Ry]."
    )
    pseudopotentials: str = Field(
        "SSSP 1.3 PBE efficiency", description="Name of the family in pseudo_dir, a setting of the label."
    )
    pseudo_dir: str | None = Field(
        None, description=f"Folder with <element>.*.UPF of that family; left out: ${SEARCHED}."
    )
    command: str = Field("pw.x", description="Launch line, such as «mpirun -n 4 pw.x».")


class EspressoEngine(CodeEngine):
    """Quantum ESPRESSO's pw.x with the user's own pseudopotentials."""

    Config: ClassVar[type[AseConfig]] = EspressoConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    core_seconds: ClassVar[Mapping[str, float]] = CORE_SECONDS
    debian = "quantum-espresso"

    @property
    def pseudo_dir(self) -> Path | None:
        """Folder of the pseudopotentials on this machine, if it is known."""
        said = self.config.pseudo_dir or os.environ.get(SEARCHED)
        return Path(said).absolute() if said else None

    def version(self) -> str:
        """Return what the code says of itself when it is given nothing to do."""
        found = re.search(r"Program PWSCF\s+v\.?(\S+)", answer_of(words_of(self.config.command)))
        return f"espresso {found[1]}" if found else "espresso not installed"

    def calculator(self) -> Any:
        """Return a calculator whose files lie in the job's folder."""
        from flows.engines.espresso_calculator import EspressoCalculator

        config = self.config
        return EspressoCalculator(
            self.settings(), config.command, config.max_scf, job_folder(), pseudo_dir=self.pseudo_dir
        )

    def lack(self) -> tuple[str, str]:
        """Return what is said where no element is known."""
        cure = f"set pseudo_dir or ${SEARCHED} to a folder with a *.UPF for each element, such as the SSSP's"
        return f"no *.UPF in {self.pseudo_dir or 'any folder named'}", cure

    def known_elements(self) -> frozenset[str]:
        """Return the elements with a pseudopotential in the folder, as far as it is on this machine."""
        from flows.engines.espresso_calculator import pseudos_in

        return frozenset(pseudos_in(self.pseudo_dir))
