"""A surrogate that learns: zeros of energy, gains on what it was not shown, forgetting, checkpoints, repetition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from models.errors import CheckpointError, TrainingDataError
from models.relaxation import Evaluation
from models.surrogates.base import TunableSurrogate
from models.surrogates.batched import as_geometry
from models.surrogates.chgnet import CHGNetConfig, CHGNetSurrogate
from models.surrogates.frames import EnergyShift, Frame, fit_shift, hold_out
from models.surrogates.tuning_config import TuningConfig
from models.testing import reference_crystals

EV_PER_ANG3_IN_GPA = 160.21766208


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def metals(symbols: str, n: int, seed: int, zero: float = 0.0) -> list[Frame]:
    """Return shaken crystals of pairs of metals with energies, forces and stresses by effective medium theory."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        a, b = rng.choice(symbols.split(), size=2)
        atoms = bulk(str(a), "fcc", a=float(rng.uniform(3.6, 4.1)), cubic=True)
        atoms.symbols[rng.integers(4)] = str(b)
        atoms.rattle(0.08, rng=rng)
        atoms.calc = EMT()
        stress = atoms.get_stress(voigt=False) * EV_PER_ANG3_IN_GPA
        structure = AseAtomsAdaptor.get_structure(atoms)
        plain = Structure(structure.lattice, structure.species, structure.frac_coords)
        frames.append(Frame(plain, atoms.get_potential_energy() / 4 + zero, atoms.get_forces(), stress))
    return frames


def tunable(**options: object) -> CHGNetSurrogate:
    quick = {"epochs": 3, "batch_size": 2, "learning_rate": 5e-4, "valid_fraction": 0.0, **options}
    return CHGNetSurrogate(CHGNetConfig(tuning=TuningConfig(**quick)))


def crystal(formula: str, share: float = 0.5) -> Structure:
    symbols = formula.split("-")
    return Structure(Lattice.cubic(4.0), symbols, [[k / len(symbols), 0, 0] for k in range(len(symbols))])


# --- zeros of energy ----------------------------------------------------------------------------------------


@given(st.floats(-3000, 3000), st.floats(-3000, 3000), st.floats(-3000, 3000))
def test_other_zeros_of_the_elements_are_found(a: float, b: float, c: float) -> None:
    formulas = ["Al", "Cu", "Ni", "Al-Cu", "Al-Ni", "Cu-Ni", "Al-Al-Cu", "Cu-Ni-Ni", "Al-Cu-Ni"]
    zero = {"Al": a, "Cu": b, "Ni": c}
    noise = np.random.default_rng(0).normal(scale=0.01, size=len(formulas))
    crystals = [crystal(one) for one in formulas]
    truth = np.array([np.mean([zero[symbol] for symbol in one.split("-")]) for one in formulas])
    frames = [Frame(one, float(level)) for one, level in zip(crystals, truth + noise, strict=True)]
    left = [one.energy_per_atom for one in fit_shift(frames, np.zeros(len(frames))).onto(frames)]
    assert np.abs(left).max() < 0.05


def test_a_single_formula_gives_a_constant_alone() -> None:
    frames = [Frame(crystal("Al-Cu"), energy) for energy in (5.0, 5.1, 5.05)]
    shift = fit_shift(frames, np.zeros(3))
    assert shift.constant == pytest.approx(5.05)
    assert not shift.by_element


def test_differences_as_small_as_the_surrogates_error_are_left_to_be_learned() -> None:
    frames = [Frame(crystal(one), level) for one, level in (("Al", 0.02), ("Cu", 0.0), ("Al-Cu", -0.03))]
    left = [one.energy_per_atom for one in fit_shift(frames, np.zeros(3)).onto(frames)]
    assert np.std(left) > 0.5 * np.std([0.02, 0.0, -0.03])


def test_one_absurd_energy_does_not_move_the_shift() -> None:
    frames = [Frame(crystal(one), 1.0) for one in ("Al", "Cu", "Ni", "Al-Cu", "Al-Ni", "Cu-Ni", "Al-Cu-Ni")]
    frames += [Frame(crystal("Al"), 1.01), Frame(crystal("Cu"), 0.99), Frame(crystal("Cu"), 90.0)]
    amounts = fit_shift(frames, np.zeros(len(frames))).of([crystal("Al-Ni"), crystal("Ni")])
    assert amounts == pytest.approx([1.0, 1.0], abs=0.1)


def test_frames_without_any_energy_have_no_shift() -> None:
    with pytest.raises(TrainingDataError):
        fit_shift([Frame(crystal("Al"))], [0.0])


def test_frames_of_one_formula_are_held_out_by_label() -> None:
    frames = [Frame(crystal("Al-Cu"), 0.0, group=f"label {number // 3}") for number in range(12)]
    learned, held = hold_out(frames, 0.4, 1)
    assert {one.group for one in learned}.isdisjoint({one.group for one in held})
    assert learned
    assert held


# --- learning -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_potential_that_is_too_soft_is_corrected_on_crystals_that_it_was_not_shown() -> None:
    """Universal potentials are too soft away from minima (B. Deng et al. 2025); here by a third."""
    packaged = CHGNetSurrogate()

    def stiff(frames: list[Frame]) -> list[Frame]:
        found = packaged.evaluate([as_geometry(one.structure) for one in frames])  # type: ignore[misc]
        return [
            replace(one, energy_per_atom=None, forces=1.5 * answer.forces, stress_gpa=None)
            for one, answer in zip(frames, found, strict=True)
            if isinstance(answer, Evaluation)
        ]

    surrogate, train, test = (
        tunable(epochs=6, learning_rate=1e-3),
        metals("Al Cu", 8, 0),
        metals("Al Cu", 4, 1),
    )
    before = surrogate.evaluate_frames(stiff(test))
    surrogate.fine_tune([replace(one, own_scale=True) for one in stiff(train)], [], 0)
    assert surrogate.evaluate_frames(stiff(test))["force:mae"] < 0.75 * before["force:mae"]


def test_another_zero_of_energy_is_not_learned() -> None:
    frames = metals("Al Cu", 4, 0, zero=100.0)
    surrogate = tunable(epochs=1)
    surrogate.fine_tune(frames, [], 0)
    assert surrogate.evaluate_frames(frames)["energy:mae"] < 1.0
    assert np.abs(surrogate.formation_energies([one.structure for one in frames])).max() < 2.0


def test_relaxations_and_the_version_follow_the_weights() -> None:
    surrogate, packaged = tunable(epochs=1), CHGNetSurrogate()
    silver = metals("Ag Cu", 6, 2)
    surrogate.fine_tune(silver, [], 0)
    crystals = [one.structure for one in silver[:2]]
    assert surrogate.version != packaged.version
    assert np.abs(surrogate.energies(crystals) - packaged.energies(crystals)).max() > 1e-4
    relaxed = surrogate.relax(crystals, fix_symmetry=False, max_steps=3, fmax_ev_per_ang=0.05)
    assert all(one.error is None for one in relaxed)
    # formation energies keep the zero of the packaged weights
    assert surrogate.element_energy("Ag") == packaged.element_energy("Ag")


@pytest.mark.slow
def test_replayed_crystals_are_forgotten_less() -> None:
    packaged = CHGNetSurrogate()
    crystals = [one.structure for one in reference_crystals()[:5]]
    known = [
        Frame(one, float(energy), own_scale=True)
        for one, energy in zip(crystals, packaged.energies(crystals), strict=True)
    ]
    frames = metals("Al Cu", 6, 3)
    alone, reminded = tunable(epochs=5), tunable(epochs=5)
    alone.fine_tune(frames, [], 0)
    reminded.fine_tune(frames, known, 0)
    assert reminded.evaluate_frames(known)["energy:mae"] < alone.evaluate_frames(known)["energy:mae"]


def test_without_a_gain_on_held_out_formulas_the_weights_stay_as_they_are() -> None:
    frames = metals("Al Cu Ni", 10, 4)
    wrong = np.random.default_rng(0)
    noise = [
        Frame(one.structure, one.energy_per_atom, wrong.normal(scale=5.0, size=(4, 3))) for one in frames
    ]
    surrogate = tunable(valid_fraction=0.4, learning_rate=3e-2, epochs=2)
    figures = surrogate.fine_tune(noise, [], 0)
    assert figures["loss_after"] <= figures["loss_before"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    versions = []
    for seed in (7, 7, 8):
        surrogate = tunable(epochs=1)
        surrogate.fine_tune(metals("Al Cu", 6, 5), [], seed)
        versions.append(surrogate.version)
    assert versions[0] == versions[1] != versions[2]


def test_energies_of_another_zero_are_refused_while_no_shift_is_known() -> None:
    with pytest.raises(TrainingDataError, match="scale"):
        CHGNetSurrogate().evaluate_frames(metals("Al Cu", 2, 6))


def test_what_cannot_be_treated_is_left_out_and_nothing_left_is_told() -> None:
    with pytest.raises(TrainingDataError, match="no frame to learn from"):
        tunable().fine_tune([Frame(crystal("Po-O"), 1.0, own_scale=True)], [], 0)


# --- checkpoints --------------------------------------------------------------------------------------------


def test_a_checkpoint_gives_the_same_surrogate_back(tmp_path: Path) -> None:
    surrogate, frames = tunable(epochs=1), metals("Al Cu Ni", 6, 7, zero=-50.0)
    surrogate.fine_tune(frames, [], 0)
    surrogate.save(tmp_path)
    again = CHGNetSurrogate.load(tmp_path, "cpu")
    assert isinstance(again, TunableSurrogate)
    assert again.version == surrogate.version
    assert again.config == surrogate.config
    assert again.evaluate_frames(frames) == surrogate.evaluate_frames(frames)
    assert isinstance(again._shift, EnergyShift)


def test_a_torn_checkpoint_is_told(tmp_path: Path) -> None:
    surrogate = tunable()
    surrogate.save(tmp_path)
    weights = next(tmp_path.glob("weights-*.pt"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="torn"):
        CHGNetSurrogate.load(tmp_path)
