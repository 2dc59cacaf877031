"""Crystals as fixed vectors: statistics of the elements, of the bonds and of the volume; a millisecond each.

After Ward, Agrawal, Choudhary and Wolverton, npj Comput. Mater. 2, 16028 (2016) (statistics of elements) and Ward et
al., Phys. Rev. B 96, 024104 (2017) (differences between neighbours); changed: neighbours are not faces of Voronoi
cells but weighted by their distance, so that the vector changes continuously when atoms move. Two atoms at a distance
d, with covalent radii r, are bonded with the weight

    w = envelope(d) / (1 + exp(15 (d / (r₁ + r₂) - 1.3)))

where the envelope falls to 0 over the last 0.5 Å before the cutoff. The vector is the same for a crystal and for its
rotated, shifted, permuted and repeated images.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.crystal import MAX_ATOMIC_NUMBER
from models.distances import covalent_radii
from models.networks.elements import BLOCKS, NUMBERS, element_number

if TYPE_CHECKING:
    from pymatgen.core import Structure

FloatArray = npt.NDArray[np.float64]

CUTOFF_ANG = 6.0
"""No bond is longer [Å]."""
ENVELOPE_ANG = 0.5
"""Bonds fade out over this last stretch before the cutoff [Å]."""
BOND_RATIO = 1.3
"""Distance over sum of covalent radii at which a bond weighs one half."""
BOND_SHARPNESS = 15.0
"""How sharply the weight falls about that ratio."""
NO_BOND = 1e-6
"""Added to the bonds of an atom: one without any has means of 0."""

PROPERTIES = (*NUMBERS, "group")
"""Numbers of an element by pymatgen, followed in the table by its valence electrons (s, p, d, f, all) and radius."""

CORRELATED = ("X", "melting_point", "mendeleev_no", "valence_s", "valence_p", "valence_d", "valence_f")
"""Numbers whose covariance over bonds is told."""

COLUMNS = (*PROPERTIES, *(f"valence_{block}" for block in BLOCKS), "valence", "covalent_radius")
N_ELEMENTS = 95
"""Shares of the elements up to plutonium are told one by one."""

NOBLE = (2, 10, 18, 36, 54, 86)


def n_descriptors() -> int:
    """Return the length of the vector."""
    return 4 * len(COLUMNS) + 4 + 9 * 4 + 3 + len(CORRELATED) + 1 + N_ELEMENTS


def describe_crystal(structure: Structure) -> FloatArray:
    """Return the vector (n_descriptors,) of an ordered crystal that passed `models.crystal.check_structures`."""
    table, metal = _elements()
    numbers = np.asarray(structure.atomic_numbers, dtype=np.int64)  # (n_atoms,)
    of_atoms = table[numbers]  # (n_atoms, n_columns)
    mean = of_atoms.mean(axis=0)
    spread = np.abs(of_atoms - mean).mean(axis=0)
    shares = np.bincount(np.minimum(numbers, N_ELEMENTS), minlength=N_ELEMENTS + 1)[1:] / len(numbers)
    return np.concatenate(
        [
            mean, spread, of_atoms.min(axis=0), of_atoms.max(axis=0),
            _volumes(structure.volume / len(numbers), of_atoms),
            _bonds(structure, numbers, table, metal),
            [float(len(set(numbers.tolist())))],
            shares,
        ]
    )  # fmt: skip


def _volumes(volume: float, of_atoms: FloatArray) -> FloatArray:
    """Return the volume per atom [Å³], over that of covalent spheres, over that of the elements, and its logarithm."""
    spheres = (4.0 / 3.0 * np.pi * of_atoms[:, COLUMNS.index("covalent_radius")] ** 3).mean()
    elements = of_atoms[:, COLUMNS.index("molar_volume")].mean()
    return np.array([volume, volume / spheres, volume / elements, np.log(volume)])


def _bonds(
    structure: Structure, numbers: npt.NDArray[np.int64], table: FloatArray, metal: npt.NDArray[np.bool_]
) -> FloatArray:
    """Return what the bonds say: statistics over atoms of means over each atom's bonds, and means over all bonds."""
    n_atoms = len(numbers)
    centre, other, _, distance = structure.get_neighbor_list(CUTOFF_ANG)
    radius = table[:, COLUMNS.index("covalent_radius")]
    one, two = numbers[centre], numbers[other]
    ratio = distance / (radius[one] + radius[two])  # (n_edges,)
    to_edge = np.clip((distance - CUTOFF_ANG) / ENVELOPE_ANG + 1.0, 0.0, 1.0)
    weight = 0.5 * (1.0 + np.cos(np.pi * to_edge)) / (1.0 + np.exp(BOND_SHARPNESS * (ratio - BOND_RATIO)))
    bonds = np.bincount(centre, weight, minlength=n_atoms) + NO_BOND  # (n_atoms,)

    def mean_over_bonds(values: FloatArray) -> FloatArray:
        found: FloatArray = np.bincount(centre, weight * values, minlength=n_atoms) / bonds
        return found

    step = table[two, COLUMNS.index("X")] - table[one, COLUMNS.index("X")]
    order = table[two, COLUMNS.index("mendeleev_no")] - table[one, COLUMNS.index("mendeleev_no")]
    of_atoms = np.stack(
        [
            bonds,
            mean_over_bonds(np.abs(step)),
            mean_over_bonds(step),
            mean_over_bonds(np.abs(order)),
            mean_over_bonds(ratio),
            mean_over_bonds(radius[two]),
            mean_over_bonds((one == two).astype(float)),
            _smallest(ratio, centre, CUTOFF_ANG / (2.0 * radius[numbers])),
            _smallest(distance, centre, np.full(n_atoms, CUTOFF_ANG)),
        ]
    )  # (9, n_atoms)
    over_atoms = np.stack([of_atoms.mean(1), of_atoms.std(1), of_atoms.min(1), of_atoms.max(1)], axis=1)
    total = weight.sum() + NO_BOND
    both, none = metal[one] & metal[two], ~metal[one] & ~metal[two]
    kinds = [float(weight[rows].sum() / total) for rows in (both, none, ~both & ~none)]
    return np.concatenate([over_atoms.ravel(), kinds, _covariances(table, one, two, weight / total)])


def _smallest(values: FloatArray, centre: npt.NDArray[Any], at_most: FloatArray) -> FloatArray:
    """Return the smallest of the values (n_edges,) of each atom (n_atoms,), no larger than `at_most`."""
    found = at_most.copy()
    np.minimum.at(found, centre, values)
    return found


def _covariances(
    table: FloatArray, one: npt.NDArray[np.int64], two: npt.NDArray[np.int64], share: FloatArray
) -> FloatArray:
    """Return the covariance over bonds of each of `CORRELATED` at both ends."""
    columns = [COLUMNS.index(name) for name in CORRELATED]
    left, right = table[one][:, columns], table[two][:, columns]  # (n_edges, n_correlated)
    found: FloatArray = share @ (left * right) - (share @ left) * (share @ right)
    return found


@functools.cache
def _elements() -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the table (119, n_columns) by atomic number, medians where not known, and which elements are metals."""
    from pymatgen.core import Element

    table = np.full((MAX_ATOMIC_NUMBER + 1, len(COLUMNS)), np.nan)
    metal = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=bool)
    radii = covalent_radii().numpy()
    for z in range(1, MAX_ATOMIC_NUMBER + 1):
        element = Element.from_Z(z)
        valence = _valence(element)
        numbers = [element_number(element, name) for name in PROPERTIES]
        table[z] = [*numbers, *valence, sum(valence), radii[z]]
        metal[z] = bool(element.is_metal)
    medians = np.nanmedian(table[1:N_ELEMENTS], axis=0)
    return np.where(np.isfinite(table), table, medians), metal


def _valence(element: Any) -> list[float]:
    """Return the s, p, d and f electrons outside of the last noble gas; NaN where pymatgen knows no configuration."""
    core = max((noble for noble in NOBLE if noble < element.Z), default=0)
    found, electrons = dict.fromkeys(BLOCKS, 0.0), 0
    try:
        for _, block, occupation in element.full_electronic_structure:
            electrons += occupation
            if electrons > core:
                found[block] += occupation
    except (KeyError, TypeError, AttributeError):  # pymatgen's ways of not knowing one
        return [float("nan")] * len(BLOCKS)
    return list(found.values())
