"""The table of Wyckoff positions of all 230 groups, as it is shipped.

`resources/wyckoff_positions.json.gz` is made by `deploy/make_wyckoff_positions.py` from the Wyckoff positions of
PyXtal (MIT) and the operations of spglib (BSD-3); `models.symmetry` says which setting each group has, and what
can be done with the table.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LETTERS = "abcdefghijklmnopqrstuvwxyzA"
"""Wyckoff letters in their order; only Pmmm (47) has the 27th, which spglib writes A."""
MAX_LETTERS = len(LETTERS)
N_GROUPS = 230
TABLE = "wyckoff_positions.json.gz"
GRID = 24
"""Translations of all groups, maps and normalisers are multiples of 1/24."""

_CRYSTAL_SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
_HALF, _THIRD = 0.5, 1.0 / 3.0
_PRIMITIVE = {
    "P": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "A": ((1.0, 0.0, 0.0), (0.0, _HALF, -_HALF), (0.0, _HALF, _HALF)),
    "C": ((_HALF, _HALF, 0.0), (-_HALF, _HALF, 0.0), (0.0, 0.0, 1.0)),
    "I": ((-_HALF, _HALF, _HALF), (_HALF, -_HALF, _HALF), (_HALF, _HALF, -_HALF)),
    "F": ((0.0, _HALF, _HALF), (_HALF, 0.0, _HALF), (_HALF, _HALF, 0.0)),
    "R": ((2 * _THIRD, _THIRD, _THIRD), (-_THIRD, _THIRD, _THIRD), (-_THIRD, -2 * _THIRD, _THIRD)),
}
"""Rows: primitive vectors in conventional units, by the first letter of the symbol; R is the obverse setting."""


def crystal_system(spacegroup: int) -> str:
    """Return "triclinic" ... "cubic"; R groups are trigonal."""
    return next(name for last, name in _CRYSTAL_SYSTEMS if spacegroup <= last)


@dataclass(frozen=True)
class SymmetryTables:
    """What is known of every letter of every group; tensors are indexed by the number of the group."""

    n_letters: Tensor
    """(231,) int64."""
    multiplicity: Tensor
    """(231, 27) int64, points in the conventional cell; 0 where there is no such letter."""
    dof: Tensor
    """(231, 27) int64, free coordinates 0 to 3; -1 where there is no such letter."""
    site_symmetry: tuple[tuple[str, ...], ...]
    """Oriented symbols of site-symmetry groups by group and letter, as "m.mm"."""
    hall_number: Tensor
    """(231,) int64, spglib's number of the setting."""
    crystal_system: tuple[str, ...]
    """"triclinic" ... "cubic"; row 0 is empty."""
    centrings: Tensor
    """(231,) int64, lattice points in the conventional cell."""
    primitive: Tensor
    """(231, 3, 3) float64, rows are primitive vectors in conventional units:
    primitive_lattice = primitive[spacegroup] @ conventional_lattice."""


@lru_cache(maxsize=1)
def raw_groups() -> list[dict[str, Any]]:
    """Return the file's entry of every group, that of group 1 first."""
    packed = resources.files("models").joinpath(f"resources/{TABLE}").read_bytes()
    groups: list[dict[str, Any]] = json.loads(gzip.decompress(packed))["groups"]
    return groups


@lru_cache(maxsize=1)
def tables() -> SymmetryTables:
    """Return the tables of all groups, read once."""
    groups = raw_groups()
    multiplicity = torch.zeros(N_GROUPS + 1, MAX_LETTERS, dtype=torch.int64)
    dof = torch.full_like(multiplicity, -1)
    n_letters = torch.zeros(N_GROUPS + 1, dtype=torch.int64)
    hall_number = torch.zeros_like(n_letters)
    centrings = torch.zeros_like(n_letters)
    primitive = torch.eye(3, dtype=torch.float64).repeat(N_GROUPS + 1, 1, 1)
    for number, group in enumerate(groups, 1):
        n = len(group["letters"])
        n_letters[number] = n
        hall_number[number] = group["hall"]
        multiplicity[number, :n] = torch.tensor([letter["multiplicity"] for letter in group["letters"]])
        dof[number, :n] = torch.tensor(
            [len(free_columns(unpack(letter["map"]))) for letter in group["letters"]]
        )
        primitive[number] = torch.tensor(_PRIMITIVE[group["centring"]], dtype=torch.float64)
        centrings[number] = round(1.0 / float(torch.linalg.det(primitive[number])))
    return SymmetryTables(
        n_letters=n_letters,
        multiplicity=multiplicity,
        dof=dof,
        site_symmetry=((), *(tuple(letter["site"] for letter in group["letters"]) for group in groups)),
        hall_number=hall_number,
        crystal_system=("", *(crystal_system(number) for number in range(1, N_GROUPS + 1))),
        centrings=centrings,
        primitive=primitive,
    )


def unpack(packed: list[int]) -> npt.NDArray[np.float64]:
    """Return the map (3, 4) of 12 whole numbers, rows; the last column is kept in 24ths."""
    affine = np.array(packed, dtype=np.float64).reshape(3, 4)
    affine[:, 3] /= GRID
    return affine


def free_columns(affine: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return which of x, y, z (0, 1, 2) have an effect in a map (3, 4)."""
    return tuple(int(column) for column in range(3) if affine[:, column].any())
