"""Crystals built from Wyckoff genes at random, for tests that read them back."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

from models.genes import RefinedCrystal, WyckoffGene
from models.symmetry import LETTERS, free_parameters, orbit_maps, tables


def random_lattice(system: str, rng: np.random.Generator) -> np.ndarray:
    """Rows of a conventional cell of the system, lengths about 8 to 14 Å."""
    a, b, c = rng.uniform(8.0, 14.0, 3)
    alpha, beta, gamma = rng.uniform(75.0, 105.0, 3)
    made = {
        "triclinic": lambda: Lattice.from_parameters(a, b, c, alpha, beta, gamma),
        "monoclinic": lambda: Lattice.monoclinic(a, b, c, rng.uniform(93.0, 110.0)),
        "orthorhombic": lambda: Lattice.orthorhombic(a, b, c),
        "tetragonal": lambda: Lattice.tetragonal(a, c),
        "trigonal": lambda: Lattice.hexagonal(a, c),
        "hexagonal": lambda: Lattice.hexagonal(a, c),
        "cubic": lambda: Lattice.cubic(a),
    }[system]()
    return np.array(made.matrix)


def random_parameters(gene: WyckoffGene, rng: np.random.Generator) -> np.ndarray:
    """(n_orbits, 3), zero where not free."""
    parameters = np.zeros((gene.n_orbits, 3))
    for orbit, letter in enumerate(gene.letter_indices):
        for free in free_parameters(gene.spacegroup, letter):
            parameters[orbit, free] = rng.uniform(0.0, 1.0)
    return parameters


def crystal(described: RefinedCrystal) -> Structure:
    """The primitive cell of a described crystal."""
    gene = described.gene
    known = tables()
    primitive = known.primitive[gene.spacegroup].numpy()
    symbols: list[str] = []
    points = []
    for (symbol, _), letter, parameters in zip(
        gene.orbits, gene.letter_indices, described.parameters, strict=True
    ):
        maps = orbit_maps(gene.spacegroup, letter).numpy()
        maps = maps[: len(maps) // int(known.centrings[gene.spacegroup])]
        points.append(maps[:, :, :3] @ parameters + maps[:, :, 3])
        symbols += [symbol] * len(maps)
    return Structure(
        Lattice(primitive @ described.lattice), symbols, np.concatenate(points) @ np.linalg.inv(primitive)
    )


def random_crystal(gene: WyckoffGene, rng: np.random.Generator) -> RefinedCrystal:
    """A crystal of this gene with a lattice and parameters at random; it may have more symmetry than its gene."""
    lattice = random_lattice(tables().crystal_system[gene.spacegroup], rng)
    for _ in range(100):
        described = RefinedCrystal(gene, lattice, random_parameters(gene, rng))
        structure = crystal(described)
        offset = structure.frac_coords[:, None] - structure.frac_coords
        distance = np.linalg.norm((offset - np.round(offset)) @ structure.lattice.matrix, axis=-1)
        if (distance + np.eye(len(distance))).min() > 0.05:  # Å, else spglib takes two atoms for one
            return described
    raise AssertionError(f"no room for {gene.text()}")


def with_general_positions(spacegroup: int, orbits: list[tuple[str, int]]) -> WyckoffGene:
    """A gene of these (symbol, index of letter) and two general positions, of Na and Cl: no symmetry is left over."""
    general = LETTERS[int(tables().n_letters[spacegroup]) - 1]
    own = [(symbol, LETTERS[letter]) for symbol, letter in orbits]
    return WyckoffGene(spacegroup, (("Na", general), ("Cl", general), *own))
