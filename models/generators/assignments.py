"""Which of the wanted elements may stand where in a formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import numpy as np

from models.errors import OptionsError
from models.generators.ionic import N_ELEMENTS


def ordered_choices(wanted: list[int], size: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return ordered choices of `size` of the wanted elements (n, size); a random part when above `most`."""
    total = int(np.prod(np.arange(len(wanted) - size + 1, len(wanted) + 1)))
    if total <= most:
        return np.array(list(permutations(wanted, size)), dtype=np.int64)
    drawn = {tuple(rng.permutation(wanted)[:size].tolist()) for _ in range(most)}
    return np.array(sorted(drawn), dtype=np.int64)


def atomic_numbers(symbols: Sequence[str]) -> list[int]:
    """Return rising atomic numbers.

    Raises:
        OptionsError: A symbol is no element's.
    """
    from pymatgen.core import Element

    numbers = []
    for symbol in symbols:
        if not Element.is_valid_symbol(symbol) or Element(symbol).Z >= N_ELEMENTS:
            raise OptionsError("no such element", value=symbol, allowed="symbols from H to Lr")
        numbers.append(int(Element(symbol).Z))
    return sorted(numbers)


def choices_in_order(amounts: Mapping[int, int], order: Sequence[int]) -> np.ndarray:
    """Return the elements of a formula (n, size) in every order in which their numbers of atoms are `order`.

    Args:
        amounts: Atomic number -> atoms in the formula unit.
        order: Atoms of each element of another formula with the same numbers.
    """
    ways = [way for way in permutations(sorted(amounts)) if [amounts[z] for z in way] == list(order)]
    return np.array(ways, dtype=np.int64).reshape(-1, len(amounts))
