"""Small wycryst models and their training crystals for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.building import BuildSettings
from models.data import E_ABOVE_HULL, FORMATION_ENERGY, Conditions, LabelledStructure
from models.gene_crystals import build_crystals
from models.generators.wycryst.contract import GeneBatch
from models.generators.wycryst.generator import WyCrystGenerator
from models.genes import WyckoffGene, arrays_from_genes
from models.lattices import LatticeModel

SMALL_NETWORK = {"latent_size": 12, "hidden": 48, "site_size": 12}
QUICK: dict[str, Any] = {
    "network": SMALL_NETWORK,
    "training": {"min_steps": 120, "epochs": 120, "learning_rate": 5e-3},
    "fine_tune_steps": 40,
}
"""Options of a network that is fitted in a second or two."""

QUICK_PAPER: dict[str, Any] = {
    "variant": "paper",
    "paper": {
        "filters": (16, 16, 16),
        "dense": 64,
        "latent_size": 16,
        "epochs": 250,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "plateau_patience": 50,
    },
    "fine_tune_steps": 20,
}
"""Options of the network as printed, for a few ternaries."""

COMMON = Conditions(("Ca", "Mg", "Sr", "Ti", "O", "F", "Cl"), (2, 3), 12)


def make_generator(**options: Any) -> WyCrystGenerator:
    return WyCrystGenerator(WyCrystGenerator.Config(**{**QUICK, **options}))


def with_options(generator: WyCrystGenerator, folder: Path, **sampling: Any) -> WyCrystGenerator:
    """The same weights with other options of sampling."""
    generator.save(folder)
    found = WyCrystGenerator.load(folder)
    options = found.config.sampling.model_dump() | sampling
    found.config = WyCrystGenerator.Config(**{**found.config.model_dump(), "sampling": options})
    return found


def gene_batch(genes: Sequence[WyckoffGene], n_slots: int = 4, n_properties: int = 2) -> GeneBatch:
    """Genes for a network, with targets between -1 and 1."""
    spacegroup, elements, counts = arrays_from_genes(genes, n_slots)
    values = np.cos(np.arange(len(genes) * n_properties)).reshape(len(genes), n_properties)
    return GeneBatch(
        torch.from_numpy(spacegroup),
        torch.from_numpy(elements),
        torch.from_numpy(counts),
        torch.from_numpy(values).float(),
        torch.ones(len(genes)),
    )


def crystals_of(texts: Sequence[str], seed: int = 0) -> list[LabelledStructure]:
    """One crystal of each gene, with made-up labels."""
    genes = [WyckoffGene.from_text(text) for text in texts]
    settings = BuildSettings(min_distance_factor=0.3)
    built = build_crystals(genes, [1] * len(genes), LatticeModel.default(), settings, seed)
    return [
        LabelledStructure(
            structures[0], {FORMATION_ENERGY: -0.1 * (number % 5), E_ABOVE_HULL: 0.03 * (number % 4)}
        )
        for number, structures in enumerate(built)
    ]


def ternaries() -> list[LabelledStructure]:
    """Cubic perovskites, half-Heusler crystals and Heusler crystals."""
    texts = []
    for a in ("Ca", "Sr", "Ba", "K"):
        texts += [f"221|{a}:a|{b}:b|{x}:c" for b, x in (("Ti", "O"), ("Mg", "F"), ("Ni", "Cl"))]
    texts += [f"216|{a}:a|Sb:b|{b}:c" for a, b in (("Ti", "Co"), ("Ti", "Ni"), ("Mg", "Cu"), ("Sr", "Ag"))]
    texts += [f"225|Al:a|{a}:b|{b}:c" for a, b in (("Ti", "Cu"), ("Mn", "Co"), ("Sr", "Ni"), ("Mg", "Au"))]
    return crystals_of(texts)


def global_states() -> tuple[Any, ...]:
    """Of the global random generators."""
    import random

    return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
