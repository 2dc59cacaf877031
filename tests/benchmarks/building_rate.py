"""How many crystals per second come out of Wyckoff genes, beside PyXtal: same genes, same minimum distances.

Both draw their free parameters at random (no known parameters) and keep f (r_i + r_j) between atoms with the same
covalent radii. PyXtal does not look at an atom's distance from its own images, so the share of its crystals that
keep the rule in full is told too. PyXtal has one round of its own attempts (at most 40 cells of 10 placements)
for each gene: with its default of ten rounds a few crowded genes would take most of the time.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

N_GENES = 1_000
N_PYXTAL = int(os.environ.get("CAMPAIGN_BENCHMARK_PYXTAL_GENES", N_GENES))
FACTOR = 0.65
SEED = 0
DATA = Path(os.environ.get("CAMPAIGN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def measure() -> list[dict[str, object]]:
    """Return one row per way of building: crystals, success, seconds, crystals per second, times PyXtal."""
    import torch

    from models.building import BuildSettings
    from models.gene_crystals import build_arrays, build_crystals

    torch.set_num_threads(1)
    genes, model = _genes_and_model()
    trials = [1] * len(genes)

    def arrays(**options: Any) -> Callable[[], int]:
        settings = BuildSettings(min_distance_factor=FACTOR, **{"known_parameters": 0.0, **options})
        return lambda: len(build_arrays(genes, trials, model, settings, SEED).gene)

    def structures() -> int:
        settings = BuildSettings(min_distance_factor=FACTOR, known_parameters=0.0)
        return sum(map(len, build_crystals(genes, trials, model, settings, SEED)))

    arrays(verify="off")()  # fills the tables of the groups
    arrays()()
    rows = [
        _row("arrays, symmetry not verified", arrays(verify="off"), len(genes)),
        _row("arrays", arrays(), len(genes)),
        _row("pymatgen structures", structures, len(genes)),
        _row("arrays, verified by spglib too", arrays(verify="spglib"), len(genes)),
        _row("arrays, half from known parameters", arrays(known_parameters=0.5), len(genes)),
    ]
    if find_spec("pyxtal") is None:
        return [{**row, "times PyXtal": "not installed"} for row in rows]
    rows.append(_pyxtal_row(genes[:N_PYXTAL]))
    reference = float(str(rows[-1]["per second"]))
    return [{**row, "times PyXtal": float(str(row["per second"])) / reference} for row in rows]


def _genes_and_model() -> tuple[list[Any], Any]:
    """Return different genes of ternaries with at most ten free coordinates, and a model of their lattices."""
    import pandas as pd
    from pymatgen.core import Element, Lattice, Structure

    from models.genes import orbits_of
    from models.lattices import LatticeModel

    table = pd.read_parquet(DATA / "mp_train.parquet").query("n_elements == 3")
    refined = []
    for row in table.sample(2 * N_GENES, random_state=SEED).itertuples():
        lattice = Lattice(np.asarray(row.lattice, float).reshape(3, 3))
        species = [Element.from_Z(int(z)) for z in row.atomic_numbers]
        found = orbits_of(Structure(lattice, species, np.asarray(row.frac_coords, float).reshape(-1, 3)))
        if found is not None:
            refined.append(found)
    genes = list(dict.fromkeys(crystal.gene for crystal in refined if crystal.gene.dof <= 10))
    return genes[:N_GENES], LatticeModel.from_refined(refined)


def _row(way: str, build: Callable[[], int], asked: int) -> dict[str, object]:
    begin = time.perf_counter()
    made = build()
    seconds = time.perf_counter() - begin
    return {
        "way": way,
        "genes": asked,
        "built": made,
        "success": made / asked,
        "seconds": seconds,
        "per second": made / seconds,
        "ms each": 1000.0 * seconds / made,
        "ms of the median crystal": "",
        "exact group, distances kept": "",
    }


def _pyxtal_row(genes: list[Any]) -> dict[str, object]:
    from pyxtal import pyxtal
    from pyxtal.tolerance import Tol_matrix

    from models.distances import covalent_radii
    from models.genes import element_symbols
    from models.symmetry import LETTERS, tables

    radii = covalent_radii().numpy()
    limits = Tol_matrix(prototype="atomic")
    used = sorted({element_symbols().index(s) for gene in genes for s in gene.elements})
    for first in used:
        for second in used:
            limits.set_tol(first, second, FACTOR * (radii[first] + radii[second]))
    made: list[tuple[Any, Any]] = []
    each: list[float] = []

    def build() -> int:
        for number, gene in enumerate(genes):
            sites = [
                [
                    f"{int(tables().multiplicity[gene.spacegroup, LETTERS.index(letter)])}{letter}"
                    for symbol, letter in gene.orbits
                    if symbol == element
                ]
                for element in gene.elements
            ]
            crystal = pyxtal()
            begin = time.perf_counter()
            try:
                crystal.from_random(
                    3,
                    gene.spacegroup,
                    list(gene.elements),
                    list(gene.composition.values()),
                    sites=sites,
                    tm=limits,
                    random_state=number,
                    max_count=1,
                )
            except Exception:  # PyXtal gives up in several ways; all are failures
                continue
            if crystal.valid:
                made.append((gene, crystal))
                each.append(time.perf_counter() - begin)
        return len(made)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = _row("PyXtal", build, len(genes))
    kept = [_exact(gene, crystal.to_pymatgen(), radii) for gene, crystal in made]
    row["ms of the median crystal"] = 1000.0 * float(np.median(each))
    row["exact group, distances kept"] = "{:.1%}, {:.1%}".format(*np.mean(kept, axis=0))
    return row


def _exact(gene: Any, structure: Any, radii: Any) -> tuple[bool, bool]:
    """Say whether spglib finds the gene's group at 0.01 Å, and whether all distances keep the rule."""
    import spglib

    numbers = np.array(structure.atomic_numbers)
    cell = (structure.lattice.matrix, structure.frac_coords, numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=0.01)
    exact = dataset is not None and dataset.number == gene.spacegroup
    centre, other, _, distance = structure.get_neighbor_list(2.0 * FACTOR * radii[numbers].max())
    limit = FACTOR * (radii[numbers[centre]] + radii[numbers[other]])
    return exact, bool((distance >= limit - 1e-6).all())
