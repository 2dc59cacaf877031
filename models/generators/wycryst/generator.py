"""Generator `wycryst`: genes from the latent space, crystals that have their symmetry by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from pydantic import ValidationError

from models.checkpoint import load_checkpoint, save_checkpoint
from models.data import E_ABOVE_HULL, Conditions, LabelledStructure
from models.ensemble import find_device
from models.errors import CheckpointError, NotFittedError, TrainingDataError
from models.gene_crystals import build_crystals
from models.generators.wycryst.config import WyCrystConfig
from models.generators.wycryst.fitting import Course, FitLog, course_of, fit_autoencoder
from models.generators.wycryst.gene_set import GeneSet, Reading, read_genes
from models.generators.wycryst.network import CategoricalAutoencoder
from models.generators.wycryst.paper import PaperAutoencoder
from models.generators.wycryst.paper_representation import representable
from models.generators.wycryst.sampling import FittedGenes, Harvest, ScoredGene, in_order, sample_genes
from models.lattices import LatticeModel
from models.training import copy_weights, derive_seed, standardisation

if TYPE_CHECKING:
    from pymatgen.core import Structure

KIND = "generator/wycryst"
"""Kind of the checkpoints."""

FEWEST_GENES = 8
"""An autoencoder of fewer genes than this says nothing."""

LABELS_TO_KNOWN = 0.5
"""In a fine-tuning each label is shown once, and again as long as all labels together, were they on the hull, weigh no
more than this part of the known genes shown beside them: against forgetting."""

LEAST_WEIGHT = 0.02
"""Of a label far above the hull: it stays a gene that the network can write."""

MOST_COUNTED = 255
"""Orbits of one element on one letter that a checkpoint can hold."""


class WyCrystGenerator:
    """Wyckoff genes from a property-directed variational autoencoder, built into crystals.

    See `models.generators.base.Generator` for the methods' contract. Every crystal carries its gene and what the
    property branch predicts for it in `structure.properties`.

    Args:
        config: Options.
    """

    Config = WyCrystConfig

    def __init__(self, config: WyCrystConfig | None = None) -> None:
        self.config = config or WyCrystConfig()
        self._fitted: FittedGenes | None = None
        self._lattices = LatticeModel.default()
        self.left_out: dict[str, int] = {}
        """Why training crystals were left out, and how many."""
        self.log = FitLog()
        """Losses of the last training."""

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:
        """Learn genes, properties and lattices of reference crystals.

        Raises:
            TrainingDataError: Too few of the crystals have a gene that the network can write.
            DeviceError: The device is not there.
        """
        reading = self._read(train)
        if len(reading.genes) < FEWEST_GENES:
            raise TrainingDataError(
                "too few crystals have a gene that this model can write",
                value=f"{len(reading.genes)} of {len(train)} ({reading.left_out})",
                allowed=f"{FEWEST_GENES} or more",
                cure="give more reference crystals, or raise max_elements",
            )
        lattices = LatticeModel.from_refined(reading.crystals)
        centre, spread = standardisation(reading.genes.values)
        device = find_device(self.config.device)
        network = self._network(derive_seed(seed, 0)).to(device)
        fitted = self._known(network, reading.genes, centre, spread, device)
        batch = reading.genes.batch(centre, spread, device)
        if isinstance(network, PaperAutoencoder):
            network.prepare(batch)
        self.log = fit_autoencoder(network, batch, self._course(len(batch)), derive_seed(seed, 1))
        self._fitted, self._lattices, self.left_out = fitted, lattices, reading.left_out

    def genes(self, n: int, conditions: Conditions, seed: int) -> Harvest:
        """Draw at most `n` distinct new genes that keep to `conditions`, without building crystals.

        Raises:
            NotFittedError: Before `fit` or `load`.
            OptionsError: More elements are asked for than the network can write.
        """
        return sample_genes(self.fitted, n, conditions, self.config.sampling, seed)

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        """Propose at most `n` crystals: several trials of each gene, genes that are predicted best first.

        Raises:
            NotFittedError: Before `fit` or `load`.
            OptionsError: More elements are asked for than the network can write.
        """
        if n <= 0:
            _ = self.fitted
            return []
        options = self.config.sampling
        wanted = max(n * options.genes_per_crystal // 2, 16)
        harvest = self.genes(wanted, conditions, derive_seed(seed, 0))
        ranked = in_order(
            harvest.genes, options, derive_seed(seed, 1), spread_over_groups=conditions.formula is not None
        )
        found: list[Structure] = []
        start = 0
        while len(found) < n and start < len(ranked):
            piece, total = start, 0
            while piece < len(ranked) and total < n - len(found):
                total += self.n_trials(ranked[piece])
                piece += 1
            found += self._build(ranked[start:piece], conditions, derive_seed(seed, 2, start))
            start = piece
        return found[:n]

    def n_trials(self, scored: ScoredGene) -> int:
        """Return how many crystals to build of a gene."""
        options = self.config.sampling
        return min(options.trials or scored.gene.dof + 1, options.max_trials)

    def predict_genes(self, genes: GeneSet) -> np.ndarray:
        """Return the property branch's values (n, n_properties), in the units of `config.properties`."""
        return self.fitted.predict(genes)

    def fine_tune(
        self,
        labelled: Sequence[LabelledStructure],
        replay: Sequence[LabelledStructure],  # noqa: ARG002 - the model keeps its own
        seed: int,
    ) -> None:
        """Learn the campaign's labels: they move the property branch, and stable genes count more.

        Reward-weighted regression: a label's reconstruction counts `labelled_weight` · exp(-energy above hull / hull
        scale), at least `LEAST_WEIGHT`; one without a known energy above the hull counts as a training crystal does.
        The property branch, by which `sample` ranks what it decodes, learns from good and bad labels alike. Samples are
        conditioned on the conditions alone, not on a wanted energy.

        The genes of the first training are kept with the model and shown again; `replay` adds nothing to them.

        Raises:
            NotFittedError: Before `fit` or `load`.
            TrainingDataError: The training diverged; the model is as before.
        """
        fitted = self.fitted
        reading = self._read(labelled)
        if len(reading.genes) == 0:
            return
        above = np.array([labelled[row].known(E_ABOVE_HULL) for row in reading.rows], dtype=float)
        stable = np.exp(-np.clip(above, 0.0, None) / self.config.hull_scale_ev_per_atom)
        weights = np.maximum(self.config.labelled_weight * stable, LEAST_WEIGHT)
        # Nothing known about its stability: it counts as a training crystal does.
        fresh = reading.genes.weighted(np.where(np.isfinite(above), weights, 1.0))
        rng = np.random.default_rng([derive_seed(seed, 0)])
        n_replay = min(len(fitted.known), max(512, len(fresh)))
        heaviest = max(1.0, self.config.labelled_weight) * len(fresh)
        repeats = max(1, int(LABELS_TO_KNOWN * n_replay / heaviest))
        shown = fresh.part(np.tile(np.arange(len(fresh)), repeats)).joined(
            fitted.known.part(rng.choice(len(fitted.known), size=n_replay, replace=False))
        )
        course = replace(
            self._course(len(shown)),
            epochs=self.config.fine_tune_steps,
            max_steps=self.config.fine_tune_steps,
            learning_rate=self.config.fine_tune_learning_rate,
            exchange=0.0,
        )
        batch = shown.batch(fitted.centre, fitted.spread, fitted.device)
        before = copy_weights(fitted.network)
        try:
            self.log = fit_autoencoder(fitted.network, batch, course, derive_seed(seed, 1))
        except TrainingDataError:
            fitted.network.load_state_dict(before)
            raise
        self._fitted = replace(fitted, known=fitted.known.joined(fresh))

    def save(self, folder: Path) -> None:
        """Write weights, known genes, lattices and options.

        Raises:
            NotFittedError: Before `fit` or `load`.
            CheckpointError: The folder cannot be written.
        """
        fitted = self.fitted
        weights = {f"network.{name}": tensor for name, tensor in fitted.network.state_dict().items()}
        weights |= {f"genes.{name}": tensor for name, tensor in fitted.known.tensors().items()}
        weights |= {
            f"lattices.{name}": torch.from_numpy(np.ascontiguousarray(array))
            for name, array in self._lattices.to_dict().items()
        }
        state = {
            "centre": fitted.centre.tolist(),
            "spread": fitted.spread.tolist(),
            "left_out": self.left_out,
        }
        save_checkpoint(folder, KIND, self.config.model_dump(mode="json"), state, weights)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            CheckpointError: There is no whole checkpoint of this kind.
            DeviceError: The device is not there.
        """
        checkpoint = load_checkpoint(folder, KIND)
        try:
            model = cls(cls.Config(**checkpoint.config))
            where = find_device(device)
            network = model._network(0)
            network.load_state_dict(_under("network.", checkpoint.weights))
            known = GeneSet.from_tensors(_under("genes.", checkpoint.weights))
            arrays = {name: t.numpy() for name, t in _under("lattices.", checkpoint.weights).items()}
            centre, spread = (
                np.array(checkpoint.state[name], dtype=np.float64).reshape(len(model.config.properties))
                for name in ("centre", "spread")
            )
            model.left_out = dict(checkpoint.state["left_out"])
            model._lattices = LatticeModel.from_dict(arrays)
        except (ValidationError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} does not fit this version of the generator",
                value=" ".join(str(error).split())[:200],
                cure="train it again",
            ) from error
        network = network.to(where).eval()
        model._fitted = model._known(network, known, centre, spread, where)
        return model

    @property
    def fitted(self) -> FittedGenes:
        """The fitted network with the genes that it knows.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        if self._fitted is None:
            raise NotFittedError("the generator has learnt nothing yet", cure="call fit or load first")
        return self._fitted

    @property
    def lattices(self) -> LatticeModel:
        """Volumes, shapes and known parameters of the training crystals."""
        return self._lattices

    def _build(self, scored: Sequence[ScoredGene], conditions: Conditions, seed: int) -> list[Structure]:
        """Return the crystals of some genes that keep to the conditions."""
        built = build_crystals(
            [one.gene for one in scored],
            [self.n_trials(one) for one in scored],
            self._lattices,
            self.config.build,
            seed,
        )
        found = []
        for one, structures in zip(scored, built, strict=True):
            for structure in structures:
                if conditions.allows(structure):
                    structure.properties["predicted"] = one.predicted
                    found.append(structure)
        return found

    def _known(
        self, network: Any, known: GeneSet, centre: np.ndarray, spread: np.ndarray, device: torch.device
    ) -> FittedGenes:
        config = self.config
        return FittedGenes(network, known, config.properties, centre, spread, device, config.fewest_elements)

    def _read(self, labelled: Sequence[LabelledStructure]) -> Reading:
        """Return the genes of crystals, as far as this network can write them."""
        config = self.config
        paper = config.variant == "paper"
        reading = read_genes(
            labelled,
            config.properties,
            n_slots=config.n_slots,
            max_count=MOST_COUNTED if paper else config.network.max_count,
            symprec=config.symprec,
            exactly=paper,
        )
        if not paper:
            return reading
        nothing = torch.device("cpu")
        zeros = np.zeros(len(config.properties))
        good = representable(reading.genes.batch(zeros, zeros + 1.0, nothing)).numpy()
        chosen = np.flatnonzero(good)
        left_out = dict(reading.left_out)
        if len(chosen) < len(good):
            left_out["letter that the array has no row for"] = int((~good).sum())
        return Reading(
            reading.genes.part(chosen),
            [reading.crystals[place] for place in chosen],
            [reading.rows[place] for place in chosen],
            left_out,
        )

    def _network(self, seed: int) -> Any:
        """Return a new network; its first weights come from `seed`."""
        config = self.config
        if config.variant == "paper":
            return PaperAutoencoder(config.paper, config.n_slots, len(config.properties), seed)
        return CategoricalAutoencoder(config.network, config.n_slots, len(config.properties), seed)

    def _course(self, n_genes: int) -> Course:
        paper = self.config.paper
        if self.config.variant != "paper":
            return course_of(self.config.training, n_genes)
        return Course(
            epochs=paper.epochs,
            max_steps=10**9,
            batch_size=paper.batch_size,
            learning_rate=paper.learning_rate,
            optimizer="rmsprop",
            plateau_factor=paper.plateau_factor,
            plateau_patience=paper.plateau_patience,
            min_learning_rate=paper.min_learning_rate,
        )


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
