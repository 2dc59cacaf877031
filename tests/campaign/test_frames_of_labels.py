"""Frames of labels: thinned, near-duplicates dropped, calculations joined; VASP's and ASE's told alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from campaign.acquisition.beliefs import (
    SURROGATE_PRIOR_EV_PER_ATOM,
    belief_of,
    surrogate_error,
    surrogate_errors,
)
from campaign.frames import _relative, thinned
from campaign.surrogate_task import judged
from flows.trajectory import MOST_ROWS, spread_out, trajectory_document, trajectory_of

CRYSTAL = Structure(Lattice.cubic(4.0), ["Cu", "Al"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def trajectory(energies: list[float], *, stress: bool = True) -> dict:
    """Return a trajectory whose forces differ from step to step."""
    n = len(energies)
    forces = [np.full((2, 3), 0.1 * (n - step)) for step in range(n)]
    stresses = [np.eye(3) * 10.0 * step for step in range(n)] if stress else None
    return trajectory_document(
        CRYSTAL.atomic_numbers,
        [CRYSTAL.lattice.matrix] * n,
        [CRYSTAL.cart_coords] * n,
        energies,
        forces=forces,
        stresses_kbar=stresses,
    )


@given(st.integers(1, 500), st.integers(1, 60))
def test_first_and_last_are_kept_and_the_rest_lies_evenly_between(n, most):
    places = spread_out(n, most)
    assert len(places) <= most
    assert places == sorted(set(places))
    assert places[-1] == n - 1
    if most > 1:
        assert places[0] == 0
        gaps = np.diff(places)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_calculations_are_joined_where_they_meet_and_the_last_energy_is_zero():
    frames = _relative(
        [trajectory([-1.0, -2.0, -3.0]), trajectory([-50.0])]
    )  # the static has a basis of its own
    assert [one["energy_ev_per_atom"] for one in frames] == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_near_duplicates_are_dropped_and_the_last_keeps_the_stress_that_it_lacks():
    moving = trajectory([-1.0, -3.0])
    static = trajectory([-50.0], stress=False)
    static["forces_ev_per_ang"] = [moving["forces_ev_per_ang"][-1]]
    found = thinned(_relative([moving, static]), 8)
    assert [one["energy_ev_per_atom"] for one in found] == pytest.approx([1.0, 0.0])
    assert found[-1]["stress_gpa"] == moving["stresses_gpa"][-1]


def test_large_trajectories_are_thinned_before_they_are_stored():
    n_atoms, n = 2_000, 300
    document = trajectory_document(
        [29] * n_atoms,
        np.zeros((n, 3, 3)),
        np.zeros((n, n_atoms, 3)),
        np.zeros(n),
        forces=np.zeros((n, n_atoms, 3)),
        stresses_kbar=None,
    )
    assert len(document["steps"]) * n_atoms <= MOST_ROWS
    assert document["steps"][0] == 0
    assert document["steps"][-1] == n - 1


def test_the_ionic_steps_of_vasp_become_a_trajectory_with_the_sign_of_ase():
    def step(energy: float) -> dict:
        return {
            "structure": CRYSTAL.as_dict(),
            "e_0_energy": energy,
            "e_fr_energy": energy - 1.0,
            "forces": [[0.0, 0.0, 0.1], [0.0, 0.0, -0.1]],
            "stress": [[50.0, 0, 0], [0, 50.0, 0], [0, 0, 50.0]],  # kbar, compressed
        }

    # emmet lists the runs of a calculation with the last one first
    output = {
        "calcs_reversed": [
            {"output": {"ionic_steps": [step(-3.0)]}},
            {"output": {"ionic_steps": [step(-2.0)]}},
        ]
    }
    found = trajectory_of(output, [])
    assert found is not None
    assert found["energies_ev"] == [-2.0, -3.0]
    assert found["stresses_gpa"][0][0][0] == -5.0
    assert found["forces_ev_per_ang"][1][0] == [0.0, 0.0, 0.1]


def test_an_output_without_geometries_has_no_trajectory():
    assert trajectory_of({"energy": 1.0}, [{"data": {"band_structure": {}}}]) is None


# --- beliefs and the gate -----------------------------------------------------------------------------------


def test_one_version_is_believed_as_before():
    pairs = [(0.1, 0.2), (0.0, 0.05)]
    errors = surrogate_errors([("", *pair) for pair in pairs])
    assert errors.by_version[""] == surrogate_error(pairs)
    assert surrogate_errors([]).others == SURROGATE_PRIOR_EV_PER_ATOM


def test_each_version_is_believed_by_its_own_labels_and_a_new_one_like_those_before():
    old = [("t0", 0.0, 0.3)] * 10
    new = [("t1", 0.0, 0.01)] * 10
    errors = surrogate_errors(old + new)
    assert errors.by_version["t1"] < errors.by_version["t0"]
    predictions = [{"e_above_hull": 0.0, "surrogate_model": name} for name in ("t0", "t1", "t2")]
    _, std = belief_of(predictions, errors)
    assert std == pytest.approx([errors.by_version["t0"], errors.by_version["t1"], errors.others])


def test_noise_of_forces_that_vanish_by_symmetry_decides_nothing():
    before = {"labels": {"energy:mae": 0.1, "force:mae": 1e-7}}
    assert judged(before, {"labels": {"energy:mae": 0.05, "force:mae": 1e-5}}, 0.05)[0]


@pytest.mark.parametrize(
    ("labels", "reference", "passed"),
    [
        ({"energy:mae": 0.05, "force:mae": 0.1}, {"energy:mae": 0.03}, True),
        ({"energy:mae": 0.05, "force:mae": 0.3}, {"energy:mae": 0.03}, False),
        ({"energy:mae": 0.2, "force:mae": 0.1}, {"energy:mae": 0.03}, False),
        ({"energy:mae": 0.05, "force:mae": 0.1}, {"energy:mae": 0.06}, False),
        ({"energy:mae": 0.05}, {"energy:mae": 0.03}, False),  # forces are no longer finite
    ],
)
def test_no_figure_of_the_gate_may_get_worse(labels, reference, passed):
    before = {"labels": {"energy:mae": 0.1, "force:mae": 0.2}, "reference": {"energy:mae": 0.03}}
    found, why = judged(before, {"labels": labels, "reference": reference}, 0.05)
    assert found is passed
    assert "labels: held-out energy:mae" in why
