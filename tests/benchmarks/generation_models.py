"""The generators that `wycryst_generation` compares: each trained and asked for crystals, a task of one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.data import Conditions

ELEMENTS = (
    *("Li", "Na", "K", "Mg", "Ca", "Sr", "Ba"),
    *("Ti", "Zr", "V", "Mn", "Fe", "Co", "Ni", "Cu", "Zn"),
    *("Al", "Ga", "Si", "Ge", "N", "O", "S", "F", "Cl"),
)
"""Common ones; all ternaries of them may come."""
MAX_ATOMS = 20
"""In the primitive cell."""
FTCP_EPOCHS = 12


@dataclass
class Made:
    """What one generator made."""

    model: str
    structures: list[Structure]
    asked: int
    training_s: float
    """CPU time of `fit`."""
    sampling_s: float
    """CPU time of `sample`."""
    genes: dict[str, object] = field(default_factory=dict)
    """Of generators that draw genes: how many were drawn, lost and built."""


def conditions() -> Conditions:
    """Return what is asked of every generator."""
    from models.data import Conditions

    return Conditions(ELEMENTS, (3, 3), MAX_ATOMS)


def make(model: str, data: Path, limit: int | None, n: int, seed: int) -> Made:
    """Train a generator on the ternaries and ask it for `n` crystals."""
    import torch
    from benchmarks.wycryst_data import read_ternaries

    from models.training import derive_seed

    torch.set_num_threads(1)
    items = read_ternaries(data, limit)
    generator = GENERATORS[model]()
    begin = time.process_time()
    generator.fit(items, seed)
    trained = time.process_time()
    structures = generator.sample(n, conditions(), derive_seed(seed, 1))
    sampled = time.process_time()
    made = Made(model, structures, n, trained - begin, sampled - trained)
    if hasattr(generator, "genes"):
        made.genes = gene_figures(generator, n, derive_seed(seed, 2))
    return made


def gene_figures(generator: Any, n: int, seed: int) -> dict[str, object]:
    """Return what becomes of the draws for `n` new genes, and of one trial of each of them."""
    from models.gene_crystals import build_arrays

    begin = time.process_time()
    harvest = generator.genes(n, conditions(), seed)
    drawn = time.process_time()
    genes = [one.gene for one in harvest.genes]
    built = build_arrays(genes, [1] * len(genes), generator.lattices, generator.config.build, seed)
    done = time.process_time()
    return {
        "vectors decoded": harvest.drawn,
        **{f"lost: {reason}": count for reason, count in harvest.rejected.items()},
        "distinct new genes": len(genes),
        "built in one trial": len(built.gene) / max(len(genes), 1),
        "decoded per CPU second": harvest.drawn / (drawn - begin),
        "new genes per CPU second": len(genes) / (drawn - begin),
        "crystals built per CPU second": len(built.gene) / (done - drawn),
    }


def _wycryst(variant: str) -> Callable[[], Any]:
    def build() -> Any:
        from models.generators.wycryst.generator import WyCrystGenerator

        options = {"variant": variant, "max_elements": 3, "sampling": {"trials": 1}}
        return WyCrystGenerator(WyCrystGenerator.Config.model_validate(options))

    return build


def _substitution() -> Any:
    from models.generators.substitution import SubstitutionGenerator

    return SubstitutionGenerator()


def _ftcp() -> Any:
    from models.generators.ftcp.config import FTCPConfig
    from models.generators.ftcp.generator import FTCPGenerator

    small = {"filters": 64, "dense": 512, "latent": 128, "batch_size": 64, "learning_rate": 2e-3}
    return FTCPGenerator(FTCPConfig.model_validate({**small, "epochs": FTCP_EPOCHS}))


GENERATORS: dict[str, Callable[[], Any]] = {
    "ours": _wycryst("default"),
    "paper": _wycryst("paper"),
    "substitution": _substitution,
    "ftcp": _ftcp,
}
"""By the names that the command line takes."""
