"""Reference crystals as prototypes: kept as plain arrays, and classified only when one is drawn.

The class of a prototype is its anonymous formula, space group and, for each element, the multiplicity and site
symmetry of its orbits, for example `AB2_225_4(m-3m)_8(-43m)` (fluorite). Wyckoff letters would depend on the choice
of origin; these do not. Finding it takes spglib about 2 ms, too long to do for tens of thousands
of crystals before the first sample; so it is found on demand and remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
import spglib

from models.data import E_ABOVE_HULL, SYMPREC, LabelledStructure
from models.generators.ionic import N_ELEMENTS

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Prototypes:
    """Reference crystals of any size, atoms of one crystal lying together."""

    numbers: np.ndarray
    """Atomic numbers (n_atoms,)."""
    frac_coords: np.ndarray
    """(n_atoms, 3)."""
    lattice: np.ndarray
    """(n_crystals, 3, 3), rows a, b, c [Å]."""
    n_atoms: np.ndarray
    """(n_crystals,)."""
    e_above_hull: np.ndarray
    """(n_crystals,) [eV/atom]; 0 where it is not known."""

    def __len__(self) -> int:
        return len(self.n_atoms)

    def crystal(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return lattice (3, 3), fractional coordinates (n, 3) and atomic numbers (n,) of one crystal."""
        end = int(self.n_atoms[: index + 1].sum())
        part = slice(end - int(self.n_atoms[index]), end)
        return self.lattice[index], self.frac_coords[part], self.numbers[part]

    @classmethod
    def from_labelled(cls, train: Sequence[LabelledStructure]) -> Prototypes:
        """Keep the ordered crystals of `train`; disordered and broken ones cannot be prototypes."""
        numbers, coords, lattices, hulls = [], [], [], []
        for item in train:
            try:
                number = np.array([site.specie.Z for site in item.structure], dtype=np.int64)
            except AttributeError:  # partial occupation, or a dummy species
                continue
            place = np.asarray(item.structure.frac_coords, dtype=float).reshape(-1, 3) % 1.0
            lattice = np.asarray(item.structure.lattice.matrix, dtype=float)
            finite = bool(np.isfinite(place).all() and np.isfinite(lattice).all())
            if len(number) == 0 or number.max() >= N_ELEMENTS or not finite:
                continue
            numbers.append(number)
            coords.append(place)
            lattices.append(lattice)
            hulls.append(max(item.known(E_ABOVE_HULL) or 0.0, 0.0))
        if not numbers:
            empty = np.zeros((0, 3))
            return cls(np.zeros(0, int), empty, np.zeros((0, 3, 3)), np.zeros(0, int), np.zeros(0))
        return cls(
            np.concatenate(numbers),
            np.concatenate(coords),
            np.stack(lattices),
            np.array([len(number) for number in numbers]),
            np.array(hulls),
        )


@dataclass(frozen=True)
class Formula:
    """Reduced formula of one crystal, elements in the order of their numbers."""

    elements: tuple[int, ...]
    """Atomic numbers, rising."""
    amounts: tuple[int, ...]
    """Whole numbers without common divisor."""


@dataclass(frozen=True)
class PrototypeClass:
    """What one crystal is a case of."""

    label: str
    """Anonymous formula, space group, and the orbits of each slot."""
    slots: tuple[int, ...]
    """The crystal's atomic numbers in the order of the label's slots."""
    ties: tuple[int, ...]
    """Slots with the same number here are alike in orbits and surroundings: the two halves of rock salt."""
    lattice: np.ndarray
    """(3, 3) of the standardised primitive cell [Å]."""
    frac_coords: np.ndarray
    """(n_primitive, 3)."""
    numbers: np.ndarray
    """(n_primitive,)."""

    @property
    def spacegroup(self) -> int:
        """International number of the crystal's space group."""
        return int(self.label.split("_")[1])

    def arrangement(self, exchange: Mapping[int, int]) -> tuple[object, ...]:
        """Return a key for this class with other elements on its slots; alike slots may be swapped.

        Args:
            exchange: Atomic number of the prototype -> atomic number that replaces it.
        """
        placed = sorted((tie, exchange[element]) for tie, element in zip(self.ties, self.slots, strict=True))
        return (self.label, *placed)


def formula_of(numbers: np.ndarray) -> Formula:
    """Return the reduced formula of atomic numbers (n_atoms,)."""
    elements, counts = np.unique(numbers, return_counts=True)
    divisor = reduce(gcd, counts.tolist())
    return Formula(tuple(elements.tolist()), tuple((counts // divisor).tolist()))


def classify(lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray) -> PrototypeClass | None:
    """Return the class of a crystal with its standardised primitive cell, or None where spglib finds none."""
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        return None  # spglib would end the process with a segmentation fault
    cell = (lattice, frac_coords, numbers)
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
        primitive = spglib.standardize_cell(cell, to_primitive=True, no_idealize=False, symprec=SYMPREC)
    except Exception:  # spglib raises its own errors, or returns None, depending on its version
        return None
    if dataset is None or primitive is None:
        return None
    formula = formula_of(numbers)
    crowding = _crowding(lattice, frac_coords)
    per_input_atom = len(dataset.std_types) / len(numbers)  # the standard cell may be larger, or smaller
    slots = []
    for element, amount in zip(formula.elements, formula.amounts, strict=True):
        orbits = []
        for orbit in sorted(set(dataset.crystallographic_orbits[numbers == element].tolist())):
            members = np.flatnonzero(dataset.crystallographic_orbits == orbit)
            symbol = dataset.site_symmetry_symbols[members[0]]
            orbits.append(f"{round(len(members) * per_input_atom)}({symbol})")
        around = round(float(crowding[numbers == element].mean()), 2)
        slots.append((amount, "+".join(sorted(orbits)), around, element))
    slots.sort()
    anonymous = "".join(
        f"{chr(ord('A') + place)}{slot[0] if slot[0] > 1 else ''}" for place, slot in enumerate(slots)
    )
    kinds = [slot[:3] for slot in slots]
    return PrototypeClass(
        label="_".join([anonymous, str(dataset.number), *(slot[1] for slot in slots)]),
        slots=tuple(slot[3] for slot in slots),
        ties=tuple(kinds.index(kind) for kind in kinds),
        lattice=np.asarray(primitive[0], dtype=float),
        frac_coords=np.asarray(primitive[1], dtype=float) % 1.0,
        numbers=np.asarray(primitive[2], dtype=np.int64),
    )


def _crowding(lattice: np.ndarray, frac_coords: np.ndarray) -> np.ndarray:
    """Return how crowded each atom's surroundings are (n_atoms,), whatever the elements and the size."""
    centre, _, distance = _scaled_distances(lattice, frac_coords)
    return np.bincount(centre, weights=np.exp(-1.5 * distance**2), minlength=len(frac_coords))


def _scaled_distances(
    lattice: np.ndarray, frac_coords: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, neighbour and distance of all pairs up to 3 units of (volume per atom)^(1/3)."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    unit = (abs(np.linalg.det(lattice)) / len(frac_coords)) ** (1 / 3)
    scaled = np.ascontiguousarray(lattice / unit)
    coords = np.ascontiguousarray(frac_coords @ scaled)
    centre, other, _, distance = find_points_in_spheres(
        coords, coords, r=3.0, pbc=np.ones(3, dtype=np.int64), lattice=scaled, tol=1e-8
    )
    apart = distance > 1e-6
    return centre[apart], other[apart], distance[apart]


def fingerprint(lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray) -> tuple[object, ...]:
    """Return a key that equal crystals share, whatever their cell, origin, handedness or size.

    Sums of Gaussians of the distances between each two elements, in units of (volume per atom)^(1/3), per
    atom, to three digits. Different crystals may share a key, but seldom do.
    """
    centre, other, distance = _scaled_distances(lattice, frac_coords)
    elements = np.unique(numbers)
    key: list[object] = [tuple(elements.tolist())]
    for first in elements:
        for second in elements:
            pair = (numbers[centre] == first) & (numbers[other] == second)
            for width in (1.5, 3.0):  # beyond 3 units both have decayed below 1e-5
                key.append(round(float(np.exp(-width * distance[pair] ** 2).sum()) / len(numbers), 3))
    return tuple(key)


def exchanged_structure(
    lattice: np.ndarray, kind: PrototypeClass, numbers: np.ndarray, exchange: dict[int, int], source: Formula
) -> Structure:
    """Return a crystal of `kind` with new elements, and where it comes from in its `properties`.

    Args:
        lattice: (3, 3), scaled.
        kind: Class and primitive cell of the prototype.
        numbers: New atomic numbers (n_primitive,).
        exchange: Atomic number replaced -> atomic number that replaces it.
        source: Formula of the prototype.
    """
    from pymatgen.core import Composition, Element, Lattice, Structure

    symbol = {number: Element.from_Z(number).symbol for pair in exchange.items() for number in pair}
    formula = Composition({symbol[e]: a for e, a in zip(source.elements, source.amounts, strict=True)})
    properties: dict[str, Any] = {
        "prototype": kind.label,
        "source": formula.reduced_formula,
        "substitution": {symbol[old]: symbol[new] for old, new in exchange.items()},
    }
    species = [symbol[number] for number in numbers.tolist()]
    return Structure(Lattice(lattice), species, kind.frac_coords, properties=properties)


def label_of(structure: Structure) -> str | None:
    """Return the prototype class of a crystal: as it remembers it, or as its geometry says."""
    remembered = structure.properties.get("prototype")
    if isinstance(remembered, str):
        return remembered
    try:
        numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    except AttributeError:
        return None
    kind = classify(np.asarray(structure.lattice.matrix), np.asarray(structure.frac_coords), numbers)
    return None if kind is None else kind.label
