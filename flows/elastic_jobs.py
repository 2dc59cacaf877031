"""The job of the label flow `elastic` that no engine runs: the tensor from stresses of strained cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from jobflow import job
from pymatgen.analysis.elasticity import Deformation, ElasticTensor, Stress
from pymatgen.core import Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from flows.causes import OutputParseError
from flows.engines.ase_maker import plain_structure
from flows.schemas import ElasticSummary

GPA_PER_KBAR = -0.1
"""atomate2's stresses are in kbar, positive when compressed; here [GPa], negative when compressed."""

Matrix = npt.NDArray[np.float64]


@job(name="elastic tensor")
def elastic_job(
    relaxed: Structure, stress_kbar: Any, strained: Sequence[dict[str, Any]], symprec_ang: float
) -> dict[str, Any]:
    """Fit the elastic tensor of a crystal.

    Args:
        relaxed: The crystal without strain.
        stress_kbar: (3, 3) what is left of its stress, as atomate2 tells it.
        strained: `deformation` (3, 3) and `stress` (3, 3) [kbar] of each strained cell.
        symprec_ang: Tolerance of the symmetry that makes strains equal [Å].

    Returns:
        An `ElasticSummary`.

    Raises:
        OutputParseError: A stress is missing or no number.
    """
    deformations = [np.asarray(one["deformation"], dtype=np.float64) for one in strained]
    stresses = [_stress(one["stress"]) - _stress(stress_kbar) for one in strained]
    plain = plain_structure(relaxed)
    tensor = fitted_tensor(plain, deformations, stresses, symprec_ang)
    return elastic_summary(tensor.convert_to_ieee(plain), len(strained)).model_dump(mode="json")


def _stress(kbar: Any) -> Matrix:
    try:
        found: Matrix = GPA_PER_KBAR * np.asarray(kbar, dtype=np.float64).reshape(3, 3)
    except (TypeError, ValueError) as error:
        raise OutputParseError(f"a strained cell has no stress: {error}") from error
    if not np.isfinite(found).all():
        raise OutputParseError("the stress of a strained cell is no number")
    return found


def fitted_tensor(
    structure: Structure, deformations: Sequence[Matrix], stresses: Sequence[Matrix], symprec_ang: float
) -> ElasticTensor:
    """Return the tensor that fits stresses best, in the axes of the structure.

    Every operation of the crystal turns a strain and its stress into others that are as good as computed; all of them
    go into one fit by least squares, which so has the crystal's symmetry.

    Args:
        structure: The crystal without strain.
        deformations: (3, 3) each.
        stresses: (3, 3) each, Cauchy's, that of the unstrained crystal taken off [GPa].
        symprec_ang: Tolerance of the symmetry [Å].
    """
    operations = SpacegroupAnalyzer(structure, symprec=symprec_ang).get_symmetry_operations(cartesian=True)
    turns = np.unique(np.round([one.rotation_matrix for one in operations], 8), axis=0)
    strains, second = [], []
    for deformation, stress in zip(deformations, stresses, strict=True):
        strain = Deformation(deformation).green_lagrange_strain
        piola = np.asarray(Stress(stress).piola_kirchoff_2(deformation))
        strains += [turn @ np.asarray(strain) @ turn.T for turn in turns]
        second += [turn @ (piola + piola.T) / 2.0 @ turn.T for turn in turns]
    return ElasticTensor.from_pseudoinverse(strains, second)


def elastic_summary(tensor: ElasticTensor, n_deformations: int) -> ElasticSummary:
    """Return moduli and stability of a tensor.

    Born's criterion in its general form: the crystal is stable if the 6 × 6 matrix is positive definite (Mouhat and
    Coudert, Phys. Rev. B 90, 224104 (2014)). The averages of Voigt, Reuss and Hill, and the universal anisotropy of
    Ranganathan and Ostoja-Starzewski, Phys. Rev. Lett. 101, 055504 (2008), mean nothing for one that is not.
    """
    voigt = np.asarray(tensor.voigt, dtype=np.float64)
    lowest = float(np.linalg.eigvalsh((voigt + voigt.T) / 2.0).min())
    stable = lowest > 0.0
    return ElasticSummary(
        tensor_gpa=voigt.tolist(),
        lowest_eigenvalue_gpa=lowest,
        born_stable=stable,
        bulk_modulus_gpa=float(tensor.k_vrh) if stable else None,
        shear_modulus_gpa=float(tensor.g_vrh) if stable else None,
        young_modulus_gpa=9.0 * tensor.k_vrh * tensor.g_vrh / (3.0 * tensor.k_vrh + tensor.g_vrh)
        if stable
        else None,
        poisson_ratio=float(tensor.homogeneous_poisson) if stable else None,
        universal_anisotropy=float(tensor.universal_anisotropy) if stable else None,
        n_deformations=n_deformations,
    )
