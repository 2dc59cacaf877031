"""Batches of Wyckoff genes for tests: five known ones, or those of the shared data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.generators.wycryst import paper_representation as representation
from models.generators.wycryst.contract import GeneBatch
from models.genes import WyckoffGene, arrays_from_genes

KNOWN = (
    "221|Ba:a|O:c|Ti:b",  # cubic perovskite: 1 + 3 + 1 atoms
    "62|Ca:c|O:c|O:d|Ti:a",  # orthorhombic perovskite: 4 + 4 + 8 + 4
    "227|Al:c|Mg:b|O:e",  # spinel: 16 + 8 + 32
    "122|Cu:a|In:b|S:d",  # chalcopyrite: 4 + 4 + 8
    "1|K:a|N:a|O:a|O:a|O:a",
)


def batch_of(genes: list[WyckoffGene], targets: list[float] | None = None) -> GeneBatch:
    spacegroup, elements, counts = arrays_from_genes(genes, 3)
    n = len(genes)
    values = targets if targets is not None else np.linspace(-1.0, 1.0, n).tolist()
    return GeneBatch(
        torch.from_numpy(spacegroup),
        torch.from_numpy(elements),
        torch.from_numpy(counts),
        torch.tensor(values, dtype=torch.float32).reshape(n, 1),
        torch.ones(n),
    )


def known_batch() -> GeneBatch:
    """The known genes with targets from -1 to 1."""
    return batch_of([WyckoffGene.from_text(text) for text in KNOWN])


def read_ternaries(data_dir: Path, n: int) -> GeneBatch:
    """At most `n` ternaries of the Materials Project with their formation energies, standardised."""
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = ["wyckoff", "spacegroup", "n_elements", "formation_energy_per_atom"]
    rows = parquet.read_table(data_dir / "mp_train.parquet", columns=columns).to_pylist()
    rows = [r for r in rows if r["n_elements"] == 3 and r["formation_energy_per_atom"] is not None]
    chosen = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:n]]
    genes = []
    for row in chosen:
        orbits = [
            (e, site.lstrip("0123456789"))
            for e, sites in json.loads(row["wyckoff"]).items()
            for site in sites
        ]
        genes.append(WyckoffGene(row["spacegroup"], tuple(orbits)))
    energies = np.array([row["formation_energy_per_atom"] for row in chosen])
    batch = batch_of(genes, ((energies - energies.mean()) / energies.std()).tolist())
    return batch.part(torch.nonzero(representation.representable(batch)).flatten())


def array_of(batch: GeneBatch) -> torch.Tensor:
    return representation.represent(
        batch, representation.feature_table(), representation.multiplicity_table()
    )
