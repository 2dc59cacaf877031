"""Which crystals are the same: a content hash, a coarse bucket, and the test that decides.

Three steps of rising cost. `candidate_id` is equal for one crystal however it is written down (order of
atoms, choice of cell, of origin, of orientation) and is the key of a candidate in the store. `bucket` is
equal for any two crystals that could be the same, whatever a relaxation does to them, so that the dearest
test, pymatgen's StructureMatcher in `same_structure`, runs within a bucket only.

The hash is taken over what neither origin nor cell can change: for each atom the sorted distances to its
nearest neighbours of every element, and how often each such row occurs (the pointwise distance distribution
of Widdowson and Kurlin, NeurIPS 2022, resolved by element). This is a standard form by itself: unlike a
standardised cell it has no free origin, no choice of axes and no tolerance that decides between two settings.
Mirror images share an id: their energies are equal.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pymatgen.core import Structure

DISTANCE_STEP_ANG = 0.02
"""Distances are rounded to multiples of this before hashing [Å]: closer crystals share an id."""

_OFFSET = 0.3712731894
"""Shifts the rounding borders away from round numbers, where stored coordinates like to lie."""

_N_NEIGHBOURS = 20
"""Neighbours per element that make up an atom's row; more in an elemental crystal, where for example
fcc and hcp differ from the 19th on."""


def candidate_id(structure: Structure) -> str:
    """Return the content hash of a crystal: 32 hex digits.

    Equal for every description of one crystal; unequal, as a rule, once an interatomic distance differs by
    more than `DISTANCE_STEP_ANG`. Two descriptions that differ by small errors, such as the digits of a CIF,
    may lie on two sides of a rounding border and get two ids; the duplicates screen then finds them the same.

    Args:
        structure: An ordered crystal.
    """
    counts = Counter(_distance_rows(structure))
    common = math.gcd(*counts.values())  # a supercell repeats every row
    content = [bucket(structure)]
    content += [f"{count // common} {row}" for row, count in sorted(counts.items())]
    return hashlib.blake2b("\n".join(content).encode(), digest_size=16).hexdigest()


def bucket(structure: Structure) -> str:
    """Return a coarse key that is equal for any two crystals that `same_structure` could match.

    It is the composition and nothing more: a relaxation may change cell and symmetry of a candidate, but
    never its bucket.
    """
    return formula_of_counts(Counter(str(site.specie.symbol) for site in structure))


def formula_of_counts(counts: Mapping[str, int]) -> str:
    """Return the alphabetical reduced formula of a cell: one text per composition."""
    common = math.gcd(*counts.values())
    return "".join(f"{symbol}{count // common}" for symbol, count in sorted(counts.items()))


def reduced(structure: Structure) -> Structure:
    """Return the Niggli-reduced primitive cell, exactly as StructureMatcher makes it before it compares."""
    return structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()


def same_structure(one: Structure, other: Structure) -> bool:
    """Say whether two crystals are the same up to small distortions and a change of scale.

    pymatgen's StructureMatcher with its usual tolerances (ltol 0.2, stol 0.3, angle_tol 5 degrees, scaled):
    the definition of «unique» and «novel» that published S.U.N. rates use.
    """
    return bucket(one) == bucket(other) and same_reduced(reduced(one), reduced(other))


def same_reduced(one: Structure, other: Structure) -> bool:
    """`same_structure` of crystals that went through `reduced` already: much faster for many comparisons."""
    from pymatgen.core.structure_matcher import StructureMatcher

    if len(one) != len(other):  # StructureMatcher says no to reduced cells of different size, but not as fast
        return False
    return bool(StructureMatcher(primitive_cell=False).fit(one, other, skip_structure_reduction=True))


def describe(structure: Structure, symprec_ang: float = 0.1) -> dict[str, Any] | None:
    """Return what is stored with a candidate so that it can be found again.

    Returns:
        `id`, `formula`, `chemsys`, `n_atoms` (of the cell as given), `spacegroup` and `bucket`; None for what
        is no crystal at all (no atoms, a flat cell, coordinates that are not finite, partial occupation).
    """
    if not is_crystal(structure):
        return None
    return {
        "id": candidate_id(structure),
        "formula": str(structure.composition.reduced_formula),
        "chemsys": "-".join(sorted({site.specie.symbol for site in structure})),
        "n_atoms": len(structure),
        "spacegroup": space_group(structure, symprec_ang),
        "bucket": bucket(structure),
    }


def is_crystal(structure: Structure) -> bool:
    """Say whether this is an ordered crystal with a cell of some volume and finite coordinates."""
    matrix = np.asarray(structure.lattice.matrix)
    if not (len(structure) and structure.is_ordered and np.isfinite(matrix).all()):
        return False
    volume = abs(float(np.linalg.det(matrix)))
    if not np.isfinite(structure.frac_coords).all() or not 1e-3 < volume / len(structure) < 1e4:
        return False
    # A cell thinner than any atom would need thousands of images to find the neighbours of one.
    compact = structure.lattice.get_lll_reduced_lattice().matrix
    return bool(volume / np.linalg.norm(np.cross(compact[[1, 2, 0]], compact[[2, 0, 1]]), axis=1).max() > 0.3)


def space_group(structure: Structure, symprec_ang: float = 0.1) -> int:
    """Return the international space group number; 1 where spglib finds none.

    Args:
        structure: Any crystal.
        symprec_ang: Distance within which positions count as symmetric [Å]; 0.1 is the Materials Project's.
    """
    import spglib

    cell = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
    try:
        found = spglib.get_symmetry_dataset(cell, symprec=symprec_ang)
    except spglib.SpglibError:
        return 1
    return 1 if found is None else int(found.number)


def _distance_rows(structure: Structure) -> list[str]:
    """Return one text per atom: its element, and rounded distances to the nearest atoms of each element."""
    numbers = np.array([site.specie.Z for site in structure])
    kinds = np.unique(numbers)
    wanted = _N_NEIGHBOURS + (16 if len(kinds) == 1 else 0)
    rarest = min(int((numbers == z).sum()) for z in kinds)
    # The ball that holds the wanted number of the rarest element's atoms on average, and a little more.
    radius = 1.15 * (3 * wanted * structure.volume / (4 * math.pi * rarest)) ** (1 / 3)
    while True:
        centres, points, _, distances = structure.get_neighbor_list(radius)
        per_pair = {
            (int(i), int(z)): distances[(centres == i) & (numbers[points] == z)]
            for i in range(len(numbers))
            for z in kinds
        }
        if all(len(found) >= wanted for found in per_pair.values()):
            break
        radius *= 1.2
    rows = []
    for i, z in enumerate(numbers):
        parts = []
        for other in kinds:
            nearest = np.sort(per_pair[i, int(other)])[:wanted]
            steps = np.rint(nearest / DISTANCE_STEP_ANG + _OFFSET).astype(int)
            parts.append(f"{other}:{','.join(map(str, steps))}")
        rows.append(f"{z} {' '.join(parts)}")
    return rows
