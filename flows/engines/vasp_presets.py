"""What the presets of the engine `vasp` mean: makers, INCAR tags, k-points and POTCARs. Data only, imports no code.

Tags that are None are left to VASP's own default: atomate2's base set would fill them in.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from flows.cures import STEPS, Cure, iterations

RELAX_MAKER = "atomate2.vasp.jobs.core:RelaxMaker"
STATIC_MAKER = "atomate2.vasp.jobs.core:StaticMaker"
NELM = 60
"""VASP's default number of electronic iterations."""


@dataclass(frozen=True)
class Preset:
    """Where a label's inputs come from before the user's own options."""

    incar: dict[str, Any]
    """Tags over those of the makers' input set; energies in eV, forces in eV/Å."""
    kspacing: float | None = None
    """Spacing of Γ-centred k-points with its factor 2π [Å⁻¹]; None: the makers' own KPOINTS."""
    potcar_functional: str | None = "PBE_54"
    """POTCAR library; None: the makers' own."""
    relax_maker: str = RELAX_MAKER
    static_maker: str = STATIC_MAKER
    core_seconds: float = 600.0
    """Of one atom, relaxation and static together; a guess from core-hours that papers tell."""


PLAIN_PBE: dict[str, Any] = {
    "GGA": "PE", "LDAU": False, "LASPH": True, "PREC": "Accurate", "LREAL": False, "ENAUG": None,
    "LMIXTAU": None, "LAECHG": False, "LVTOT": False, "LELF": False, "LCHARG": False, "LWAVE": False,
}  # fmt: skip
"""PBE without U over atomate2's base set, which is PBEsol+U; no large output files."""

PRESETS: dict[str, Preset] = {
    # Screening without spin; 400 eV is little for O and F.
    "fast": Preset(
        {
            **PLAIN_PBE, "ENCUT": 400.0, "EDIFF": 1e-5, "EDIFFG": -0.05, "ISMEAR": 0, "SIGMA": 0.1,
            "ISPIN": 1,
        },
        kspacing=0.5,
        core_seconds=100.0,
    ),
    "normal": Preset(
        {
            **PLAIN_PBE, "ENCUT": 520.0, "EDIFF": 1e-6, "EDIFFG": -0.02, "ISMEAR": 0, "SIGMA": 0.05,
            "ISPIN": 2,
        },
        kspacing=0.3,
    ),
    "precise": Preset(
        {
            **PLAIN_PBE, "ENCUT": 600.0, "EDIFF": 1e-8, "EDIFFG": -0.001, "ISMEAR": 0, "SIGMA": 0.05,
            "ISPIN": 2,
        },
        kspacing=0.2,
        core_seconds=4000.0,
    ),
    # Materials Project GGA(+U): everything as atomate2's makers of MPRelaxSet and MPStaticSet have it.
    "mp": Preset(
        {},
        potcar_functional=None,
        relax_maker="atomate2.vasp.jobs.mp:MPGGARelaxMaker",
        static_maker="atomate2.vasp.jobs.mp:MPGGAStaticMaker",
        core_seconds=1200.0,
    ),
    # Zhu et al. (2024), Supplementary Information: normal and precise setting. The tetrahedron method, conjugate
    # gradients, ISYM 2 and SYMPREC 1e-5 are theirs; spin they do not mention, so it is VASP's default.
    "wycryst_normal": Preset(
        {
            **PLAIN_PBE, "ENCUT": None, "EDIFF": 1e-6, "EDIFFG": -1e-3, "ISMEAR": -5, "SIGMA": None,
            "ISYM": 2, "SYMPREC": 1e-5, "IBRION": 2, "ISPIN": 1,
        },
        kspacing=0.2,
        core_seconds=4000.0,
    ),
    "wycryst_precise": Preset(
        {
            **PLAIN_PBE, "ENCUT": 520.0, "EDIFF": 1e-8, "EDIFFG": -1e-4, "ISMEAR": -5, "SIGMA": None,
            "ISYM": 2, "SYMPREC": 1e-5, "IBRION": 2, "ISPIN": 1,
        },
        kspacing=0.15,
        core_seconds=12000.0,
    ),
}  # fmt: skip

NO_ENERGY = frozenset({
    "ALGO", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "EMAX", "EMIN", "IALGO", "IBRION", "ICHARG", "ISTART", "KPAR",
    "LAECHG", "LCHARG", "LELF", "LMIXTAU", "LORBIT", "LPLANE", "LSCALAPACK", "LSCALU", "LVHAR", "LVTOT", "LWAVE",
    "MAXMIX", "NCORE", "NEDOS", "NELMDL", "NELMIN", "NPAR", "NSIM", "NWRITE", "POTIM", "SYSTEM", "TIME",
})  # fmt: skip
"""Tags that say how fast, by which way or with which files VASP computes: no settings of a label."""

SAID_ELSEWHERE: dict[str, str] = {
    "ISIF": "the flow's option relax_cell",
    "KSPACING": "the option kspacing",
    "NELM": "the option max_scf",
    "NSW": "the option max_steps",
}
"""Tags that the options below do not take, and what says them."""


def cured_tags(tags: Mapping[str, Any], cured: AbstractSet[Cure]) -> dict[str, Any]:
    """Return the tags that cures change; they decide how VASP gets to its result, not which it is.

    Args:
        tags: Those of the job so far.
        cured: The cures of this try.
    """
    most = tags.get("NELM", NELM)
    changed: dict[str, Any] = {} if iterations(most, cured) == most else {"NELM": iterations(most, cured)}
    if Cure.SLOW_MIXING in cured:
        changed |= {
            "AMIX": 0.1,
            "BMIX": 0.0001,
        }  # nearly linear, as VASP's manual advises where densities slosh
    if Cure.OTHER_ALGORITHM in cured:
        changed["ALGO"] = "All"
    if Cure.MORE_STEPS in cured and tags.get("NSW", 0) > 1:
        changed["NSW"] = STEPS * tags["NSW"]
    return changed
