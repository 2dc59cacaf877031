"""The jobs of phonons by perturbation theory that no engine runs: which points, and frequencies from responses."""

from __future__ import annotations

from typing import Any

import numpy as np
from jobflow import CURRENT_JOB, Flow, Response, job
from phonopy import Phonopy
from phonopy.harmonic.dynmat_to_fc import DynmatToForceConstants
from pymatgen.core import Structure

from flows.causes import OutputParseError
from flows.dfpt import Complexes, Symmetries, all_matrices, divisors_of, origins
from flows.phonon_jobs import LARGE, Phonons, frequencies_of, plain_of, prepared

WORST_REAL = 0.01
"""Force constants of a crystal are real; what is left of an imaginary part, by the largest of them, is numerical."""

LARGEST_DRIFT = 0.1
"""Force on a crystal that is moved as a whole, by the largest force constant: more means too low a cut-off. What is
less is taken off the force constants, as with displacements."""


@job(name="responses")
def run_responses(
    unit: Structure, supercell: list[list[int]], maker: Any, options: dict[str, Any]
) -> Response:
    """Replace this job by one response of the primitive cell for each point that follows from no other.

    Args:
        unit: Conventional cell.
        supercell: (3, 3) whole numbers.
        maker: What `flows.engines.base.DfptEngine.response_maker` gives.
        options: Of `flows.phonon.PhononConfig`.
    """
    phonon = prepared(unit, np.array(supercell, dtype=np.int64), options)
    points = transform_of(phonon).commensurate_points
    divisors = list(divisors_of(points))
    cell = plain_of(phonon.primitive)
    jobs = []
    for index in needed_points(phonon):
        one = maker.make(cell, points[index].tolist(), divisors)
        one.name = "response at " + " ".join(f"{x:g}" for x in points[index].round(4) + 0.0)
        jobs.append(one)
    return Response(replace=Flow(jobs, [one.output for one in jobs]))


@job(name="frequencies", data=list(LARGE))
def response_frequencies_job(
    unit: Structure, supercell: list[list[int]], responses: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """Return frequencies from responses.

    Args:
        unit: Conventional cell.
        supercell: (3, 3) whole numbers.
        responses: Of the points of `needed_points`, in that order: `real` and `imag` [eV/Å²].
        options: Of `flows.phonon.PhononConfig`.

    Returns:
        `summary` (a `PhononSummary`), and in the store `data` what `LARGE` names.

    Raises:
        OutputParseError: The responses do not fit the crystal, or one another.
    """
    found = [np.array(one["real"]) + 1j * np.array(one["imag"]) for one in responses]
    made = response_phonons(unit, np.array(supercell, dtype=np.int64), found, options)
    summary = made.summary(options["imaginary_tolerance_thz"], str(CURRENT_JOB.job.uuid))
    return {"summary": summary.model_dump(mode="json"), **made.large()}


def response_phonons(
    unit: Structure, supercell: Any, responses: list[Complexes], options: dict[str, Any]
) -> Phonons:
    """Compute frequencies with phonopy from responses at `needed_points`.

    Raises:
        OutputParseError: The responses do not fit the crystal, or one another.
    """
    phonon = prepared(unit, supercell, options)
    needed, size = needed_points(phonon), 3 * len(phonon.primitive)
    shapes = [one.shape for one in responses]
    if shapes != [(size, size)] * len(needed) or not all(np.isfinite(one).all() for one in responses):
        raise OutputParseError(f"responses of shapes {shapes}, {len(needed)} of {size} wanted, or no numbers")
    transform, crystal = transform_of(phonon), symmetries_of(phonon)
    points = transform.commensurate_points
    gamma = needed.index(int(np.abs(points).max(axis=1).argmin()))
    _refuse_drift(responses[gamma], largest=max(float(np.abs(one).max()) for one in responses))
    found = all_matrices(points, dict(zip(needed, responses, strict=True)), origins(points, crystal), crystal)
    roots = np.sqrt(np.repeat(phonon.primitive.masses, 3))
    transform.dynamical_matrices = [one / np.outer(roots, roots) for one in found]
    transform.run()
    phonon.force_constants = transform.force_constants
    _refuse_contradictions(phonon, points, transform.dynamical_matrices)
    return frequencies_of(phonon, options, n_responses=len(needed))


def needed_points(phonon: Phonopy) -> list[int]:
    """Return the indices of the commensurate points whose responses follow from no other's."""
    found = origins(transform_of(phonon).commensurate_points, symmetries_of(phonon))
    return sorted({one.point for one in found})


def transform_of(phonon: Phonopy) -> DynmatToForceConstants:
    """Return phonopy's way from dynamical matrices at the points of a supercell to its force constants."""
    return DynmatToForceConstants(phonon.primitive, phonon.supercell)


def symmetries_of(phonon: Phonopy) -> Symmetries:
    """Return the primitive cell with the operations that phonopy finds in it."""
    cell, operations = phonon.primitive, phonon.primitive_symmetry.symmetry_operations
    return Symmetries(
        lattice=np.array(cell.cell),
        positions=np.array(cell.scaled_positions),
        rotations=np.array(operations["rotations"], dtype=np.int64),
        translations=np.array(operations["translations"]),
    )


def _refuse_drift(at_gamma: Complexes, largest: float) -> None:
    """Raise if a crystal that is moved as a whole would feel forces, from the response (3 n, 3 n) at Γ."""
    blocks = at_gamma.reshape(len(at_gamma), -1, 3).sum(axis=1)
    drift = float(np.abs(blocks).max()) / largest
    if drift > LARGEST_DRIFT:
        raise OutputParseError(f"the acoustic sum rule is broken by {drift:.0%}: raise the engine's cut-off")


def _refuse_contradictions(phonon: Phonopy, points: Any, matrices: Any) -> None:
    """Raise unless the force constants, which are real, give back the matrices that they were made of."""
    for point, matrix in zip(points, matrices, strict=True):
        phonon.dynamical_matrix.run(point)
        worst = np.abs(phonon.dynamical_matrix.dynamical_matrix - matrix).max()
        if worst > WORST_REAL * np.abs(matrices).max():
            raise OutputParseError(f"responses contradict one another: {worst:.3g} at {point.tolist()}")
