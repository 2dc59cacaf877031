"""How alike two candidates are, from what their documents say: cheap enough for the driver, without any model.

A crystal is a point: the atomic fractions of the chemistry's elements, then its crystal system, its place among the
space groups of that system and the size of its cell, scaled so that another system counts as much as 7 % of the atoms
changed for others. One kernel serves all who ask; its second part keeps crystals apart that have equal features:

    K(x, x') = (1 - OWN_PART) exp(-|x - x'|² / (2 LENGTH²)) + OWN_PART [x is x']
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import ndtri

from campaign.acquisition.beliefs import Array
from campaign.chemistry import parse_formula
from campaign.documents import derive_seed

LENGTH = 0.2
"""Distance over which errors of the models are alike: 14 % of the atoms changed for others."""

OWN_PART = 0.2
"""Part of the variance that candidates of equal features do not share."""

STRUCTURE_SCALE = 0.1
"""Length of one step of the structural part (another system, a cell of twice the size)."""

N_WAVES = 256
"""Random waves that make up a smooth random function."""

_FIRST_OF_SYSTEM = (1, 3, 16, 75, 143, 168, 195, 231)
"""First space group of triclinic, monoclinic, orthorhombic, tetragonal, trigonal, hexagonal, cubic; and the end."""


def features(documents: Sequence[Mapping[str, Any]], elements: Sequence[str]) -> Array:
    """Return (n, n_elements + 9) features of candidates.

    Args:
        documents: With `formula`, and `spacegroup` and `n_atoms` where they are known.
        elements: Elements of the campaign: columns stay the same whoever competes.
    """
    rows = [
        _point(one["formula"], one.get("spacegroup") or 1, one.get("n_atoms") or 1, tuple(elements))
        for one in documents
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(elements) + 9)


@lru_cache(maxsize=100_000)
def _point(formula: str, spacegroup: int, n_atoms: int, elements: tuple[str, ...]) -> tuple[float, ...]:
    system = bisect_right(_FIRST_OF_SYSTEM, spacegroup) - 1
    first, end = _FIRST_OF_SYSTEM[system], _FIRST_OF_SYSTEM[system + 1]
    # Two systems are sqrt(2) * scale / sqrt(2) apart: one step.
    systems = [STRUCTURE_SCALE / math.sqrt(2) * (number == system) for number in range(7)]
    place = STRUCTURE_SCALE * (spacegroup - first) / (end - first)
    return (*_fractions(formula, elements), *systems, place, STRUCTURE_SCALE * math.log2(n_atoms))


@lru_cache(maxsize=10_000)
def _fractions(formula: str, elements: tuple[str, ...]) -> tuple[float, ...]:
    amounts = parse_formula(formula)
    total = sum(amounts.values())
    return tuple(amounts.get(symbol, 0) / total for symbol in elements)


def distances(points: Array, row: int) -> Array:
    """Return the distances (n,) of all points to one of them."""
    found: Array = np.linalg.norm(points - points[row], axis=1)
    return found


def kernel(points: Array, row: int) -> Array:
    """Return the kernel (n,) of all points with one of them."""
    shared = (1 - OWN_PART) * np.exp(-((distances(points, row) / LENGTH) ** 2) / 2)
    shared[row] += OWN_PART
    return shared


def correlated_normals(points: Array, ids: Sequence[str], seed: int) -> Array:
    """Return standard normal draws (n,) that are correlated as the kernel says.

    The shared part is a random function in the limit of many waves of Gaussian frequencies (random Fourier features:
    Rahimi and Recht, NeurIPS 2007, algorithm 1), the own part a hash of seed and id. So a candidate's draw depends on
    the seed, its id and its features alone, and not on who else competes.
    """
    random = np.random.default_rng(derive_seed(seed, "waves"))
    frequencies = random.standard_normal((points.shape[1], N_WAVES)) / LENGTH
    phases = random.uniform(0, 2 * math.pi, N_WAVES)
    weights = random.standard_normal(N_WAVES) * math.sqrt(2 / N_WAVES)
    shared = np.zeros(len(points))
    for wave in range(0, N_WAVES, 32):  # some at a time, for the memory of a large backlog
        part = slice(wave, wave + 32)
        shared += np.cos(points @ frequencies[:, part] + phases[part]) @ weights[part]
    uniform = np.array([(derive_seed(seed, "own", name) + 0.5) / 2**32 for name in ids])
    own = ndtri(uniform).reshape(len(points))
    return math.sqrt(1 - OWN_PART) * shared + math.sqrt(OWN_PART) * own
