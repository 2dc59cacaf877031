"""A folder with the one pseudopotential of silicon for PBE that Debian's quantum-espresso-data ships."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.engines.espresso import EspressoEngine

SILICON = Path("/usr/share/espresso/pseudo/Si.pbe-rrkj.UPF")


def here() -> bool:
    return SILICON.exists() and not EspressoEngine().version().endswith("not installed")


needs_espresso = pytest.mark.skipif(
    not here(),
    reason="no pw.x with its examples; Debian: apt-get install quantum-espresso quantum-espresso-data",
)


def with_silicon(folder: Path) -> dict[str, Any]:
    """Options of the engine that find it."""
    pseudos = folder / "pseudos"
    pseudos.mkdir(exist_ok=True)
    shutil.copy(SILICON, pseudos)
    return {
        "preset": "fast", "ecut_ev": 250.0, "density_factor": 4.0, "kpts_per_inverse_ang": 2.5,
        "pseudopotentials": "RRKJ of Debian", "pseudo_dir": str(pseudos),
    }  # fmt: skip
