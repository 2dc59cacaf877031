"""Shapes of conventional cells: axial ratios and angles, what the crystal system leaves of them, and defaults.

A shape is five numbers: ln(b/a), ln(c/a), alpha, beta, gamma [degrees]. Trigonal groups count as hexagonal: all
of them are in hexagonal axes. The unique axis of monoclinic groups is b.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "cubic")
"""Crystal systems as far as shapes differ, in the order of their space groups."""

_LAST_GROUP = np.array([2, 15, 74, 142, 194, 230])
_CENTRING_OF_LETTER = {"P": 0, "A": 1, "C": 1, "I": 2, "F": 3, "R": 4}

FREE = np.array(
    [
        [True, True, True, True, True],
        [True, True, False, True, False],
        [True, True, False, False, False],
        [False, True, False, False, False],
        [False, True, False, False, False],
        [False, False, False, False, False],
    ]
)
"""Which of the five numbers are free, by system."""

FIXED = np.array(
    [[0.0, 0.0, 90.0, 90.0, 90.0]] * 4 + [[0.0, 0.0, 90.0, 90.0, 120.0]] + [[0.0, 0.0, 90.0, 90.0, 90.0]]
)
"""Values of the numbers that are not free, by system."""

DEFAULT_MEAN = np.array(
    [
        [0.17, 0.39, 89.0, 89.0, 88.0],
        [-0.24, 0.01, 90.0, 108.0, 90.0],
        [0.20, 0.20, 90.0, 90.0, 90.0],
        [0.00, 0.40, 90.0, 90.0, 90.0],
        [0.00, 0.48, 90.0, 90.0, 120.0],
        [0.00, 0.00, 90.0, 90.0, 90.0],
    ]
)
"""Means over 3,500 crystals of the Materials Project in spglib's standard cells, by system."""

DEFAULT_SPREAD = np.array(
    [
        [0.18, 0.24, 14.0, 13.0, 15.0],
        [0.66, 0.53, 0.0, 12.0, 0.0],
        [0.75, 0.66, 0.0, 0.0, 0.0],
        [0.00, 0.68, 0.0, 0.0, 0.0],
        [0.00, 0.86, 0.0, 0.0, 0.0],
        [0.00, 0.00, 0.0, 0.0, 0.0],
    ]
)
"""Standard deviations over the same crystals."""

N_DEFAULT_SHAPES = 256
ANGLE_RANGE = (40.0, 140.0)
"""Free angles are kept in here; among 3,500 standard cells hardly one lies outside."""
LOG_RATIO_LIMIT = 3.0
LEAST_FLATNESS = 0.25
"""Smallest volume of a cell with edges of 1 that is drawn."""


def system_of(spacegroup: np.ndarray) -> np.ndarray:
    """Return the row of `SYSTEMS` for each space group (n,)."""
    return np.asarray(np.searchsorted(_LAST_GROUP, spacegroup))


def centring_of(letter: str) -> int:
    """Return a number for the first letter of a space group's symbol; A and C are one kind."""
    return _CENTRING_OF_LETTER[letter]


def constrain(shape: np.ndarray, system: np.ndarray) -> np.ndarray:
    """Return shapes (n, 5) with what their systems (n,) fix set to it, and the rest in sensible bounds.

    Triclinic angles that would give a flat cell are drawn towards 90 degrees until they do not.
    """
    found = shape.copy()
    found[:, :2] = np.clip(found[:, :2], -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    found[:, 2:] = np.clip(found[:, 2:], *ANGLE_RANGE)
    found = np.where(FREE[system], found, FIXED[system])
    for _ in range(8):
        flat = unit_volume(found) < LEAST_FLATNESS
        if not flat.any():
            break
        free = FREE[system][flat][:, 2:]
        found[flat, 2:] = np.where(free, 90.0 + 0.7 * (found[flat, 2:] - 90.0), found[flat, 2:])
    return found


def unit_volume(shape: np.ndarray) -> np.ndarray:
    """Return the volume (n,) of cells with these angles and edges of length 1; 0 where no such cell exists."""
    cosines = np.cos(np.radians(shape[:, 2:]))
    squared = 1.0 - (cosines**2).sum(axis=1) + 2.0 * cosines.prod(axis=1)
    return np.sqrt(np.clip(squared, 0.0, None))


def shape_of(lattice: np.ndarray) -> np.ndarray:
    """Return the shapes (n, 5) of conventional lattices (n, 3, 3), rows a, b, c."""
    length = np.linalg.norm(lattice, axis=2)
    unit = lattice / length[:, :, None]
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = np.stack([(unit[:, i] * unit[:, j]).sum(axis=1) for i, j in pairs], axis=1)
    ratios = np.log(length[:, 1:] / length[:, :1])
    return np.concatenate([ratios, np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))], axis=1)


def lattice_of(shape: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Return conventional lattices (n, 3, 3) [Å] of these shapes (n, 5) and volumes (n,) [Å³].

    a lies along x, b in the plane of x and y; the axes are right-handed.
    """
    cos_a, cos_b, cos_c = np.cos(np.radians(shape[:, 2:])).T
    sin_c = np.sin(np.radians(shape[:, 4]))
    ratio_b, ratio_c = np.exp(shape[:, :2]).T
    flatness = unit_volume(shape)
    a = np.cbrt(volume / (ratio_b * ratio_c * flatness))
    b, c = a * ratio_b, a * ratio_c
    zero = np.zeros_like(a)
    rows = [
        [a, zero, zero],
        [b * cos_c, b * sin_c, zero],
        [c * cos_b, c * (cos_a - cos_b * cos_c) / sin_c, c * flatness / sin_c],
    ]
    lattice = np.stack([np.stack(row, axis=-1) for row in rows], axis=1)
    lattice[np.abs(lattice) < 1e-12 * a[:, None, None]] = 0.0  # cosines of 90 degrees
    return lattice


@lru_cache(maxsize=len(SYSTEMS))
def default_shapes(system: int) -> np.ndarray:
    """Return `N_DEFAULT_SHAPES` shapes of one system, as if measured: the same ones every time."""
    normal = np.random.default_rng(system).normal(size=(N_DEFAULT_SHAPES, 5))
    shape = DEFAULT_MEAN[system] + DEFAULT_SPREAD[system] * normal
    return constrain(shape, np.full(N_DEFAULT_SHAPES, system))
