"""Engine `abinit`: plane waves and norm-conserving pseudopotentials with ABINIT.

Energies are extrapolated to zero smearing width, stresses are those of a fixed cut-off (`abinit_calculator` says
how). The pseudopotentials are PseudoDojo's (M. J. van Setten et al., Comput. Phys. Commun. 226, 39 (2018)). Debian's
`abinit-data` has them for eleven elements; those of all others come from the PseudoDojo, format psp8.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from flows.engines.base import AseConfig
from flows.engines.code_run import answer_of, words_of
from flows.engines.dft import CodeEngine, DftConfig
from flows.job_context import job_folder

PRESETS: dict[str, dict[str, float]] = {
    # Screening. Elements of the third row and below without d electrons; O, N and 3d metals need 1100 eV.
    "fast": {
        "ecut_ev": 500.0, "kpts_per_inverse_ang": 3.5, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.05,
        "converge_potential_ha2": 1e-8,
    },
    # The PseudoDojo's hints for normal accuracy are at most 1150 eV for most elements.
    "normal": {
        "ecut_ev": 1150.0, "kpts_per_inverse_ang": 5.0, "smearing_ev": 0.1, "fmax_ev_per_ang": 0.03,
        "converge_potential_ha2": 1e-10,
    },
    "precise": {
        "ecut_ev": 1400.0, "kpts_per_inverse_ang": 7.0, "smearing_ev": 0.05, "fmax_ev_per_ang": 0.01,
        "converge_potential_ha2": 1e-12,
    },
}  # fmt: skip
"""Values of the options that are left out; `AbinitConfig` has their units."""

CORE_SECONDS: dict[str, float] = {"fast": 5.0, "normal": 50.0, "precise": 200.0}
"""Core-seconds of one atom, relaxation and static together; see `DftEngine.expected_core_seconds`."""

DATA = Path("/usr/share/abinit/psp")
"""Where Debian's `abinit-data` has families of pseudopotentials."""
SEARCHED = "ABINIT_PP_PATH"
"""Environment variable, ASE's, that names the folder of the pseudopotentials."""


class AbinitConfig(DftConfig):
    """Options of the engine `abinit`; what is None comes from the preset."""

    xc: Literal["PBE"] = Field("PBE", description="Exchange-correlation functional.")
    ecut_ev: float | None = Field(None, gt=100, description="Plane-wave cut-off [eV].")
    converge_potential_ha2: float | None = Field(
        None, gt=0, description="Largest squared residual of the potential, ABINIT's tolvrs [Ha²]."
    )
    spinpol: bool = Field(False, description="Spin-polarised, from ferromagnetic moments of 1 µB per atom.")
    pseudopotentials: str = Field(
        "Pseudodojo_nc_sr_04_pbe_standard_psp8", description="Name of the family, a setting of the label."
    )
    pseudo_dir: str | None = Field(
        None,
        description=f"Folder with <element>.psp8 of that family; left out: ${SEARCHED}, or Debian's of that name.",
    )
    command: str = Field("abinit", description="Launch line, such as «mpirun -n 4 abinit».")


class AbinitEngine(CodeEngine):
    """ABINIT with norm-conserving pseudopotentials of the PseudoDojo."""

    Config: ClassVar[type[AseConfig]] = AbinitConfig
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    core_seconds: ClassVar[Mapping[str, float]] = CORE_SECONDS
    debian = "abinit abinit-data"

    @property
    def pseudo_dir(self) -> Path:
        """Folder of the pseudopotentials on this machine."""
        said = self.config.pseudo_dir or os.environ.get(SEARCHED)
        return Path(said) if said else DATA / self.config.pseudopotentials

    def version(self) -> str:
        """Return what the code says of itself."""
        words = answer_of((*words_of(self.config.command), "--version")).split()
        return f"abinit {words[0]}" if words else "abinit not installed"

    def calculator(self) -> Any:
        """Return an ABINIT calculator whose files lie in the job's folder."""
        from flows.engines.abinit_calculator import AbinitCalculator

        config = self.config
        return AbinitCalculator(
            self.settings(), config.command, config.max_scf, job_folder(), self.pseudo_dir.absolute()
        )

    def response_maker(self) -> Any:
        """Return a Maker of responses to displacements."""
        from flows.engines.abinit_response import AbinitResponseMaker

        return AbinitResponseMaker(engine_options=self.config.model_dump(mode="json"))

    def lack(self) -> tuple[str, str]:
        """Return what is said where no element is known."""
        cure = f"Debian: apt-get install abinit-data; or set pseudo_dir or ${SEARCHED}"
        return f"no *.psp8 in {self.pseudo_dir}", cure

    def known_elements(self) -> frozenset[str]:
        """Return the elements with a pseudopotential in the folder, as far as it is on this machine."""
        from flows.engines.abinit_calculator import pseudos_in

        return frozenset(pseudos_in(self.pseudo_dir))
