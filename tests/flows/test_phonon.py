"""The label flow `phonon` with quick potentials: numbers, stability, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.phonons import Phonons
from crystals import copper
from pymatgen.core import Lattice, Structure

from flows.errors import LabelInputError
from flows.job_files import read_result
from flows.run import build_label, settings_of
from flows.schemas import LabelDoc
from flows.supercells import layer_spacings, q_mesh, supercell_matrix
from flows.testing import label

pytest.importorskip("phonopy", reason="phonopy is not installed")

EMT_OPTIONS = {"calculator": "emt", "fmax_ev_per_ang": 1e-3}
SMALL = {"min_supercell_ang": 7.0, "q_points_per_inverse_ang": 3.0}


@pytest.fixture(scope="module")
def phonons_of_copper(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelDoc, Path]:
    folder = tmp_path_factory.mktemp("copper")
    return label(copper(), "phonon", "mlip", EMT_OPTIONS, folder, **SMALL), folder


def test_frequencies_are_those_of_ase(phonons_of_copper: tuple[LabelDoc, Path], tmp_path: Path) -> None:
    found, _ = phonons_of_copper
    assert found.phonon is not None
    cell = Structure.from_dict(found.structure)
    atoms = bulk("Cu", "fcc", float((4.0 * cell.volume) ** (1.0 / 3.0)))
    other = Phonons(atoms, EMT(), supercell=(6, 6, 6), delta=0.01, name=str(tmp_path / "ase"))
    other.run()
    other.read(acoustic=True)
    at_x = np.array(other.band_structure([[0.5, 0.0, 0.5]])).ravel() / 4.135667696e-3  # eV to THz
    assert found.phonon.max_frequency_thz == pytest.approx(at_x.max(), rel=0.04)
    assert found.phonon.dynamically_stable
    assert found.phonon.min_frequency_thz > -0.05


def test_the_label_says_how_it_was_made(phonons_of_copper: tuple[LabelDoc, Path]) -> None:
    found, _ = phonons_of_copper
    phonon = found.phonon
    assert phonon is not None
    assert phonon.supercell_matrix == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert (phonon.n_supercell_atoms, phonon.n_displacements) == (32, 1)
    assert found.flow == "phonon"
    assert found.steps[0].n_ionic_steps > 0
    # Half a quantum per mode: between none and three modes of the highest frequency.
    assert 0.0 < phonon.zero_point_energy_per_atom < 1.5 * phonon.max_frequency_thz * 4.135667696e-3
    assert phonon.free_energy_300k_per_atom < phonon.zero_point_energy_per_atom


def test_bands_and_densities_lie_outside_the_document(phonons_of_copper: tuple[LabelDoc, Path]) -> None:
    found, folder = phonons_of_copper
    assert found.phonon is not None
    result = read_result(folder / f"{found.phonon.data_uuid}-1", found.phonon.data_uuid, 1)
    assert result is not None
    large = {blob["store"]: blob for blob in result["data"]}
    assert set(large) == {"data"}
    assert len(result["data"]) == 4
    by_keys = {frozenset(blob["data"]): blob["data"] for blob in result["data"]}
    bands = next(data for keys, data in by_keys.items() if "q_points" in keys)
    assert len(bands["frequencies_thz"]) == len(bands["q_points"]) == len(bands["connected"])
    dos = next(data for keys, data in by_keys.items() if "states_per_thz" in keys)
    area = np.trapezoid(dos["states_per_thz"], dos["frequencies_thz"])
    assert area == pytest.approx(3.0, rel=0.1)  # three branches
    constants = next(data for keys, data in by_keys.items() if "ev_per_ang2" in keys)
    assert np.abs(np.sum(constants["ev_per_ang2"], axis=1)).max() < 1e-6  # acoustic sum rule


def test_an_unstable_crystal_has_imaginary_modes(tmp_path: Path) -> None:
    simple_cubic = Structure(Lattice.cubic(2.4), ["Cu"], [[0, 0, 0]])
    found = label(simple_cubic, "phonon", "mlip", EMT_OPTIONS, tmp_path, **SMALL)
    assert found.phonon is not None
    assert found.spacegroup_after == 221
    assert found.phonon.min_frequency_thz < -0.5
    assert not found.phonon.dynamically_stable


def test_the_tolerance_decides_what_is_noise(tmp_path: Path) -> None:
    simple_cubic = Structure(Lattice.cubic(2.4), ["Cu"], [[0, 0, 0]])
    options: dict[str, Any] = {**SMALL, "imaginary_tolerance_thz": 50.0}
    found = label(simple_cubic, "phonon", "mlip", EMT_OPTIONS, tmp_path, **options)
    assert found.phonon is not None
    assert found.phonon.dynamically_stable


def test_a_supercell_that_is_too_large_is_refused(tmp_path: Path) -> None:
    from flows.errors import ContractError

    with pytest.raises(ContractError, match="max_supercell_atoms"):
        label(copper(), "phonon", "mlip", EMT_OPTIONS, tmp_path, min_supercell_ang=30.0)


def test_settings_hold_the_displacements() -> None:
    one, other = (
        settings_of("phonon", "mlip", {"calculator": "emt"}, {"displacement_ang": moved})
        for moved in (0.01, 0.02)
    )
    assert one["flow_options"]["displacement_ang"] == 0.01
    assert one != other
    assert build_label(copper().as_dict(), "phonon", "mlip", {"calculator": "emt"}, {})["jobs"]


@pytest.mark.parametrize(
    ("lattice", "least", "expected"),
    [
        (Lattice.cubic(5.43), 10.0, [2, 2, 2]),
        (Lattice.cubic(5.0), 10.0, [2, 2, 2]),
        (Lattice.tetragonal(3.0, 12.0), 9.0, [3, 3, 1]),
        (Lattice.hexagonal(4.0, 5.0), 8.0, [3, 3, 2]),  # faces of a hexagonal cell lie a·√3/2 apart
    ],
)
def test_supercells_by_hand(lattice: Lattice, least: float, expected: list[int]) -> None:
    found = supercell_matrix(np.array(lattice.matrix), 2, least, 500)
    assert [found[i][i] for i in range(3)] == expected
    assert np.count_nonzero(np.array(found)) == 3
    grown = np.array(found) @ lattice.matrix
    assert layer_spacings(grown).min() >= least - 0.02


def test_too_many_atoms_are_told() -> None:
    with pytest.raises(LabelInputError, match="6 × 6 × 6, would have 1728 atoms"):
        supercell_matrix(np.array(Lattice.cubic(2.0).matrix), 8, 12.0, 256)


def test_meshes_grow_with_the_reciprocal_cell() -> None:
    assert q_mesh(np.diag([2.0, 1.0, 0.1]), 4.0) == [8, 4, 1]
