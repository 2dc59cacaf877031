"""One training of `wycryst_tables`: a model and a seed, judged on the held-out fifth of the compositions."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.wycryst_data import (
    BAND_GAP,
    PROPERTIES,
    Refined,
    genes_recalled,
    read_refined,
    read_ternaries,
)
from pydantic import BaseModel

from models.data import FORMATION_ENERGY, STABLE, SYMPREC, LabelledStructure

HELD_OUT = 0.2
"""Share of the reduced formulas that no model is trained on."""

THRESHOLD = 0.5
"""A regression of the label 0/1 is called stable from here on."""

Items = list[LabelledStructure]
Array = npt.NDArray[np.float64]
Values = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What all trainings have in common."""

    data: Path
    """File of the crystals."""
    refined: Path
    """File of their genes, lattices and parameters."""
    limit: int | None = None
    """Crystals to draw; all of them if None."""
    share: float = 1.0
    """Of the epochs and steps."""
    tier: str = "cpu"
    """`cpu` or `gpu`."""

    @property
    def device(self) -> str:
        """Where the models are trained."""
        return "cuda" if self.tier == "gpu" else "cpu"

    def shorter(self, config: BaseModel) -> Any:
        """Return a configuration with its epochs and steps cut to the plan's share."""
        names = ("epochs", "max_epochs", "max_steps", "min_steps")
        known = {name: getattr(config, name, None) for name in names}
        cut = {name: max(1, round(n * self.share)) for name, n in known.items() if isinstance(n, int)}
        return type(config).model_validate(config.model_dump() | cut)


@dataclass(frozen=True)
class Result:
    """What one training gave."""

    model: str
    seed: int
    cpu_seconds: float
    """Of the training itself."""
    wall_seconds: float
    n_train: int
    """Crystals that it was given."""
    n_held_out: int
    values: Values
    """Measures on the held-out crystals."""
    log: Values = field(default_factory=dict)
    """What the training says of itself."""


def prepare_process() -> None:
    """Keep a process to one thread, and quiet about elements whose properties pymatgen does not know."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="No data available")


def train_one(plan: Plan, model: str, seed: int) -> Result:
    """Train and judge one model; a task of one process."""
    from models.splitting import split_by_composition

    items, refined = _crystals(plan.data, plan.limit, plan.refined)
    with genes_recalled(items, refined):
        train, held_out = split_by_composition(items, HELD_OUT, seed)
        clock = _Clock()
        values, log = MODELS[model](plan, train, held_out, seed, clock)
    return Result(model, seed, clock.cpu, clock.wall, len(train), len(held_out), values, log)


@lru_cache(maxsize=1)
def _crystals(data: Path, limit: int | None, refined: Path) -> tuple[Items, Refined]:
    return read_ternaries(data, limit), read_refined(refined)


class _Clock:
    """Takes the time of a training, without what comes before and after it."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def take(self, action: Callable[[], Any]) -> Any:
        """Return what `action` returns."""
        cpu, wall = time.process_time(), time.perf_counter()
        found = action()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        return found


def _autoencoder(variant: str) -> Callable[..., tuple[Values, Values]]:
    """Return the training of WyCryst as printed (`paper`), or of ours (`default`)."""

    def train_it(
        plan: Plan, train: Items, held_out: Items, seed: int, clock: _Clock
    ) -> tuple[Values, Values]:
        from models.generators.wycryst.accuracy import reconstruction
        from models.generators.wycryst.config import SamplingOptions, WyCrystConfig
        from models.generators.wycryst.fitting import GeneTraining
        from models.generators.wycryst.generator import WyCrystGenerator
        from models.generators.wycryst.paper import PaperOptions

        config = WyCrystConfig.model_validate(
            {
                "variant": variant,
                "max_elements": 3,
                "properties": PROPERTIES,
                "training": plan.shorter(GeneTraining()),
                "paper": plan.shorter(PaperOptions(formula_loss="paper")),
                "sampling": SamplingOptions(rank_by=None),
                "device": plan.device,
            }
        )
        model = WyCrystGenerator(config)
        clock.take(lambda: model.fit(train, seed))
        reading, fitted = model._read(held_out), model.fitted
        batch = reading.genes.batch(fitted.centre, fitted.spread, fitted.device)
        right = reconstruction(fitted.network, batch)
        share = right.n_genes / len(held_out)
        names = ("slot_elements", "elements", "wyckoff", "spacegroup", "formula", "gene")
        values = {name: share * getattr(right, name) for name in names}
        values["not_written"] = float(len(held_out) - right.n_genes)
        predicted = np.full((len(held_out), len(PROPERTIES)), np.nan)
        predicted[reading.rows] = model.predict_genes(reading.genes)
        values |= judged(held_out, dict(zip(PROPERTIES, predicted.T, strict=True)))
        log = {"steps": model.log.steps, "epochs": len(model.log.losses), **model.log.losses[-1]}
        values["weights"] = _weights([fitted.network])
        return values, {name: float(value) for name, value in log.items()}

    return train_it


def _ftcp(plan: Plan, train: Items, held_out: Items, seed: int, clock: _Clock) -> tuple[Values, Values]:
    from models.generators.ftcp.config import FTCPConfig
    from models.generators.ftcp.generator import FTCPGenerator

    small = {
        "filters": 64,
        "dense": 512,
        "latent": 128,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "epochs": 25,
    }
    config = FTCPConfig.model_validate(
        {"properties": PROPERTIES, "device": plan.device} | (small if plan.tier == "cpu" else {})
    )
    model = FTCPGenerator(plan.shorter(config))
    clock.take(lambda: model.fit(train, seed))
    structures = [item.structure for item in held_out]
    values = _ftcp_reconstruction(model, structures)
    predicted = model.predict_properties(structures)
    values |= judged(held_out, dict(zip(PROPERTIES, predicted.T, strict=True)))
    values["weights"] = _weights([model._fitted()])
    log = {"epochs": float(len(model.log.reconstruction)), "left_out_of_training": float(model.n_left_out)}
    return values, log | {"reconstruction": model.log.reconstruction[-1]}


def _ftcp_reconstruction(model: Any, structures: list[Any]) -> Values:
    """Return the shares of right reconstructions; symmetry is what spglib finds in the decoded crystal."""
    from benchmarks.wycryst_data import REFINED

    from models.generators.ftcp.representation import possible, read_cells, to_structure
    from models.genes import arrays_from_genes, gene_of

    cells, kept = read_cells(structures, model.layout)
    decoded = model._decoded(model._encoded(cells))
    elements = (decoded.elements == cells.elements).numpy()  # (n, 3)
    columns = range(model.layout.max_elements)
    atoms = np.stack(
        [((decoded.columns == k).sum(1) == (cells.columns == k).sum(1)).numpy() for k in columns]
    )
    sane = possible(decoded).tolist()
    letters, groups, whole = [], [], []
    for row, place in enumerate(kept.tolist()):
        refined = structures[place].properties[REFINED]
        gene = gene_of(to_structure(decoded, row), SYMPREC) if sane[row] else None
        if gene is None or refined is None:
            continue
        _, _, counts = arrays_from_genes([gene, refined.gene], 3)  # (2, 3, 27)
        letters.append(bool((counts[0] == counts[1]).all()))
        groups.append(gene.spacegroup == refined.gene.spacegroup)
        whole.append(gene == refined.gene)
    n = len(structures)
    return {
        "slot_elements": float(elements.sum()) / (3 * n),
        "elements": float(elements.all(axis=1).sum()) / n,
        "wyckoff": sum(letters) / n,
        "spacegroup": sum(groups) / n,
        "formula": float(atoms.all(axis=0).sum()) / n,
        "gene": sum(whole) / n,
        "not_written": float(n - len(cells)),
    }


HEADS: dict[str, dict[str, dict[str, int]]] = {
    "cpu": {
        "wyckoff head": {"members": 3, "max_steps": 3000},
        "wyckoff discriminator": {"members": 5, "max_steps": 2500},
        "cgcnn head": {"members": 2, "max_steps": 2000},
        "cgcnn discriminator": {"members": 2, "max_steps": 1000},
    },
    "gpu": {
        "wyckoff head": {"members": 8, "max_steps": 6000},
        "wyckoff discriminator": {"members": 8, "max_steps": 4000},
        "cgcnn head": {"members": 4, "max_steps": 10000},
        "cgcnn discriminator": {"members": 4, "max_steps": 4000},
    },
}
"""Members and steps of the forward models by tier; everything else is their default."""


def _head(kind: str) -> Callable[..., tuple[Values, Values]]:
    """Return the training of a property head on formation energy and band gap."""

    def train_it(
        plan: Plan, train: Items, held_out: Items, seed: int, clock: _Clock
    ) -> tuple[Values, Values]:
        from models.heads.cgcnn import CGCNNHead
        from models.heads.wyckoff import WyckoffHead

        names = (FORMATION_ENERGY, BAND_GAP)
        options = {"properties": names, "device": plan.device, **HEADS[plan.tier][f"{kind} head"]}
        made: Any = WyckoffHead if kind == "wyckoff" else CGCNNHead
        head = made(plan.shorter(made.Config(**options)))
        known = [train[row] for row in readable(train)]
        log = clock.take(lambda: head.fit(known, [], seed))
        rows = readable(held_out)
        mean = np.full((len(held_out), len(names)), np.nan)
        mean[rows] = head.predict([held_out[row].structure for row in rows]).mean
        values = judged(held_out, dict(zip(names, mean.T, strict=True)))
        return values | {"weights": _weights(head._fitted().members)}, dict(log)

    return train_it


def _discriminator(kind: str) -> Callable[..., tuple[Values, Values]]:
    """Return the training of a discriminator."""

    def train_it(
        plan: Plan, train: Items, held_out: Items, seed: int, clock: _Clock
    ) -> tuple[Values, Values]:
        from models.discriminators.cgcnn import CGCNNDiscriminator
        from models.discriminators.wyckoff import WyckoffDiscriminator

        options = {"device": plan.device, "threshold": None, **HEADS[plan.tier][f"{kind} discriminator"]}
        made: Any = WyckoffDiscriminator if kind == "wyckoff" else CGCNNDiscriminator
        model = made(plan.shorter(made.Config(**options)))
        known = [train[row] for row in readable(train)]
        log = clock.take(lambda: model.fit(known, [], seed))
        rows = readable(held_out)
        score = np.full(len(held_out), np.nan)
        score[rows] = model.probability([held_out[row].structure for row in rows])
        values = judged(held_out, {STABLE: score}, log["threshold"])
        return values | {"weights": _weights(model._fitted().members)}, dict(log)

    return train_it


MODELS: dict[str, Callable[..., tuple[Values, Values]]] = {
    "paper": _autoencoder("paper"),
    "ours": _autoencoder("default"),
    "ftcp": _ftcp,
    "cgcnn head": _head("cgcnn"),
    "wyckoff head": _head("wyckoff"),
    "cgcnn discriminator": _discriminator("cgcnn"),
    "wyckoff discriminator": _discriminator("wyckoff"),
}
"""The trainings, longest first."""


def _weights(networks: Sequence[Any]) -> float:
    """Return how many trainable numbers some networks have."""
    return float(sum(tensor.numel() for network in networks for tensor in network.parameters()))


def readable(items: Items) -> list[int]:
    """Return the places of the crystals that have a gene; the graph network is judged on the same ones."""
    from benchmarks.wycryst_data import REFINED

    return [row for row, item in enumerate(items) if item.structure.properties[REFINED] is not None]


def judged(items: Items, predicted: dict[str, Array], threshold: float = THRESHOLD) -> Values:
    """Judge predictions (n,) of properties, NaN where a crystal could not be read.

    Errors are means over what was read. A crystal that was not read is not called stable, and scores lowest.
    """
    from models.metrics import classification_metrics, mae, roc_auc

    found: Values = {}
    for name, guess in predicted.items():
        truth = np.array([np.nan if (v := item.known(name)) is None else v for item in items], dtype=float)
        known = np.isfinite(truth)
        found[f"not_read:{name}"] = float((known & ~np.isfinite(guess)).sum())
        if name != STABLE:
            both = known & np.isfinite(guess)
            found[f"mae:{name}"] = mae(truth[both], guess[both])
            found[f"mae_of_mean:{name}"] = mae(truth[both], np.full(both.sum(), truth[both].mean()))
            continue
        score = np.where(np.isfinite(guess), guess, -1e9)[known]
        metrics = classification_metrics(truth[known], np.clip(score, 0.0, 1.0), threshold)
        found |= {key: metrics[key] for key in ("recall", "precision", "f1", "base_rate") if key in metrics}
        area = roc_auc(truth[known], score)
        found |= {} if area is None else {"auc": area}
    return found
