"""Training and held-out sets that share no composition, so that polymorphs are never split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from models.data import LabelledStructure
from models.errors import OptionsError

if TYPE_CHECKING:
    from pymatgen.core import Structure


class HasStructure(Protocol):
    """What holds a crystal, such as `models.data.LabelledStructure`."""

    @property
    def structure(self) -> Structure:
        """The crystal."""
        ...


Held = TypeVar("Held", bound=HasStructure)
Item = TypeVar("Item")


def split_by_composition(
    labelled: Sequence[Held], fraction: float, seed: int
) -> tuple[list[Held], list[Held]]:
    """Split by reduced formula into a training set and a held-out set.

    Each formula draws a number from its own hash and the seed, and is held out below `fraction`. So a formula
    stays on its side when more crystals arrive: what was trained on is never held out later. Only where a
    side would be empty, the formula nearest to it changes sides.

    Args:
        labelled: Crystals; their order is kept on both sides.
        fraction: Expected share of formulas to hold out, 0 to 1.
        seed: Another seed holds out other formulas.

    Returns:
        (train, held_out). With fewer than two formulas, or a fraction of 0, nothing is held out.

    Raises:
        OptionsError: The fraction is not in [0, 1).
    """
    return split_by_key(
        labelled, [item.structure.composition.reduced_formula for item in labelled], fraction, seed
    )


def split_by_key(
    items: Sequence[Item], formulas: Sequence[str], fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split by what things are called, formulas for example; see `split_by_composition`.

    Raises:
        OptionsError: The fraction is not in [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise OptionsError(
            "the share of held-out formulas is impossible", value=fraction, allowed="0 to below 1"
        )
    drawn = {formula: _draw(formula, seed) for formula in set(formulas)}
    held = {formula for formula, number in drawn.items() if number < fraction}
    if len(drawn) < 2 or fraction == 0.0:
        held = set()
    elif not held:
        held = {min(drawn, key=lambda formula: (drawn[formula], formula))}
    elif len(held) == len(drawn):
        held.remove(max(drawn, key=lambda formula: (drawn[formula], formula)))
    train = [item for item, formula in zip(items, formulas, strict=True) if formula not in held]
    held_out = [item for item, formula in zip(items, formulas, strict=True) if formula in held]
    return train, held_out


def folds_by_composition(
    labelled: Sequence[LabelledStructure], fraction: float, n_folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Give a share of the reduced formulas to folds, so that each formula is in one of them at most.

    Args:
        labelled: The crystals.
        fraction: Expected share of formulas in each fold; no more than 1 / n_folds are given.
        n_folds: Folds.
        seed: Another seed gives other folds.

    Returns:
        (n_crystals,) the fold of each crystal, -1 if it is in none.
    """
    width = min(fraction, 1.0 / n_folds)
    drawn = np.array([_draw(item.structure.composition.reduced_formula, seed) for item in labelled])
    folds = np.full(len(drawn), -1, dtype=np.int64)
    inside = drawn < width * n_folds
    folds[inside] = np.minimum(np.floor(drawn[inside] / width), n_folds - 1)
    return folds


def _draw(formula: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the formula and the seed only."""
    digest = hashlib.sha256(f"{seed}:{formula}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
