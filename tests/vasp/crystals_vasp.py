"""Crystals of the tests of the engine `vasp`."""

from __future__ import annotations

from pymatgen.core import Lattice, Structure


def ordered_cuau(a: float = 2.9, c: float = 3.6) -> Structure:
    """Return CuAu of type L1₀."""
    return Structure(Lattice.tetragonal(a, c), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def ordered_cu3au(edge: float = 3.8) -> Structure:
    """Return Cu₃Au of type L1₂, its gold atom first: VASP sorts the atoms otherwise."""
    sites = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return Structure(Lattice.cubic(edge), ["Au", "Cu", "Cu", "Cu"], sites)


def rutile(metal: str) -> Structure:
    """Return a dioxide of type rutile."""
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.4, 2.9), [metal, "O"], [[0, 0, 0], [0.3, 0.3, 0]]
    )
