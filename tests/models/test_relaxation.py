"""The batched relaxation, on ase's EMT potential (exact derivatives, milliseconds) and on awkward ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from models.relaxation import Evaluation, Geometry, RelaxationSettings, relax

SETTINGS = RelaxationSettings(max_steps=200, fmax=0.01)


def emt(geometries: Sequence[Geometry]) -> list[Evaluation | str]:
    answers: list[Evaluation | str] = []
    for geometry in geometries:
        atoms = to_atoms(geometry)
        atoms.calc = EMT()
        answers.append(
            Evaluation(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
        )
    return answers


def to_atoms(geometry: Geometry) -> Atoms:
    return Atoms(
        numbers=geometry.numbers, scaled_positions=geometry.frac_coords, cell=geometry.lattice, pbc=True
    )


def distorted(symbol: str, seed: int, scale: float = 1.04, shift: float = 0.08) -> Geometry:
    """A cubic fcc cell, swollen, sheared and shaken."""
    atoms = bulk(symbol, "fcc", cubic=True)
    rng = np.random.default_rng(seed)
    lattice = np.asarray(atoms.cell) * scale @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3)))
    coords = atoms.get_scaled_positions() + rng.normal(scale=shift, size=(len(atoms), 3)) @ np.linalg.inv(
        lattice
    )
    return Geometry(atoms.numbers.copy(), coords, lattice)


def test_it_finds_the_minimum_that_ase_finds() -> None:
    start = distorted("Cu", 0)
    outcome = relax([start], emt, SETTINGS)[0]
    atoms = to_atoms(start)
    atoms.calc = EMT()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.001, steps=500)
    assert outcome.converged
    assert outcome.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    assert outcome.geometry.volume == pytest.approx(atoms.get_volume(), rel=0.01)


def test_a_path_does_not_depend_on_batch_mates() -> None:
    starts = [distorted(symbol, seed) for seed, symbol in enumerate(["Cu", "Al", "Ni", "Au", "Pd"])]
    together = relax(starts, emt, SETTINGS)
    for start, outcome in zip(starts, together, strict=True):
        alone = relax([start], emt, SETTINGS)[0]
        assert alone.n_steps == outcome.n_steps
        np.testing.assert_array_equal(alone.geometry.frac_coords, outcome.geometry.frac_coords)


def test_converged_crystals_leave_the_batch() -> None:
    sizes: list[int] = []

    def counting(geometries: Sequence[Geometry]) -> list[Evaluation | str]:
        sizes.append(len(geometries))
        return emt(geometries)

    perfect = relax([distorted("Cu", 0)], emt, SETTINGS)[0].geometry
    outcomes = relax([perfect, distorted("Al", 1), distorted("Au", 2)], counting, SETTINGS)
    assert [outcome.converged for outcome in outcomes] == [True] * 3
    assert outcomes[0].n_steps == 0
    assert sizes[0] == 3
    assert sizes[1] == 2
    assert sum(sizes) == 3 + sum(outcome.n_steps for outcome in outcomes)


def test_one_that_cannot_be_evaluated_does_not_stop_the_others() -> None:
    def failing(geometries: Sequence[Geometry]) -> list[Evaluation | str]:
        answers = emt(geometries)
        return ["no gold here" if 79 in g.numbers else a for g, a in zip(geometries, answers, strict=True)]

    def failing_late(geometries: Sequence[Geometry]) -> list[Evaluation | str]:
        answers = emt(geometries)
        return [
            "lost" if 79 in g.numbers and g.volume < gold.volume else a
            for g, a in zip(geometries, answers, strict=True)
        ]

    gold = distorted("Au", 1)
    for potential, message in ((failing, "no gold here"), (failing_late, "lost")):
        outcomes = relax([distorted("Cu", 0), gold, distorted("Al", 2)], potential, SETTINGS)
        assert [outcome.error for outcome in outcomes] == [None, message, None]
        assert [outcome.converged for outcome in outcomes] == [True, False, True]
        assert np.isnan(outcomes[1].energy)


def test_an_exploding_crystal_is_told_and_bounded() -> None:
    def swelling(geometries: Sequence[Geometry]) -> list[Evaluation | str]:
        # E = -V: nothing holds the cell together
        return [Evaluation(-g.volume, np.zeros((len(g.numbers), 3)), -np.eye(3)) for g in geometries]

    outcome = relax([distorted("Cu", 0)], swelling, SETTINGS)[0]
    assert outcome.error is not None
    assert "exploded" in outcome.error


def test_steps_are_counted_and_limited() -> None:
    start = distorted("Cu", 3)
    for limit in (0, 1, 3):
        outcome = relax([start], emt, RelaxationSettings(max_steps=limit, fmax=1e-6))[0]
        assert outcome.n_steps == limit
        assert not outcome.converged
        assert outcome.error is None
        assert outcome.energy <= emt([start])[0].energy  # type: ignore[union-attr]


def test_without_the_cell_the_lattice_stays() -> None:
    start = distorted("Cu", 4)
    outcome = relax([start], emt, RelaxationSettings(200, 0.01, relax_cell=False))[0]
    assert outcome.converged
    np.testing.assert_array_equal(outcome.geometry.lattice, start.lattice)


def test_a_noisy_potential_ends() -> None:
    rng = np.random.default_rng(0)

    def noisy(geometries: Sequence[Geometry]) -> list[Evaluation | str]:
        answers = []
        for answer in emt(geometries):
            assert isinstance(answer, Evaluation)
            answers.append(Evaluation(answer.energy + rng.normal(scale=0.05), answer.forces, answer.stress))
        return answers

    outcome = relax([distorted("Cu", 5)], noisy, RelaxationSettings(max_steps=300, fmax=0.02))[0]
    assert outcome.converged


def test_no_crystals_no_outcomes() -> None:
    assert relax([], emt, SETTINGS) == []
