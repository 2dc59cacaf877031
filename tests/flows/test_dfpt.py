"""Phonons by perturbation theory: what follows from responses, and ABINIT's responses themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ase.calculators.emt import EMT
from crystals import copper, silicon
from phonopy import Phonopy
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from flows.building import job_records
from flows.causes import OutputParseError
from flows.dfpt import divisors_of, origins, with_atomic_phases
from flows.dfpt_jobs import needed_points, response_phonons, symmetries_of, transform_of
from flows.engines.abinit import AbinitEngine
from flows.engines.abinit_response import AbinitResponseMaker, response_in
from flows.errors import EngineOptionsError
from flows.phonon_jobs import phonons_of, plain_of, prepared
from flows.run import build_label, run_job_once, settings_of
from flows.testing import label

HERE = AbinitEngine().check()
needs_abinit = pytest.mark.skipif(not HERE.ok, reason=f"{HERE.what}; {HERE.cure}")

OPTIONS: dict[str, Any] = {
    "symprec_ang": 0.01, "displacement_ang": 0.01, "q_points_per_inverse_ang": 3.0,
}  # fmt: skip


def hexagonal() -> Structure:
    return Structure.from_spacegroup("P6_3/mmc", Lattice.hexagonal(2.6, 4.3), ["Cu"], [[1 / 3, 2 / 3, 0.25]])


def ordered_alloy() -> Structure:
    return Structure(Lattice.tetragonal(2.75, 3.6), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def monoclinic() -> Structure:
    cell = Lattice.monoclinic(2.9, 4.6, 5.2, 104.0)
    return Structure.from_spacegroup("P2_1/m", cell, ["Cu", "Au"], [[0.2, 0.25, 0.1], [0.3, 0.25, 0.6]])


def displaced(unit: Structure, supercell: npt.NDArray[np.int64]) -> Any:
    """Phonons by displacements with a potential."""
    phonon = prepared(unit, supercell, OPTIONS)
    phonon.generate_displacements(distance=OPTIONS["displacement_ang"])
    forces = []
    for cell in phonon.supercells_with_displacements:
        atoms = AseAtomsAdaptor.get_atoms(plain_of(cell))
        atoms.calc = EMT()
        forces.append(atoms.get_forces())
    return phonons_of(unit, supercell, forces, OPTIONS)


def response_of(phonon: Phonopy, q_point: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    """What a code would compute at a point: the Fourier transform with the phases of lattice vectors."""
    phonon.dynamical_matrix.run(q_point)
    roots = np.sqrt(np.repeat(phonon.primitive.masses, 3))
    with_phases = phonon.dynamical_matrix.dynamical_matrix * np.outer(roots, roots)
    return with_atomic_phases(with_phases, -q_point, phonon.primitive.scaled_positions)


@pytest.mark.parametrize(
    ("unit", "repeats"),
    [
        (hexagonal(), (3, 3, 2)),
        (ordered_alloy(), (2, 2, 3)),
        (monoclinic(), (3, 2, 2)),
        (copper().to_conventional(), (2, 2, 2)),
    ],
    ids=["screw axes", "two elements", "four atoms", "centred"],
)
def test_responses_at_few_points_give_the_force_constants_that_they_came_from(
    unit: Structure, repeats: tuple[int, int, int]
) -> None:
    supercell = np.diag(repeats)
    known = displaced(unit, supercell)
    points = transform_of(known.phonon).commensurate_points
    needed = needed_points(known.phonon)
    assert 1 < len(needed) < len(points)
    responses = [response_of(known.phonon, points[index]) for index in needed]
    found = response_phonons(unit, supercell, responses, OPTIONS)
    assert np.abs(found.phonon.force_constants - known.phonon.force_constants).max() < 1e-4
    assert np.allclose(found.frequencies(), known.frequencies(), atol=2e-3)
    assert (found.n_responses, found.n_displacements) == (len(needed), 0)


def test_responses_that_contradict_one_another_are_told() -> None:
    unit, supercell = hexagonal(), np.diag((3, 3, 2))
    known = displaced(unit, supercell)
    points = transform_of(known.phonon).commensurate_points
    responses = [response_of(known.phonon, points[index]) for index in needed_points(known.phonon)]
    skewed = [one * np.exp(0.3j) for one in responses]
    with pytest.raises(OutputParseError, match="contradict"):
        response_phonons(unit, supercell, skewed, OPTIONS)
    drifting = [one + 0.3 * np.abs(one).max() * np.eye(len(one)) for one in responses]
    with pytest.raises(OutputParseError, match=r"acoustic sum rule is broken by \d+%: raise"):
        response_phonons(unit, supercell, drifting, OPTIONS)
    with pytest.raises(OutputParseError, match="wanted"):
        response_phonons(unit, supercell, responses[:-1], OPTIONS)


def test_points_that_stand_for_themselves_come_first() -> None:
    phonon = prepared(copper().to_conventional(), np.diag((1, 1, 1)), OPTIONS)
    points = transform_of(phonon).commensurate_points
    assert len(points) == 4  # Γ and the three X
    assert len(needed_points(phonon)) == 2
    found = origins(points, symmetries_of(phonon))
    assert all(one.point <= index for index, one in enumerate(found))
    assert divisors_of(points) == (2, 2, 2)


def test_an_engine_without_perturbation_theory_is_refused_with_the_cure() -> None:
    with pytest.raises(EngineOptionsError, match="engine mlip has no perturbation theory") as raised:
        settings_of("phonon", "mlip", {"calculator": "emt"}, {"method": "dfpt"})
    assert "displacements" in raised.value.one_line()
    with pytest.raises(EngineOptionsError):
        build_label(copper().as_dict(), "phonon", "mlip", {"calculator": "emt"}, {"method": "dfpt"})
    chosen = settings_of("phonon", "abinit", {}, {"method": "dfpt"})
    assert chosen["flow_options"]["method"] == "dfpt"


def test_a_database_without_all_derivatives_is_torn() -> None:
    text = " natom 1\n 2nd derivatives (non-stat.)  - # elements : 1\n 1 1 1 1 0.5D+00 0.0D+00\n"
    with pytest.raises(OutputParseError, match="lacks derivatives"):
        response_in(text, np.eye(3))


def abinits_response(cell: Structure, q_point: list[float], folder: Path) -> npt.NDArray[np.complex128]:
    options = {"preset": "fast", "ecut_ev": 200.0, "kpts_per_inverse_ang": 0.5}
    (record,) = job_records(AbinitResponseMaker(engine_options=options).make(cell, q_point, [3, 3, 1]))
    result = run_job_once(record["job"], [], str(folder))
    assert result["ok"], result["failure"]
    output = result["docs"][0]["output"]
    return np.array(output["real"]) + 1j * np.array(output["imag"])


@needs_abinit
@pytest.mark.slow
def test_a_response_is_the_same_in_a_left_handed_cell(tmp_path: Path) -> None:
    """Without a centre of inversion q and -q differ, so a wrong sign would show."""
    cell = Structure(
        Lattice.from_parameters(3.6, 4.0, 4.2, 80, 95, 100), ["Al", "Si"], [[0, 0, 0], [0.4, 0.5, 0.6]]
    )
    order = [1, 0, 2]
    mirrored = Structure(Lattice(cell.lattice.matrix[order]), cell.species, cell.frac_coords[:, order])
    one = abinits_response(cell, [1 / 3, 0.0, 0.0], tmp_path / "one")
    other = abinits_response(mirrored, [0.0, 1 / 3, 0.0], tmp_path / "other")
    assert np.abs(one.imag).max() > 0.1
    assert np.abs(one - other).max() < 2e-3
    assert np.abs(one - one.conj().T).max() < 2e-3


@needs_abinit
@pytest.mark.slow
def test_silicon_by_abinits_perturbation_theory(tmp_path: Path) -> None:
    """Measured: 15.5 THz at Γ (Nilsson and Nelin, Phys. Rev. B 6, 3777 (1972)); PBE gives about 15.2 THz."""
    engine = {"preset": "fast", "ecut_ev": 330.0, "kpts_per_inverse_ang": 2.0}
    options = {"method": "dfpt", "min_supercell_ang": 5.0, "q_points_per_inverse_ang": 6.0}
    found = label(silicon(5.47), "phonon", "abinit", engine, tmp_path, **options)
    assert found.phonon is not None
    assert 14.5 < found.phonon.max_frequency_thz < 16.5
    assert found.phonon.dynamically_stable
    assert found.phonon.min_frequency_thz > -0.05
    assert (found.phonon.n_responses, found.phonon.n_displacements) == (2, 0)
    assert not list(tmp_path.glob("*/*WF*"))
