"""SevenNet as surrogate: against its own calculator, on CHGNet's scale, and where it is not installed."""

from __future__ import annotations

from importlib import util

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models.errors import MissingPackageError
from models.relaxation import Evaluation
from models.surrogates.batched import as_geometry
from models.surrogates.chgnet import CHGNetSurrogate
from models.surrogates.mp2020 import corrections, hubbards_of
from models.surrogates.sevennet import SevenNetSurrogate
from models.testing import reference_crystals

installed = util.find_spec("sevenn") is not None
needs_sevenn = pytest.mark.skipif(not installed, reason="the optional package sevenn is not installed")


def rock_salt(a: str, b: str, length: float) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.skipif(installed, reason="the optional package sevenn is installed")
def test_without_the_package_the_cure_is_told() -> None:
    with pytest.raises(MissingPackageError, match="pip install"):
        SevenNetSurrogate().energies([rock_salt("Mg", "O", 4.2)])


def test_corrections_are_those_of_the_published_table() -> None:
    """Wang et al. 2021, table 1: -0.687 eV per O, -0.462 per F, -2.256 per Fe in oxides, -0.614 per Cl."""
    oxide, halide, with_u, alloy = (
        rock_salt("Mg", "O", 4.2),
        rock_salt("Li", "F", 4.0),
        rock_salt("Fe", "O", 4.3),
        rock_salt("Al", "Ni", 4.9),
    )
    found = corrections([oxide, halide, with_u, alloy])
    expected = [-0.687 / 2, -0.462 / 2, (-0.687 - 2.256) / 2, 0.0]
    assert found == pytest.approx(expected, abs=1e-3)
    assert hubbards_of(with_u) == {"Fe": 5.3, "O": 0.0}
    assert hubbards_of(rock_salt("Fe", "S", 5.0)) == {}


@needs_sevenn
def test_energy_forces_and_stress_are_its_own_calculators() -> None:
    from sevenn.calculator import SevenNetCalculator

    crystals = [item.structure.copy() for item in reference_crystals()[:3]]
    for seed, crystal in enumerate(crystals):
        crystal.perturb(0.05, seed=seed)
    answers = SevenNetSurrogate().evaluate([as_geometry(one) for one in crystals])  # type: ignore[misc]
    calculator = SevenNetCalculator("7net-0", device="cpu")
    for crystal, answer, added in zip(crystals, answers, corrections(crystals), strict=True):
        atoms = crystal.to_ase_atoms(msonable=False)
        atoms.calc = calculator
        assert isinstance(answer, Evaluation)
        assert answer.energy == pytest.approx(atoms.get_potential_energy() + added * len(atoms), abs=1e-4)
        np.testing.assert_allclose(answer.forces, atoms.get_forces(), atol=1e-4)
        np.testing.assert_allclose(answer.stress, atoms.get_stress(voigt=False), atol=1e-5)


@needs_sevenn
def test_with_corrections_it_agrees_with_chgnet_on_known_crystals() -> None:
    crystals = [item.structure for item in reference_crystals()[:12]]
    difference = SevenNetSurrogate().formation_energies(crystals) - CHGNetSurrogate().formation_energies(
        crystals
    )
    assert np.nanmean(np.abs(difference)) < 0.06
    assert np.isfinite(difference).sum() >= 10


@needs_sevenn
def test_crystals_relax_together_and_an_odd_one_harms_nobody() -> None:
    crystals = [rock_salt("Mg", "O", 4.4), Structure(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]])]
    good, odd = SevenNetSurrogate().relax(crystals, fix_symmetry=True, max_steps=40, fmax_ev_per_ang=0.05)
    assert good.converged
    assert good.structure.lattice.a == pytest.approx(4.25, abs=0.05)
    assert odd.error is not None
