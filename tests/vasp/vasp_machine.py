"""A machine for tests of the engine `vasp`: a command that stands in for VASP, and POTCARs that hold no data.

The POTCARs are headers written here: title, valence, cut-off. There is nothing of VASP's in them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pymatgen.io.vasp.inputs import POTCAR_FUNCTIONAL_MAP

STAND_IN = Path(__file__).with_name("stand_in.py")

ELEMENTS: dict[str, tuple[str, float, float]] = {
    "Al": ("3p1", 3.0, 240.3), "Ni": ("3d9", 10.0, 269.5), "Cu": ("3d10", 11.0, 295.4),
    "Pd": ("4d9", 10.0, 250.9), "Ag": ("4d10", 11.0, 249.8), "Pt": ("5d9", 10.0, 230.3),
    "Au": ("5d10", 11.0, 229.9),
}  # fmt: skip
"""Valence configuration, electrons, and a cut-off near that of common PAW data [eV]."""


def command(fail: str = "") -> str:
    """Return the launch line of the stand-in, which may be told to fail."""
    return f"{sys.executable} {STAND_IN}" + (f" --fail {fail}" if fail else "")


def write_potcars(
    root: Path, functionals: Sequence[str] = ("PBE", "PBE_54"), elements: Sequence[str] = tuple(ELEMENTS)
) -> Path:
    """Write a POTCAR library and return its folder."""
    for functional in functionals:
        folder = root / POTCAR_FUNCTIONAL_MAP[functional]
        folder.mkdir(parents=True, exist_ok=True)
        for element in elements:
            for suffix in ("", "_pv"):
                (folder / f"POTCAR.{element}{suffix}").write_text(potcar(f"{element}{suffix}"))
    return root


def potcar(symbol: str) -> str:
    """Return a POTCAR without data."""
    element = symbol.partition("_")[0]
    valence, electrons, enmax = ELEMENTS[element]
    return f"""  PAW_PBE {symbol} 01Jan2000
   {electrons:.6f}
 parameters from PSCTR are:
   VRHFIN ={element}: {valence}
   LEXCH  = PE
   TITEL  = PAW_PBE {symbol} 01Jan2000
   LPAW   =        T    paw PP
   POMASS =   50.000; ZVAL   =   {electrons:.3f}    mass and valenz
   ENMAX  =  {enmax:.3f}; ENMIN  =  {0.75 * enmax:.3f} eV
   END of PSCTR-controll parameters
 placeholder numbers: this file is for tests
  0.10000000E+01  0.20000000E+01  0.30000000E+01
 End of Dataset
"""
