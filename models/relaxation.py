"""Relaxing many crystals at once: one evaluation of the potential serves all that still move.

Every crystal walks on its own: a quasi-Newton step (BFGS with a trust radius) over its atoms and its cell
together, from its own gradients only. Batch mates share nothing but the evaluation, so a crystal's path does
not depend on them beyond float noise; whoever converges, fails or runs out of steps leaves the batch.

    state = start(...)
    until is_over(state): trial = propose(state); evaluate all trials together; state = judge(state, trial)

Coordinates of a step are Cartesian displacements of the atoms [Å] and a symmetric strain of the cell, scaled
by `sqrt(n_atoms)` Å so that both kinds are about equally stiff. Both are measured from the present geometry,
which makes the gradients exact: minus the forces, and volume times stress.

Source of the method: J. Nocedal and S. Wright, Numerical Optimization (2006), chapters 4, 6 and 18.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from models.symmetrise import SymmetryProjector

INITIAL_STIFFNESS = 15.0
"""Diagonal of the first Hessian [eV/Å²], a middling force constant; 45 took half as many steps again."""
SMALLEST_CURVATURE = 1.0
"""Floor for the curvature that a step divides by [eV/Å²]: soft modes do not give wild steps."""
FIRST_TRUST = 0.2
"""First trust radius: the largest displacement of an atom in one step [Å]."""
LARGEST_TRUST = 0.4
"""Upper bound of the trust radius [Å]."""
STRAIN_PER_TRUST = 0.25
"""Largest strain component in one step, per Å of trust radius [1/Å]."""
ENERGY_NOISE = 2e-5
"""A rise of the energy by less than this [eV/atom] is noise of a float32 potential, not a bad step."""
MAX_REJECTED = 6
"""After so many rejected steps in a row the Hessian is forgotten and the next step is taken anyway."""


@dataclass(frozen=True)
class Geometry:
    """One crystal as arrays; `cart = frac_coords @ lattice`."""

    numbers: np.ndarray
    """Atomic numbers (n_atoms,)."""
    frac_coords: np.ndarray
    """(n_atoms, 3), not wrapped: atoms keep their image along a relaxation."""
    lattice: np.ndarray
    """(3, 3), rows a, b, c [Å]."""

    @property
    def volume(self) -> float:
        """Volume of the cell [Å³]."""
        return float(abs(np.linalg.det(self.lattice)))


@dataclass(frozen=True)
class Evaluation:
    """What a potential says about one geometry."""

    energy: float
    """Energy of the cell [eV]."""
    forces: np.ndarray
    """(n_atoms, 3) [eV/Å]."""
    stress: np.ndarray
    """(3, 3) symmetric, dE/dstrain / volume [eV/Å³]: negative on the diagonal when compressed."""


Evaluate = Callable[[Sequence[Geometry]], list[Evaluation | str]]
"""A potential for many geometries at once; a string tells why one could not be evaluated."""


@dataclass(frozen=True)
class RelaxationSettings:
    """When to stop."""

    max_steps: int = 200
    """Largest number of steps per crystal."""
    fmax: float = 0.05
    """Threshold [eV/Å] for the force on each atom and, with `relax_cell`, for volume · stress / n_atoms
    [eV/atom], row by row: the criterion that ASE applies to a filtered cell."""
    relax_cell: bool = True
    """Whether the cell moves too."""
    max_volume_change: float = 3.0
    """A crystal that swells or shrinks by more than this factor has exploded."""


@dataclass(frozen=True)
class WalkState:
    """Where one crystal's relaxation stands. Steps make new states; nothing is changed in place."""

    geometry: Geometry
    evaluation: Evaluation
    """Forces and stress are already projected where symmetry is fixed."""
    hessian: np.ndarray
    """(n_dof, n_dof) estimate [eV/Å²]."""
    first_volume: float
    """Volume at the start [Å³]."""
    projector: SymmetryProjector | None
    trust: float = FIRST_TRUST
    n_steps: int = 0
    n_rejected: int = 0
    """Rejected steps in a row."""
    converged: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Trial:
    """A step that has been proposed and not yet been judged."""

    geometry: Geometry
    step: np.ndarray
    """(n_dof,) in the coordinates of the module docstring [Å]."""
    at_bound: bool = field(default=False)
    """Whether the trust radius cut the step."""


@dataclass(frozen=True)
class Outcome:
    """End of one relaxation."""

    geometry: Geometry
    energy: float
    """[eV] per cell; nan where `error` is set."""
    max_force: float
    """[eV/Å]; nan where `error` is set."""
    converged: bool
    n_steps: int
    error: str | None = None


def relax(
    geometries: Sequence[Geometry],
    evaluate: Evaluate,
    settings: RelaxationSettings,
    projectors: Sequence[SymmetryProjector | None] | None = None,
) -> list[Outcome]:
    """Relax crystals together.

    Args:
        geometries: Starting points; exactly symmetric where a projector is given.
        evaluate: The potential.
        settings: When to stop.
        projectors: One per crystal, None for a free relaxation.

    Returns:
        One outcome per crystal, in the order given. A crystal that cannot be evaluated or explodes gets an
        `error` and the last good geometry.
    """
    keep = list(projectors) if projectors is not None else [None] * len(geometries)
    outcomes: list[Outcome | None] = [None] * len(geometries)
    walking: dict[int, WalkState] = {}
    first = evaluate(geometries)
    for index, (geometry, evaluation, projector) in enumerate(zip(geometries, first, keep, strict=True)):
        if isinstance(evaluation, str):
            outcomes[index] = Outcome(geometry, float("nan"), float("nan"), False, 0, evaluation)
        else:
            walking[index] = start(geometry, evaluation, projector, settings)
    while True:
        for index in [index for index, state in walking.items() if is_over(state, settings)]:
            outcomes[index] = _outcome(walking.pop(index))
        if not walking:
            return [outcome for outcome in outcomes if outcome is not None]
        trials = {index: propose(state, settings) for index, state in walking.items()}
        answers = evaluate([trial.geometry for trial in trials.values()])
        for (index, trial), answer in zip(trials.items(), answers, strict=True):
            walking[index] = judge(walking[index], trial, answer, settings)


def start(
    geometry: Geometry,
    evaluation: Evaluation,
    projector: SymmetryProjector | None,
    settings: RelaxationSettings,
) -> WalkState:
    """Return the state before the first step."""
    n_dof = 3 * len(geometry.numbers) + (9 if settings.relax_cell else 0)
    evaluation = _projected(evaluation, projector)
    return WalkState(
        geometry=geometry,
        evaluation=evaluation,
        hessian=np.eye(n_dof) * INITIAL_STIFFNESS,
        first_volume=geometry.volume,
        projector=projector,
        converged=_is_converged(geometry, evaluation, settings),
    )


def is_over(state: WalkState, settings: RelaxationSettings) -> bool:
    """Say whether this crystal leaves the batch."""
    return state.converged or state.error is not None or state.n_steps >= settings.max_steps


def propose(state: WalkState, settings: RelaxationSettings) -> Trial:
    """Return the next geometry to evaluate: a quasi-Newton step, cut to the trust radius."""
    gradient = _gradient(state.geometry, state.evaluation, settings)
    curvature, modes = np.linalg.eigh(state.hessian)
    step = -modes @ ((modes.T @ gradient) / np.maximum(curvature, SMALLEST_CURVATURE))
    displacements, strain = _split(step, len(state.geometry.numbers))
    longest = float(np.linalg.norm(displacements, axis=1).max())
    largest = float(np.abs(strain).max()) / STRAIN_PER_TRUST
    factor = min(1.0, state.trust / max(longest, largest, 1e-12))
    step = step * factor
    return Trial(_moved(state.geometry, step), step, at_bound=factor < 1.0)


def judge(
    state: WalkState, trial: Trial, answer: Evaluation | str, settings: RelaxationSettings
) -> WalkState:
    """Take or refuse a proposed step, and learn the curvature from it either way."""
    n_steps = state.n_steps + 1
    if isinstance(answer, str):
        return replace(state, n_steps=n_steps, error=answer)
    change = trial.geometry.volume / state.first_volume
    if not 1 / settings.max_volume_change <= change <= settings.max_volume_change:
        return replace(state, n_steps=n_steps, error=f"exploded: volume changed by a factor of {change:.2f}")
    answer = _projected(answer, state.projector)
    old_gradient = _gradient(state.geometry, state.evaluation, settings)
    new_gradient = _gradient(trial.geometry, answer, settings)
    hessian = _bfgs(state.hessian, trial.step, new_gradient - old_gradient)
    rise = answer.energy - state.evaluation.energy
    noise = ENERGY_NOISE * len(state.geometry.numbers)
    predicted = float(old_gradient @ trial.step + 0.5 * trial.step @ state.hessian @ trial.step)
    if rise > noise and state.n_rejected < MAX_REJECTED:
        return replace(
            state, hessian=hessian, trust=state.trust * 0.4, n_steps=n_steps, n_rejected=state.n_rejected + 1
        )
    if state.n_rejected >= MAX_REJECTED:
        hessian, trust = np.eye(len(hessian)) * INITIAL_STIFFNESS, FIRST_TRUST / 4
    elif trial.at_bound and rise < 0.5 * predicted < 0:
        trust = min(2 * state.trust, LARGEST_TRUST)
    else:
        trust = state.trust
    return replace(
        state,
        geometry=trial.geometry,
        evaluation=answer,
        hessian=hessian,
        trust=trust,
        n_steps=n_steps,
        n_rejected=0,
        converged=_is_converged(trial.geometry, answer, settings),
    )


def _outcome(state: WalkState) -> Outcome:
    if state.error is not None:
        return Outcome(state.geometry, float("nan"), float("nan"), False, state.n_steps, state.error)
    max_force = float(np.linalg.norm(state.evaluation.forces, axis=1).max())
    return Outcome(
        state.geometry, state.evaluation.energy, max_force, state.converged, state.n_steps, state.error
    )


def _projected(evaluation: Evaluation, projector: SymmetryProjector | None) -> Evaluation:
    """Remove what no relaxation should follow: net force, torque on the cell, broken symmetry."""
    forces = evaluation.forces - evaluation.forces.mean(axis=0)
    stress = (evaluation.stress + evaluation.stress.T) / 2
    if projector is not None:
        forces, stress = projector.forces(forces), projector.stress(stress)
    return Evaluation(evaluation.energy, forces, stress)


def _gradient(geometry: Geometry, evaluation: Evaluation, settings: RelaxationSettings) -> np.ndarray:
    """Return dE/dstep (n_dof,) [eV/Å]."""
    atoms = -evaluation.forces.ravel()
    if not settings.relax_cell:
        return atoms
    cell = geometry.volume * evaluation.stress / np.sqrt(len(geometry.numbers))
    return np.concatenate([atoms, cell.ravel()])


def _is_converged(geometry: Geometry, evaluation: Evaluation, settings: RelaxationSettings) -> bool:
    largest = np.linalg.norm(evaluation.forces, axis=1).max()
    if settings.relax_cell:
        virial = geometry.volume * evaluation.stress / len(geometry.numbers)  # [eV/atom]
        largest = max(largest, np.linalg.norm(virial, axis=1).max())
    return bool(largest < settings.fmax)


def _split(step: np.ndarray, n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Return displacements (n_atoms, 3) [Å] and strain (3, 3) of a step."""
    displacements = step[: 3 * n_atoms].reshape(n_atoms, 3)
    if len(step) == 3 * n_atoms:
        return displacements, np.zeros((3, 3))
    return displacements, step[3 * n_atoms :].reshape(3, 3) / np.sqrt(n_atoms)


def _moved(geometry: Geometry, step: np.ndarray) -> Geometry:
    """Displace the atoms in the present cell, then strain the cell and all in it."""
    displacements, strain = _split(step, len(geometry.numbers))
    frac_coords = geometry.frac_coords + displacements @ np.linalg.inv(geometry.lattice)
    values, vectors = np.linalg.eigh((strain + strain.T) / 2)
    stretch = (vectors * np.exp(values)) @ vectors.T  # matrix exponential: the volume stays positive
    return Geometry(geometry.numbers, frac_coords, geometry.lattice @ stretch)


def _bfgs(hessian: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Return the Hessian after a damped BFGS update; unchanged where the step says nothing.

    Powell's damping keeps the Hessian positive: where the surface curves down, the stiffness along the step
    falls to a fifth, and the next step goes further. (Undamped, a small negative curvature can leave a large
    negative eigenvalue behind, and its mode then crawls for hundreds of steps.)
    """
    pushed = hessian @ step
    curved = float(step @ pushed)
    if np.abs(step).max() < 1e-7 or curved < 1e-10:
        return hessian
    along = float(change @ step)
    if along < 0.2 * curved:
        share = 0.8 * curved / (curved - along)
        change = share * change + (1.0 - share) * pushed
        along = float(change @ step)
    return hessian + np.outer(change, change) / along - np.outer(pushed, pushed) / curved
