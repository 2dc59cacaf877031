"""Crystals of the shared data with their labels, for benchmarks of heads and of what they are worth."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from models.data import E_ABOVE_HULL, FORMATION_ENERGY, STABLE, LabelledStructure

BELIEVABLE = (-0.5, 1.5)
"""Energies above the hull outside of this are errors of the data [eV/atom]."""

STABLE_EV_PER_ATOM = 0.05
"""What counts as stable for discriminators, as a campaign has it by default [eV/atom]."""

HULL_COLUMN = {"mp_train": "e_above_hull", "mp_val": "e_above_hull", "wbm_train": "e_above_hull_ref"}
"""Where each file tells the energy above the hull."""


def data_folder() -> Path:
    """Return where the files lie; CAMPAIGN_TEST_DATA names another folder."""
    return Path(os.environ.get("CAMPAIGN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def read_labelled(
    name: str, n: int, seed: int, *, n_elements: tuple[int, int] = (1, 9), max_atoms: int = 60
) -> list[LabelledStructure]:
    """Draw crystals with known formation energy and energy above the hull.

    Args:
        name: A file without its ending, a key of `HULL_COLUMN`.
        n: At most so many.
        seed: Of the draw.
        n_elements: Fewest and most elements.
        max_atoms: Most atoms of the stored cell.
    """
    from pyarrow import parquet
    from pymatgen.core import Element, Structure

    above = HULL_COLUMN[name]
    columns = ["n_elements", "n_atoms", "lattice", "atomic_numbers", "frac_coords", FORMATION_ENERGY, above]
    table = parquet.read_table(data_folder() / f"{name}.parquet", columns=columns)
    rows = [
        row
        for row in table.to_pylist()
        if n_elements[0] <= row["n_elements"] <= n_elements[1]
        and row["n_atoms"] <= max_atoms
        and row[FORMATION_ENERGY] is not None
        and row[above] is not None
        and BELIEVABLE[0] < row[above] < BELIEVABLE[1]
    ]
    found = []
    for place in np.random.default_rng(seed).permutation(len(rows))[:n].tolist():
        row = rows[place]
        structure = Structure(
            np.array(row["lattice"], dtype=float).reshape(3, 3),
            [Element.from_Z(z) for z in row["atomic_numbers"]],
            np.array(row["frac_coords"], dtype=float).reshape(-1, 3),
        )
        properties = {
            FORMATION_ENERGY: float(row[FORMATION_ENERGY]),
            E_ABOVE_HULL: float(row[above]),
            STABLE: float(row[above] <= STABLE_EV_PER_ATOM),
        }
        found.append(LabelledStructure(structure, properties))
    return found
