"""A pool of made-up crystals whose energies follow a simple rule, and a benchmark on it that ends in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from components import BinaryGenerator
from pyarrow import parquet
from test_driver import small_entries

from models.data import Conditions

N_POOL = 60

MEANS = {"Ca-Mg": 0.2, "Ca-Si": 0.1, "Mg-Si": -0.15}
"""Mean formation energy [eV/atom] by chemical system; the reference knows elements alone, so its hull lies at 0."""


def write_pool(folder: Path, *, n: int = N_POOL) -> Path:
    """Write binary crystals of three elements; those of Mg and Si are stable, and no head sees what spreads them."""
    crystals = BinaryGenerator().sample(n, Conditions(("Ca", "Mg", "Si"), (2, 2), 4), seed=1)
    random = np.random.default_rng(2)
    rows: dict[str, list[Any]] = {
        "material_id": [f"made-{place}" for place in range(n)],
        "lattice": [one.lattice.matrix.ravel().tolist() for one in crystals],
        "atomic_numbers": [[site.specie.Z for site in one] for one in crystals],
        "frac_coords": [one.frac_coords.ravel().tolist() for one in crystals],
        "formation_energy_per_atom": [
            float(MEANS[one.composition.chemical_system] + random.normal(0, 0.08)) for one in crystals
        ],
    }
    file = folder / "pool.parquet"
    parquet.write_table(pa.table(rows), file)
    return file


def write_elements(folder: Path) -> None:
    """Write a reference of elements."""
    elements = json.loads(small_entries())
    elements = [one for one in elements if one["formation_energy_per_atom"] == 0]
    (folder / "elements.json").write_text(json.dumps(elements))


def benchmark_document(**changes: Any) -> dict[str, Any]:
    """Return a benchmark file's content on such a pool."""
    return {
        "name": "small",
        "campaign": {
            "reference": {"crystals": ["elements.json"]},
            "learn": {
                "heads": [{"kind": "components:ElementHead"}],
                "discriminators": [],
                "gate_tolerance": 10.0,  # three crystals are a poor judge
            },
            "acquisition": {
                "policy": "greedy",
                "diversity": "none",
                "max_per_formula": 1000,
                "lookahead_rounds": 0,
            },
        },
        "truth": "pool",
        "training_seed": 5,  # holds two of the reference's formulas out: with fewer the gate cannot judge
        "pool": {"file": "pool.parquet"},
        "labels": 12,
        "labels_per_round": 3,
        "seeds": 2,
        "keep_runs": True,
        "policies": {
            "default": {},
            "frozen": {"learn.retrain": False},
            "random": {"acquisition.policy": "random", "learn": {"retrain": False}},
            "oracle": {"acquisition.policy": "oracle"},
        },
    } | changes


def write_benchmark(folder: Path, **changes: Any) -> Path:
    """Write pool, reference and benchmark file."""
    write_pool(folder)
    write_elements(folder)
    file = folder / "benchmark.yaml"
    file.write_text(yaml.safe_dump(benchmark_document(**changes)))
    return file
