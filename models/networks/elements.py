"""What a network is told about each element before it has seen a crystal: a table from pymatgen's data."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from models.crystal import MAX_ATOMIC_NUMBER

NUMBERS = (
    "X",  # Pauling electronegativity
    "ionization_energy",  # eV
    "electron_affinity",  # eV
    "van_der_waals_radius",  # Å
    "average_ionic_radius",  # Å
    "molar_volume",  # cm³/mol, of the element
    "melting_point",  # K, of the element
    "mendeleev_no",  # place in Pettifor's order
    "row",
)
"""Scalar properties; each column is standardised over the elements where it is known, 0 elsewhere."""

BLOCKS = ("s", "p", "d", "f")
N_GROUPS = 18
N_ELEMENT_FEATURES = len(NUMBERS) + N_GROUPS + len(BLOCKS)


@functools.cache
def _table() -> npt.NDArray[np.float32]:
    from pymatgen.core import Element

    elements = [Element.from_Z(z) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    numbers = np.array([[element_number(e, name) for name in NUMBERS] for e in elements])  # (118, 9)
    known = np.isfinite(numbers)
    count = known.sum(axis=0)
    mean = np.where(known, numbers, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, (numbers - mean) ** 2, 0.0).sum(axis=0) / count)
    table = np.zeros((MAX_ATOMIC_NUMBER + 1, N_ELEMENT_FEATURES), dtype=np.float32)
    table[1:, : len(NUMBERS)] = np.where(known, (numbers - mean) / spread, 0.0)
    for z, element in enumerate(elements, start=1):
        table[z, len(NUMBERS) + element.group - 1] = 1.0
        table[z, len(NUMBERS) + N_GROUPS + BLOCKS.index(element.block)] = 1.0
    return table


def element_table() -> npt.NDArray[np.float32]:
    """Return (119, n_features): row z holds the properties of element z, row 0 is unused."""
    return _table().copy()


def element_number(element: Any, name: str) -> float:
    """Return a number of a pymatgen Element; NaN where pymatgen does not know it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen warns of every number that it does not know
            value = getattr(element, name, None)
    except KeyError:  # pymatgen's way of not knowing an electron affinity
        return float("nan")
    return float(value) if value is not None else float("nan")
