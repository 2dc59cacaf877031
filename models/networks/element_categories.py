"""The 92 yes-or-no features of an element that CGCNN starts from, made from the data of pymatgen and ASE.

Xie and Grossman, Phys. Rev. Lett. 120, 145301 (2018), list the properties and their ranges in the supplement; the
table published with the code has these columns:

    0         lanthanide or actinide
    1-18      group
    19-25     period 1 to 7
    26-35     electronegativity, 0.5 to 4.0 (Pauling)
    36-45     covalent radius, 25 to 250 pm
    46-57     valence electrons, 1 to 12
    58-67     first ionisation energy, ln of eV, 1.3 to 3.3
    68-77     electron affinity, -3 to 3.7 eV
    78-81     block s, p, d, f
    82-91     atomic volume, ln of cm³/mol, 1.5 to 4.3

The ranges are cut into ten equal bins; what lies outside goes into the first or last one. A value that is not known
sets none. The values are today's (covalent radii: Cordero et al., Dalton Trans. 2832 (2008), from ASE), so single
bits differ from the published table.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from models.crystal import MAX_ATOMIC_NUMBER
from models.networks.elements import BLOCKS, N_GROUPS, element_number

N_CATEGORIES = 92
"""Columns of the table."""

_PERIODS, _BINS, _MAX_VALENCE = 7, 10, 12
_UNKNOWN_RADIUS = 0.2
"""What ASE writes where it knows no covalent radius [Å]."""
_CORE = {"s": "s", "p": "sp", "d": "sd", "f": "sdf"}
"""Shells outside the core, by block."""


def element_categories() -> npt.NDArray[np.float32]:
    """Return (119, 92) of 0 and 1: row z for atomic number z, row 0 is all 0."""
    return _table().copy()


@functools.cache
def _table() -> npt.NDArray[np.float32]:
    from ase.data import covalent_radii
    from pymatgen.core import Element

    table = np.zeros((MAX_ATOMIC_NUMBER + 1, N_CATEGORIES), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen says of each heavy element what is not known of it
        for z in range(1, MAX_ATOMIC_NUMBER + 1):
            radius = float(covalent_radii[z])
            table[z] = _row(Element.from_Z(z), radius if radius != _UNKNOWN_RADIUS else math.nan)
    return table


def _row(element: Any, radius_ang: float) -> npt.NDArray[np.float32]:
    """Return (92,) for one element."""
    pieces = [
        np.array([element.is_lanthanoid or element.is_actinoid]),
        _one_of(N_GROUPS, element.group - 1),
        _one_of(_PERIODS, element.row - 1),
        _binned(element_number(element, "X"), 0.5, 4.0),
        _binned(100.0 * radius_ang, 25.0, 250.0),
        _one_of(_MAX_VALENCE, _valence_electrons(element) - 1),
        _binned(math.log(element_number(element, "ionization_energy")), 1.3, 3.3),
        _binned(element_number(element, "electron_affinity"), -3.0, 3.7),
        _one_of(len(BLOCKS), BLOCKS.index(element.block)),
        _binned(math.log(element_number(element, "molar_volume")), 1.5, 4.3),
    ]
    return np.concatenate(pieces).astype(np.float32)


def _one_of(n: int, place: int) -> npt.NDArray[np.float32]:
    """Return (n,) with a 1 at `place`; all 0 for a negative place, the last one for a place beyond the end."""
    row = np.zeros(n, dtype=np.float32)
    if place >= 0:
        row[min(place, n - 1)] = 1.0
    return row


def _binned(value: float, low: float, high: float) -> npt.NDArray[np.float32]:
    if math.isnan(value):
        return _one_of(_BINS, -1)
    return _one_of(_BINS, max(0, math.floor(_BINS * (value - low) / (high - low))))


def _valence_electrons(element: Any) -> int:
    """Return the electrons outside the noble-gas core, without the full d and f shells below a p shell.

    0 where the electronic structure is not known.
    """
    try:
        shells = element.full_electronic_structure
    except KeyError:  # pymatgen's way of not knowing
        return 0
    counted = _CORE[element.block]
    valence = 0
    for n, shell, electrons in shells:
        # The shells that are being filled: s and p of the period, d of the one before, f of two before.
        if shell in counted and n == element.row - {"s": 0, "p": 0, "d": 1, "f": 2}[shell]:
            valence += electrons
    return valence
