"""Crystals of the flow tests."""

from __future__ import annotations

from pymatgen.core import Lattice, Structure


def silicon(edge_ang: float = 5.5) -> Structure:
    return Structure.from_spacegroup(
        "Fd-3m", Lattice.cubic(edge_ang), ["Si"], [[0, 0, 0]]
    ).get_primitive_structure()


def copper(edge_ang: float = 3.7) -> Structure:
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(edge_ang), ["Cu"], [[0, 0, 0]]
    ).get_primitive_structure()
