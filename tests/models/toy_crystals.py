"""Small crystals for tests: made here with a made-up law behind their labels, or read from the shared data."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure

from models.data import LabelledStructure

CATIONS = ("Li", "Na", "K", "Mg", "Ca", "Zn", "Al", "Ga", "Ti", "Fe")
ANIONS = ("O", "S", "Se", "N", "Cl", "F")


def binary(cation: str, anion: str, prototype: str, volume_scale: float = 1.0) -> Structure:
    """One binary crystal whose edge follows from the elements' radii."""
    edge = 2.0 * (Element(cation).atomic_radius + Element(anion).atomic_radius) * volume_scale ** (1 / 3)
    if prototype == "rocksalt":
        half = edge / 2
        face_centred = [[0, half, half], [half, 0, half], [half, half, 0]]
        return Structure(face_centred, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    if prototype == "cscl":
        return Structure(Lattice.cubic(0.62 * edge), [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return Structure(  # a low-symmetry layered AB2 cell, so that not everything is a high-symmetry point
        Lattice.hexagonal(0.75 * edge, 1.1 * edge),
        [cation, anion, anion],
        [[0.02, 0.01, 0], [1 / 3, 2 / 3, 0.24], [2 / 3, 1 / 3, 0.77]],
    )


def toy_crystals(n: int, seed: int = 0) -> list[LabelledStructure]:
    """`n` different crystals; energy falls with the electronegativity difference and rises with strain."""
    rng = np.random.default_rng(seed)
    all_of_them = list(itertools.product(CATIONS, ANIONS, ("rocksalt", "cscl", "layered")))
    chosen = [all_of_them[i] for i in rng.permutation(len(all_of_them))[:n]]
    found = []
    for cation, anion, prototype in chosen:
        scale = float(rng.uniform(0.85, 1.2))
        difference = Element(anion).X - Element(cation).X
        energy = -1.2 * difference + 8.0 * (scale - 1.0) ** 2 + (0.2 if prototype == "cscl" else 0.0)
        properties = {"formation_energy_per_atom": float(energy), "stable": float(difference > 1.6)}
        found.append(LabelledStructure(binary(cation, anion, prototype, scale), properties))
    return found


def read_crystals(
    data_dir: Path, name: str, n: int, max_atoms: int = 8, seed: int = 0
) -> list[LabelledStructure]:
    """`n` small crystals drawn from a file of the shared data, with their formation energies."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = data_dir / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    columns = ["n_atoms", "lattice", "atomic_numbers", "frac_coords", "formation_energy_per_atom"]
    rows = parquet.read_table(path, columns=columns).to_pylist()
    rows = [r for r in rows if r["n_atoms"] <= max_atoms and r["formation_energy_per_atom"] is not None]
    chosen = np.random.default_rng(seed).permutation(len(rows))[:n]
    return [
        LabelledStructure(
            Structure(
                np.array(rows[i]["lattice"], dtype=float).reshape(3, 3),
                [Element.from_Z(z) for z in rows[i]["atomic_numbers"]],
                np.array(rows[i]["frac_coords"], dtype=float).reshape(-1, 3),
            ),
            {"formation_energy_per_atom": float(rows[i]["formation_energy_per_atom"])},
        )
        for i in chosen
    ]
