"""Hypothesis strategies, one per noun. Every draw is a real object of its kind."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from models.genes import WyckoffGene
from models.symmetry import LETTERS, tables

ELEMENTS = ("Li", "O", "Na", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Zn", "Ge", "Sr")


def symbols(allowed: tuple[str, ...] = ELEMENTS) -> st.SearchStrategy[str]:
    return st.sampled_from(allowed)


def chemical_systems(
    low: int = 1, high: int = 3, allowed: tuple[str, ...] = ELEMENTS
) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(symbols(allowed), min_size=low, max_size=high, unique=True).map(
        lambda found: tuple(sorted(found))
    )


@st.composite
def compositions(draw: st.DrawFn, elements: tuple[str, ...] | None = None) -> Composition:
    elements = elements or draw(chemical_systems())
    return Composition({symbol: draw(st.integers(1, 6)) for symbol in elements})


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    """Cells that are neither flat nor needles: lengths 3 to 8 Å, angles 65 to 115 degrees."""
    lengths = [draw(st.floats(3.0, 8.0)) for _ in range(3)]
    angles = [draw(st.floats(65.0, 115.0)) for _ in range(3)]
    return Lattice.from_parameters(*lengths, *angles)


@st.composite
def structures(
    draw: st.DrawFn, max_atoms: int = 5, allowed: tuple[str, ...] = ELEMENTS, min_distance_ang: float = 1.0
) -> Structure:
    """Crystals without symmetry, no two atoms closer than `min_distance_ang`."""
    lattice = draw(lattices())
    species = draw(st.lists(symbols(allowed), min_size=1, max_size=max_atoms))
    coords: list[np.ndarray] = []
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    while len(coords) < len(species):
        point = random.random(3)
        if not coords or lattice.get_all_distances([point], coords).min() >= min_distance_ang:
            coords.append(point)
        elif random.random() < 0.01:  # the cell is full
            break
    return Structure(lattice, species[: len(coords)], coords)


def shaken(structure: Structure, amount_ang: float, seed: int = 0) -> Structure:
    """The crystal with every atom moved by this much [Å] in a direction of its own."""
    moves = np.random.default_rng(seed).normal(size=(len(structure), 3))
    moves *= amount_ang / np.linalg.norm(moves, axis=1, keepdims=True)
    coords = structure.cart_coords + moves
    return Structure(structure.lattice, structure.species, coords, coords_are_cartesian=True)


@st.composite
def descriptions(draw: st.DrawFn, structure: Structure, max_atoms: int = 40) -> Structure:
    """The same crystal written otherwise: order of atoms, origin, cell, orientation."""
    order = draw(st.permutations(range(len(structure))))
    shift = [draw(st.floats(0.0, 1.0)) for _ in range(3)]
    other = Structure(
        structure.lattice,
        [structure[i].specie for i in order],
        [structure[i].frac_coords + shift for i in order],
    )
    shear = np.eye(3, dtype=int)
    shear[0, 1], shear[1, 2] = draw(st.integers(-1, 1)), draw(st.integers(-1, 1))
    if 2 * len(structure) <= max_atoms:
        shear[2] *= draw(st.integers(1, 2))
    other.make_supercell(shear)
    rotation, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 999))).normal(size=(3, 3)))
    return Structure(Lattice(other.lattice.matrix @ rotation), other.species, other.frac_coords)


@st.composite
def genes(
    draw: st.DrawFn, spacegroup: int | None = None, max_orbits: int = 4, allowed: tuple[str, ...] = ELEMENTS
) -> WyckoffGene:
    """Wyckoff genes that a crystal can have, of any group unless one is named; not canonical."""
    known = tables()
    group = spacegroup or draw(st.integers(1, 230))
    dof = known.dof[group, : int(known.n_letters[group])].tolist()
    orbits: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, max_orbits))):
        taken = {letter for _, letter in orbits}
        open_letters = [LETTERS[i] for i, free in enumerate(dof) if free or LETTERS[i] not in taken]
        orbits.append((draw(symbols(allowed)), draw(st.sampled_from(open_letters))))
    return WyckoffGene(group, tuple(orbits))
