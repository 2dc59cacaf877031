"""Frames: crystals with energy, forces and stress by DFT, and what lies between a code's zero of energy and ours.

Energies of two codes, or of one code with other pseudopotentials, differ by an amount for every atom of an element
that says nothing about chemistry. Before a surrogate learns from frames, this amount is fitted and taken off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.errors import TrainingDataError
from models.splitting import split_by_key

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = npt.NDArray[np.float64]

CHEMISTRY_EV_PER_ATOM = 0.03
"""What a universal potential is wrong by, of the order of its reported error: differences as small as this are taken
for chemistry rather than for another zero of energy."""

HUBER = 1.345
"""Residuals beyond this many standard deviations lose weight; 95 % as efficient as least squares (Huber 1981)."""

ROUNDS = 20
"""Reweightings of the robust fit."""


@dataclass(frozen=True)
class Frame:
    """A crystal as a calculation found it; what is None is not known and teaches nothing."""

    structure: Structure
    energy_per_atom: float | None = None
    """[eV/atom]"""
    forces: Array | None = None
    """(n_atoms, 3) [eV/Å]"""
    stress_gpa: Array | None = None
    """(3, 3) [GPa], derivative of the energy by strain over volume: negative when compressed, as ASE has it."""
    own_scale: bool = False
    """Whether the energy is on the surrogate's own scale already."""
    group: str | None = None
    """Frames of one group, the label that they are from for example, are learned together or not at all."""


@dataclass(frozen=True)
class EnergyShift:
    """Energy of a code less that of the surrogate, of an atom: a constant, and how elements differ from it."""

    constant: float = 0.0
    """[eV/atom]"""
    by_element: Mapping[str, float] | None = None
    """Element -> what is added to the constant [eV/atom]; elements that were not seen have the constant alone."""

    def of(self, structures: Sequence[Structure]) -> Array:
        """Return the shift (n_crystals,) [eV/atom]."""
        known = self.by_element or {}
        return np.array(
            [
                self.constant + sum(known.get(symbol, 0.0) * share for symbol, share in shares(one).items())
                for one in structures
            ],
            dtype=np.float64,
        )

    def onto(self, frames: Sequence[Frame]) -> list[Frame]:
        """Return frames with their energies on the surrogate's scale; those that are on it stay as they are."""
        amounts = self.of([one.structure for one in frames])
        return [
            one
            if one.own_scale or one.energy_per_atom is None
            else replace(one, energy_per_atom=one.energy_per_atom - float(amount), own_scale=True)
            for one, amount in zip(frames, amounts, strict=True)
        ]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"constant": self.constant, "by_element": dict(self.by_element or {})}


def shares(structure: Structure) -> dict[str, float]:
    """Return element -> its share of the atoms."""
    found = structure.composition.fractional_composition.get_el_amt_dict()
    return {str(symbol): float(share) for symbol, share in found.items()}


def hold_out(frames: Sequence[Frame], fraction: float, seed: int) -> tuple[list[Frame], list[Frame]]:
    """Return (learned, held out) by formula, see `models.splitting`; of a single formula whole groups are held out."""
    keys = [str(one.structure.composition.reduced_formula) for one in frames]
    if len(set(keys)) == 1:
        keys = [str(place) if one.group is None else one.group for place, one in enumerate(frames)]
    return split_by_key(frames, keys, fraction, seed)


def fit_shift(frames: Sequence[Frame], energies: npt.ArrayLike) -> EnergyShift:
    """Fit the shift between frames and a surrogate: robustly, each formula weighing the same.

    Elements may differ from the constant as far as the formulas say that zeros of energy differ: the ridge is the
    square of the surrogate's own error over the spread of the differences. So codes whose zeros lie a thousand eV
    apart are told apart element by element, while a spread as small as the surrogate's error stays in the data, to
    be learned; a single formula gives a constant alone.

    Args:
        frames: With energies on one scale.
        energies: Of the surrogate for the same crystals [eV/atom]; rows without a finite one are left out.

    Raises:
        TrainingDataError: Not one energy is known on both sides.
    """
    rows = [
        (one, float(one.energy_per_atom) - float(energy))
        for one, energy in zip(frames, np.asarray(energies, dtype=float), strict=True)
        if one.energy_per_atom is not None and np.isfinite(energy)
    ]
    if not rows:
        raise TrainingDataError("no frame has an energy that the surrogate can be compared with")
    formulas = [one.structure.composition.reduced_formula for one, _ in rows]
    numbers = Counter(formulas)
    weights = np.array([1.0 / numbers[formula] for formula in formulas])
    differences = np.array([difference for _, difference in rows])
    spread = float(
        np.std(
            [
                np.median([d for d, other in zip(differences, formulas, strict=True) if other == formula])
                for formula in numbers
            ]
        )
    )
    if spread < 1e-9:
        return EnergyShift(float(np.median(differences)))
    parts = [shares(one.structure) for one, _ in rows]
    symbols = sorted({symbol for part in parts for symbol in part})
    fractions = np.array([[part.get(symbol, 0.0) for symbol in symbols] for part in parts])
    coefficients = _robust_ridge(fractions, differences, weights, (CHEMISTRY_EV_PER_ATOM / spread) ** 2)
    return EnergyShift(float(coefficients[0]), dict(zip(symbols, coefficients[1:].tolist(), strict=True)))


def _robust_ridge(fractions: Array, targets: Array, weights: Array, ridge: float) -> Array:
    """Return the constant (not penalised) and a coefficient per column, by Huber's reweighted least squares."""
    columns = np.hstack([np.ones((len(targets), 1)), fractions])
    penalty = np.diag([0.0, *[ridge] * fractions.shape[1]])
    trust = np.ones(len(targets))
    found = np.zeros(columns.shape[1])
    for _ in range(ROUNDS):
        weighted = columns * (weights * trust)[:, None]
        found = np.linalg.lstsq(columns.T @ weighted + penalty, weighted.T @ targets, rcond=None)[0]
        residuals = np.abs(targets - columns @ found)
        # 1.4826 makes the median absolute deviation a standard deviation; a perfect fit has none to divide by
        limit = HUBER * max(1.4826 * float(np.median(residuals)), 1e-6)
        trust = np.minimum(1.0, limit / np.maximum(residuals, 1e-12))
    return found
