"""The ternaries of the shared data for `wycryst_tables`, with their Wyckoff genes, read once for all models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from models.data import E_ABOVE_HULL, FORMATION_ENERGY, STABLE, SYMPREC, LabelledStructure
from models.genes import RefinedCrystal, WyckoffGene, orbits_of

BAND_GAP = "band_gap"
"""Key of the band gap [eV, PBE]."""

PROPERTIES = (FORMATION_ENERGY, BAND_GAP, STABLE)
"""What is foretold, in this order."""

HEAVIEST = 83
"""Bismuth, the paper's last element."""

REFINED = "refined"
"""Key of what was read of a crystal in `Structure.properties`."""

Refined = list[RefinedCrystal | None]


def data_file() -> Path:
    """Return where the crystals lie; CAMPAIGN_TEST_DATA names another folder."""
    folder = os.environ.get("CAMPAIGN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")
    return Path(folder) / "mp_train.parquet"


@lru_cache(maxsize=1)
def read_ternaries(file: Path, limit: int | None) -> list[LabelledStructure]:
    """Return the ternaries up to bismuth with their labels, `stable` being 1 on the convex hull and 0 above it.

    Args:
        file: Of the shared data.
        limit: So many, drawn at random with a seed of 0; all of them if None.
    """
    from pyarrow import parquet
    from pymatgen.core import Element, Structure

    names = ["atomic_numbers", "lattice", "frac_coords", FORMATION_ENERGY, BAND_GAP, E_ABOVE_HULL]
    rows = parquet.read_table(file, columns=names, filters=[("n_elements", "==", 3)]).to_pylist()
    rows = [row for row in rows if max(row["atomic_numbers"]) <= HEAVIEST]
    if limit is not None:
        chosen = np.random.default_rng(0).permutation(len(rows))[:limit]
        rows = [rows[place] for place in np.sort(chosen)]
    found = []
    for row in rows:
        structure = Structure(
            np.array(row["lattice"], dtype=float).reshape(3, 3),
            [Element.from_Z(z) for z in row["atomic_numbers"]],
            np.array(row["frac_coords"], dtype=float).reshape(-1, 3),
        )
        above = row[E_ABOVE_HULL]
        stable = None if above is None else float(above <= 0.0)
        known = {name: _number(row[name]) for name in (FORMATION_ENERGY, BAND_GAP, E_ABOVE_HULL)}
        found.append(LabelledStructure(structure, {**known, STABLE: stable}))
    return found


def refine(file: Path, limit: int | None, start: int, stop: int) -> Refined:
    """Return gene, lattice and parameters of some ternaries; a task of one process."""
    items = read_ternaries(file, limit)[start:stop]
    return [orbits_of(item.structure, SYMPREC) for item in items]


def write_refined(file: Path, refined: Refined) -> None:
    """Keep what was read of the crystals, in their order, for other processes."""
    known = [crystal for crystal in refined if crystal is not None]
    np.savez(
        file,
        texts=np.array([crystal.gene.text() if crystal is not None else "" for crystal in refined]),
        lattices=np.array([crystal.lattice for crystal in known]).reshape(-1, 3, 3),
        parameters=np.concatenate([np.zeros((0, 3)), *(crystal.parameters for crystal in known)]),
    )


def read_refined(file: Path) -> Refined:
    """Return what `write_refined` kept."""
    with np.load(file) as arrays:
        texts, lattices, parameters = arrays["texts"], arrays["lattices"], arrays["parameters"]
    found: Refined = []
    place = start = 0
    for text in texts.tolist():
        if not text:
            found.append(None)
            continue
        gene = WyckoffGene.from_text(text)
        stop = start + len(gene.orbits)
        found.append(RefinedCrystal(gene, lattices[place], parameters[start:stop]))
        place, start = place + 1, stop
    return found


@contextmanager
def genes_recalled(items: list[LabelledStructure], refined: Refined) -> Iterator[None]:
    """Let the models take the genes of `items` from memory, instead of each searching symmetry anew (6 ms each).

    Everything else that the models do with crystals stays theirs; other crystals and tolerances are read afresh.
    """
    from models import gene_batch
    from models.generators.wycryst import gene_set

    for item, crystal in zip(items, refined, strict=True):
        item.structure.properties[REFINED] = crystal
    read_orbits, read_gene = vars(gene_set)["orbits_of"], vars(gene_batch)["gene_of"]

    def orbits(structure: Any, symprec: float = SYMPREC) -> RefinedCrystal | None:
        if symprec == SYMPREC and REFINED in structure.properties:
            known: RefinedCrystal | None = structure.properties[REFINED]
            return known
        found: RefinedCrystal | None = read_orbits(structure, symprec)
        return found

    def gene(structure: Any, symprec: float = SYMPREC) -> WyckoffGene | None:
        if symprec == SYMPREC and REFINED in structure.properties:
            known: RefinedCrystal | None = structure.properties[REFINED]
            return None if known is None else known.gene
        found: WyckoffGene | None = read_gene(structure, symprec)
        return found

    vars(gene_set)["orbits_of"], vars(gene_batch)["gene_of"] = orbits, gene
    try:
        yield
    finally:
        vars(gene_set)["orbits_of"], vars(gene_batch)["gene_of"] = read_orbits, read_gene


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
