"""Phonons and elastic constants of real crystals by real density-functional theory.

Cut-offs, k-points and supercells are the coarsest that hold the numbers asked for with room to spare; about two
minutes of one core together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crystals import silicon
from pymatgen.core import Lattice, Structure

from flows.schemas import PhononSummary
from flows.testing import label

pytest.importorskip("gpaw", reason="GPAW is not installed: CC=g++ pip install gpaw gpaw-data")
pytest.importorskip("phonopy", reason="phonopy is not installed")

pytestmark = pytest.mark.slow

FAST = {"preset": "fast", "converge_density": 1e-4, "converge_eigenstates_ev2": 1e-6}
"""Forces on displaced atoms are small: the density is converged further than for energies."""


def phonons_of(crystal: Structure, folder: Path, least_ang: float, **options: Any) -> PhononSummary:
    found = label(
        crystal,
        "phonon",
        "gpaw",
        {**FAST, **options},
        folder,
        min_supercell_ang=least_ang,
        q_points_per_inverse_ang=4.0,
    )
    assert found.phonon is not None
    assert found.spacegroup_after == found.spacegroup_before
    return found.phonon


@pytest.mark.long
def test_silicon_is_stable_and_its_highest_frequency_is_the_measured_one(tmp_path: Path) -> None:
    # 4 × 4 × 4 k-points for the primitive cell, Γ for the supercell of 64 atoms
    found = phonons_of(silicon(5.47), tmp_path, 10.0, ecut_ev=250.0, kpts_per_inverse_ang=1.6)
    assert found.n_supercell_atoms == 64
    assert found.dynamically_stable
    assert found.min_frequency_thz > -0.05
    # 15.53 THz at Γ: G. Dolling, Inelastic Scattering of Neutrons in Solids and Liquids, vol. II, IAEA 1963, p. 37;
    # PBE gives 15.0 to 15.3 THz
    assert found.max_frequency_thz == pytest.approx(15.5, abs=1.0)
    assert found.n_displacements == 1  # symmetry leaves one
    # Half of the mean quantum, 3 modes of 2 to 15.5 THz for each atom: 0.06 eV
    assert found.zero_point_energy_per_atom == pytest.approx(0.06, abs=0.01)


def test_rock_salt_is_stable(tmp_path: Path) -> None:
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    ).get_primitive_structure()
    found = phonons_of(salt, tmp_path, 5.5, ecut_ev=300.0, kpts_per_inverse_ang=1.5)
    assert found.dynamically_stable
    assert found.n_displacements == 2
    # Transverse optical mode at Γ: 4.9 THz (164 cm⁻¹), C. Kittel, Introduction to Solid State Physics; without the
    # field of the longitudinal one, which this flow leaves out, it is the highest.
    assert found.max_frequency_thz == pytest.approx(4.9, abs=0.7)


def test_body_centred_aluminium_is_unstable(tmp_path: Path) -> None:
    """Close-packed metals tend to be unstable as bcc: G. Grimvall et al., Rev. Mod. Phys. 84, 945 (2012)."""
    half = 3.24 / 2
    aluminium = Structure(
        Lattice([[-half, half, half], [half, -half, half], [half, half, -half]]), ["Al"], [[0, 0, 0]]
    )
    found = phonons_of(aluminium, tmp_path, 6.0, ecut_ev=250.0, kpts_per_inverse_ang=2.0, smearing_ev=0.3)
    assert not found.dynamically_stable
    assert found.min_frequency_thz < -1.0  # -3.3 THz with these settings


def test_elastic_constants_of_diamond_are_the_measured_ones(tmp_path: Path) -> None:
    diamond = Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(3.57), ["C"], [[0, 0, 0]]
    ).get_primitive_structure()
    options = {**FAST, "ecut_ev": 600.0, "kpts_per_inverse_ang": 1.5, "fmax_ev_per_ang": 0.02}
    found = label(diamond, "elastic", "gpaw", options, tmp_path, strains=[-0.01, 0.01]).elastic
    assert found is not None
    assert found.born_stable
    # H. J. McSkimin and P. Andreatch, J. Appl. Phys. 43, 2944 (1972) [GPa]
    c11, c12, c44 = (found.tensor_gpa[i][k] for i, k in ((0, 0), (0, 1), (3, 3)))
    assert c11 == pytest.approx(1079.0, rel=0.1)
    assert c12 == pytest.approx(124.0, rel=0.1)
    assert c44 == pytest.approx(578.0, rel=0.1)
    assert found.bulk_modulus_gpa == pytest.approx(442.0, rel=0.1)
