"""The label flows `elastic` and `eos` with quick potentials, held against energies and stresses by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from crystals import copper
from pymatgen.analysis.elasticity import Deformation, ElasticTensor, Strain
from pymatgen.core import Lattice, Structure

from flows.causes import OutputParseError
from flows.elastic_jobs import elastic_summary, fitted_tensor
from flows.eos_jobs import eos_summary
from flows.errors import EngineOptionsError
from flows.registry import LABEL_FLOWS, build
from flows.schemas import LabelDoc
from flows.testing import label

EMT_OPTIONS = {"calculator": "emt", "fmax_ev_per_ang": 1e-3}
GPA_PER_EV_PER_ANG3 = 160.21766


@pytest.fixture(scope="module")
def elastic_copper(tmp_path_factory: pytest.TempPathFactory) -> LabelDoc:
    return label(copper(), "elastic", "mlip", EMT_OPTIONS, tmp_path_factory.mktemp("elastic"))


def constants_by_hand(edge_ang: float) -> tuple[float, float, float]:
    """C11, C12, C44 [GPa] of EMT copper from stresses, without any of our code."""
    h = 1e-3
    stresses = {}
    for name, strain in (
        ("normal", np.diag([h, 0, 0])),
        ("shear", np.array([[0, h, 0], [h, 0, 0], [0, 0, 0]])),
    ):
        for sign in (1, -1):
            atoms = bulk("Cu", "fcc", edge_ang)
            atoms.set_cell(atoms.cell @ (np.eye(3) + sign * strain), scale_atoms=True)
            atoms.calc = EMT()
            stresses[name, sign] = atoms.get_stress(voigt=False) * GPA_PER_EV_PER_ANG3
    normal = (stresses["normal", 1] - stresses["normal", -1]) / (2 * h)
    shear = (stresses["shear", 1] - stresses["shear", -1]) / (4 * h)  # the engineering strain is 2 h
    return normal[0, 0], normal[1, 1], shear[0, 1]


def test_elastic_constants_are_those_of_stresses_by_hand(elastic_copper: LabelDoc) -> None:
    found = elastic_copper.elastic
    assert found is not None
    edge = (4.0 * elastic_copper.volume) ** (1.0 / 3.0)
    tensor = np.array(found.tensor_gpa)
    c11, c12, c44 = constants_by_hand(edge)
    assert tensor[0, 0] == pytest.approx(c11, rel=0.03)
    assert tensor[0, 1] == pytest.approx(c12, rel=0.03)
    assert tensor[3, 3] == pytest.approx(c44, rel=0.03)
    # Cubic: three constants and nothing else.
    cubic = np.diag([tensor[0, 0] - tensor[0, 1]] * 3 + [tensor[3, 3]] * 3)
    cubic[:3, :3] += tensor[0, 1]
    assert np.allclose(tensor, cubic, atol=0.5)


def test_moduli_follow_from_the_constants(elastic_copper: LabelDoc) -> None:
    found = elastic_copper.elastic
    assert found is not None
    assert found.born_stable
    c11, c12, c44 = found.tensor_gpa[0][0], found.tensor_gpa[0][1], found.tensor_gpa[3][3]
    assert found.bulk_modulus_gpa == pytest.approx((c11 + 2 * c12) / 3, rel=0.01)
    voigt = (c11 - c12 + 3 * c44) / 5
    reuss = 5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12))
    assert found.shear_modulus_gpa == pytest.approx((voigt + reuss) / 2, rel=0.01)
    assert found.universal_anisotropy == pytest.approx(5 * voigt / reuss - 5, abs=0.02)
    k, g = found.bulk_modulus_gpa, found.shear_modulus_gpa
    assert found.poisson_ratio == pytest.approx((3 * k - 2 * g) / (6 * k + 2 * g), abs=1e-6)
    assert found.n_deformations < 24  # symmetry leaves out most of them


def test_a_crystal_that_a_strain_relieves_is_unstable(tmp_path: Path) -> None:
    simple_cubic = Structure(Lattice.cubic(2.4), ["Cu"], [[0, 0, 0]])
    found = label(simple_cubic, "elastic", "mlip", EMT_OPTIONS, tmp_path).elastic
    assert found is not None
    assert found.lowest_eigenvalue_gpa < 0.0
    assert not found.born_stable
    assert (found.bulk_modulus_gpa, found.poisson_ratio) == (None, None)


def test_a_tensor_of_low_symmetry_is_found_again() -> None:
    # A triclinic crystal: 21 constants, every strain computed.
    rng = np.random.default_rng(3)
    made = rng.normal(scale=10.0, size=(6, 6))
    truth = 100.0 * np.eye(6) + made + made.T
    crystal = Structure(
        Lattice.from_parameters(4, 5, 6, 80, 95, 105), ["Cu", "Au"], [[0, 0, 0], [0.4, 0.3, 0.6]]
    )
    deformations, stresses = [], []
    for kind in range(6):
        for size in (-0.002, 0.002):
            strain = Strain.from_voigt(size * np.eye(6)[kind])
            deformation = Deformation(strain.get_deformation_matrix())
            second = ElasticTensor.from_voigt(truth).calculate_stress(deformation.green_lagrange_strain)
            deformations.append(np.asarray(deformation))
            stresses.append(deformation @ second @ deformation.T / np.linalg.det(deformation))
    found = fitted_tensor(crystal, deformations, stresses, 0.01)
    assert np.allclose(np.asarray(found.voigt), truth, atol=0.5)
    assert elastic_summary(found, 12).born_stable == bool((np.linalg.eigvalsh(truth) > 0).all())


def test_the_equation_of_state_agrees_with_the_elastic_constants(
    elastic_copper: LabelDoc, tmp_path: Path
) -> None:
    doc = label(copper(), "eos", "mlip", EMT_OPTIONS, tmp_path)
    found = doc.equation_of_state
    assert found is not None
    assert elastic_copper.elastic is not None
    assert found.bulk_modulus_gpa == pytest.approx(elastic_copper.elastic.bulk_modulus_gpa, rel=0.05)
    assert found.volume_per_atom == pytest.approx(doc.volume_per_atom, rel=0.01)
    assert found.energy_per_atom == pytest.approx(doc.energy_per_atom, abs=2e-3)
    assert found.largest_error_ev_per_atom < 2e-3
    assert len(found.volumes_per_atom) == len(found.energies_per_atom) == 7


def test_energies_without_a_minimum_are_no_equation_of_state() -> None:
    volumes = [9.0, 9.5, 10.0, 10.5, 11.0]
    with pytest.raises(OutputParseError):
        eos_summary(volumes, [-0.1 * volume for volume in volumes])


@pytest.mark.parametrize(
    "factors", [[0.9, 1.0, 1.1], [1.0, 1.02, 1.04, 1.06, 1.08], [0.2, 0.9, 1.0, 1.1, 1.2]]
)
def test_volumes_that_decide_nothing_are_refused(factors: list[float]) -> None:
    with pytest.raises(EngineOptionsError, match="on both sides of 1"):
        build("eos", LABEL_FLOWS, "label flow", {"volume_factors": factors})
