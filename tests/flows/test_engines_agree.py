"""Codes that differ in basis, pseudopotentials and authors give the same crystal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crystals import silicon
from espresso_pseudos import here as espresso_is_here
from espresso_pseudos import with_silicon

from flows.registry import ENGINES, resolve
from flows.testing import label

BULK_DERIVATIVE = 4.2
"""Of silicon's bulk modulus by the pressure; two volumes cannot tell it."""

COARSE: dict[str, dict[str, Any]] = {
    "abinit": {"preset": "fast", "ecut_ev": 350.0, "kpts_per_inverse_ang": 2.5},
    "cp2k": {"preset": "fast", "kpts_per_inverse_ang": 2.5},
    "espresso": {},  # needs a folder of pseudopotentials
    "gpaw": {"preset": "fast", "kpts_per_inverse_ang": 2.5},
}


def murnaghan(volumes: list[float], pressures: list[float]) -> tuple[float, float]:
    """Volume and bulk modulus at no pressure, from P = B/B' ((V₀/V)^B' - 1) at two volumes."""
    powers = np.array(volumes) ** -BULK_DERIVATIVE
    slope = float(np.diff(pressures)[0] / np.diff(powers)[0])
    modulus = -BULK_DERIVATIVE * (pressures[0] - slope * powers[0])
    return float((slope * BULK_DERIVATIVE / modulus) ** (1 / BULK_DERIVATIVE)), float(modulus)


def test_murnaghans_equation_is_inverted() -> None:
    volumes = [39.0, 42.0]
    pressures = [90.0 / BULK_DERIVATIVE * ((40.9 / one) ** BULK_DERIVATIVE - 1) for one in volumes]
    assert murnaghan(volumes, pressures) == pytest.approx((40.9, 90.0))


@pytest.mark.slow
@pytest.mark.parametrize("engine", [*COARSE])
def test_every_code_finds_the_silicon_of_pbe(engine: str, tmp_path: Path) -> None:
    """PBE: 5.469 Å and 89 GPa (K. Lejaeghere et al., Science 351, aad3000 (2016))."""
    kind = resolve(engine, ENGINES, "engine")
    options = COARSE[engine]
    if engine == "espresso" and espresso_is_here():
        options = with_silicon(tmp_path)
    here = kind(kind.Config(**options)).check()
    if not here.ok:
        pytest.skip(f"{here.what}; {here.cure}")
    found = [label(silicon(edge), "static", engine, options, tmp_path) for edge in (5.40, 5.54)]
    pressures = [-float(np.trace(np.array(one.stress_gpa))) / 3 for one in found]
    volume, modulus = murnaghan([one.volume for one in found], pressures)
    assert (4 * volume) ** (1 / 3) == pytest.approx(5.469, abs=0.025)
    assert modulus == pytest.approx(89.0, rel=0.08)
    print(f"{engine}: {(4 * volume) ** (1 / 3):.4f} Å, {modulus:.1f} GPa")  # noqa: T201
