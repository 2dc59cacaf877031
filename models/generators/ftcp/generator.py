"""Generator `ftcp`: the baseline of Ren et al., Matter 5, 314 (2022).

Known crystals are encoded; noise is added to their latent vectors; what the decoder says is read as a crystal in its
own cell, without symmetry (P1). Elements that were not asked for get no vote. Nothing is repaired: a crystal that
cannot be one, or does not keep to the conditions, is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError

from models.checkpoint import load_checkpoint, save_checkpoint
from models.data import E_ABOVE_HULL, STABLE, SYMPREC, Conditions, LabelledStructure
from models.ensemble import find_device
from models.errors import CheckpointError, NotFittedError, TrainingDataError
from models.generators.assignments import atomic_numbers
from models.generators.ftcp.config import FTCPConfig
from models.generators.ftcp.evaluation import property_metrics, reconstruction_metrics
from models.generators.ftcp.fitting import (
    Examples,
    TrainingLog,
    fit_scale,
    latent_means,
    target_scale,
    train_autoencoder,
)
from models.generators.ftcp.network import FTCPNetwork
from models.generators.ftcp.representation import (
    N_ELEMENTS,
    Cells,
    Layout,
    decode,
    possible,
    read_cells,
    to_structure,
)
from models.generators.ftcp.seeds import Seeds
from models.metrics import Metrics
from models.symmetrise import spacegroup_number
from models.training import derive_seed, draw_replay

if TYPE_CHECKING:
    from pymatgen.core import Structure

KIND = "generator/ftcp"
"""Kind of the checkpoints."""

FEWEST = 5
"""Crystals that a fit needs at least."""

_DRAWS = 64
"""Latent vectors decoded at a time."""

_UNKNOWN = float("nan")


class FTCPGenerator:
    """Fourier-transformed crystal properties in a variational autoencoder; see `models.generators.base.Generator`.

    Args:
        config: Options.

    Raises:
        DeviceError: `config.device` is not there.
    """

    Config: ClassVar[type[FTCPConfig]] = FTCPConfig

    def __init__(self, config: FTCPConfig | None = None) -> None:
        self.config = config or FTCPConfig()
        self.layout = Layout(self.config.max_elements, self.config.max_sites)
        self.n_left_out = 0
        """Crystals that the last `fit` or `fine_tune` could not use."""
        self.log = TrainingLog([], [], [])
        """Of the last `fit` or `fine_tune`."""
        self._device = find_device(self.config.device)
        self._network: FTCPNetwork | None = None
        self._seeds = Seeds(
            read_cells([], self.layout)[0], torch.zeros(0), torch.zeros((0, self.config.latent))
        )
        n_properties = len(self.config.properties)
        self._target_low = torch.full((n_properties,), _UNKNOWN)  # in the unit of the property
        self._target_spread = torch.ones(n_properties)

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:
        """Train from scratch on the crystals that fit into the representation; they become the seeds.

        Raises:
            TrainingDataError: Fewer than five crystals fit, or the training diverged.
        """
        limit = self.config.max_e_above_hull
        items = [item for item in train if limit is None or (item.known(E_ABOVE_HULL) or 0.0) <= limit]
        cells, kept = self._read([item.structure for item in items], FEWEST)
        truth = self._truth([items[place] for place in kept])
        self._target_low, self._target_spread = target_scale(truth)
        network = FTCPNetwork(self.config, self.layout, derive_seed(seed, 0)).to(self._device)
        fit_scale(network, cells, self.layout)
        weights = torch.ones((len(cells), 2))
        self._train(network, cells, truth, weights, fine=False, seed=derive_seed(seed, 1))
        self.n_left_out = len(train) - len(cells)
        self._adopt(network, cells, torch.ones(len(cells)))

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        """Propose at most `n` crystals around known ones that keep to `conditions`, or from the prior.

        Known crystals of other elements, or other stoichiometry where a formula is asked for, serve only where
        there are no better ones. Each crystal carries `properties = {"source": formula of the known crystal
        or "prior"}`. Nearly all are P1, so that little comes back for other space groups.

        Raises:
            NotFittedError: Before `fit` or `load`.
            OptionsError: An element of the conditions does not exist.
        """
        self._fitted()
        allowed = torch.zeros(N_ELEMENTS + 1, dtype=torch.bool)
        allowed[atomic_numbers(list(conditions.amounts()) or conditions.elements)] = True
        if n <= 0 or conditions.n_elements[0] > self.config.max_elements:
            return []
        chances = self._seeds.chances(conditions, allowed)
        found: list[Structure] = []
        for round_ in range(max(1, -(-n * self.config.draws_per_crystal // _DRAWS))):
            generator = torch.Generator().manual_seed(derive_seed(seed, round_))
            latent, sources = self._seeds.draw(
                _DRAWS, chances, self.config.noise, self.config.prior_fraction, generator
            )
            cells = self._decoded(latent, allowed)
            for place in torch.nonzero(possible(cells))[:, 0].tolist():
                crystal = to_structure(cells, place)
                if not (_has_symmetry(crystal) and conditions.allows(crystal)):
                    continue
                crystal.properties = {"source": self._seeds.formula(sources[place])}
                found.append(crystal)
                if len(found) == n:
                    return found
        return found

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> None:
        """Learn from the campaign's labels beside crystals that are already known.

        Reward-weighted regression, and a reward-weighted choice of the seeds around which `sample` draws; of `replay`
        at most `max_replay` crystals are shown again with weight 1. Samples are conditioned on the conditions alone.

        New labels count `labelled_weight` times in the property error. In the reconstruction, and among the
        seeds of `sample`, a new crystal counts `labelled_weight` · exp(-energy above hull / hull scale); where
        only `stable` is known, as if it were 0 or two scales above the hull; where neither is, 1.

        Raises:
            NotFittedError: Before `fit` or `load`.
            TrainingDataError: No labelled crystal fits into the representation, or the training diverged.
        """
        network = self._fitted()
        cells, kept = self._read([item.structure for item in labelled], 1)
        items = [labelled[place] for place in kept]
        old = draw_replay(replay, self.config.max_replay, derive_seed(seed, 0))
        old_cells, old_kept = read_cells([item.structure for item in old], self.layout)
        truth = self._truth([*items, *(old[place] for place in old_kept)])
        # What had no label before the fit gets its scale now; other scales stay, or the branch would forget.
        low, spread = target_scale(truth)
        unknown = torch.isnan(self._target_low)
        self._target_low = torch.where(unknown, low, self._target_low)
        self._target_spread = torch.where(unknown, spread, self._target_spread)
        weights = torch.ones((len(truth), 2))
        weights[: len(items), 0] = self._merits(items)
        weights[: len(items), 1] = self.config.labelled_weight
        both = Cells.joined([cells, old_cells])
        self._train(network, both, truth, weights, fine=True, seed=derive_seed(seed, 1))
        self.n_left_out = len(labelled) - len(cells)
        known = Cells.joined([self._seeds.cells, cells])
        self._adopt(network, known, torch.cat([self._seeds.weights, weights[: len(items), 0]]))

    def reconstruct(self, structures: Sequence[Structure]) -> list[Structure | None]:
        """Return what the decoder makes of the latent means of crystals.

        None stands where a crystal does not fit into the representation, or what is decoded cannot be a crystal.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        self._fitted()
        cells, kept = read_cells(structures, self.layout)
        decoded = self._decoded(self._encoded(cells))
        found: list[Structure | None] = [None] * len(structures)
        sane = possible(decoded).tolist()
        for row, place in enumerate(kept.tolist()):
            found[place] = to_structure(decoded, row) if sane[row] else None
        return found

    def evaluate_reconstruction(self, structures: Sequence[Structure]) -> Metrics:
        """Judge reconstructions from the latent mean; see `models.generators.ftcp.evaluation`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        network = self._fitted()
        cells, _ = read_cells(structures, self.layout)
        with torch.no_grad():
            parts = [network.unscale(network.decode(z)).cpu() for z in self._pieces(self._encoded(cells))]
        # What is judged lies in the real-space columns.
        arrays = [part[:, :, : self.layout.n_real] for part in parts]
        empty = torch.zeros((0, self.layout.n_rows, self.layout.n_real))
        return reconstruction_metrics(cells, torch.cat([empty, *arrays]), self.layout)

    def predict_properties(self, structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
        """Predict (n_crystals, n_properties) from the latent means, in the order and unit of the properties.

        NaN where a crystal does not fit into the representation or no label of a property was ever known. For
        the property `stable` the number lies in 0...1 and serves as a probability.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        network = self._fitted()
        cells, kept = read_cells(structures, self.layout)
        with torch.no_grad():
            scaled = network.predict(self._encoded(cells).to(self._device)).cpu()
        found = np.full((len(structures), len(self.config.properties)), np.nan)
        found[kept] = (scaled * self._target_spread + self._target_low).double().numpy()
        return found

    def evaluate_properties(self, labelled: Sequence[LabelledStructure]) -> Metrics:
        """Judge `predict_properties` on held-out crystals; see `models.generators.ftcp.evaluation`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        predicted = self.predict_properties([item.structure for item in labelled])
        return property_metrics(self.config.properties, self._truth(labelled).double().numpy(), predicted)

    def save(self, folder: Path) -> None:
        """Write a checkpoint, replacing in one step what the folder holds.

        Raises:
            NotFittedError: Before `fit` or `load`.
            CheckpointError: The folder cannot be written.
        """
        state = {"n_left_out": self.n_left_out}
        save_checkpoint(Path(folder), KIND, self.config.model_dump(mode="json"), state, self._weights())

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read a checkpoint onto `device`.

        Raises:
            CheckpointError: Missing, damaged, of another kind or of a newer format.
            DeviceError: The device is not there.
        """
        checkpoint = load_checkpoint(Path(folder), KIND)
        try:
            model = cls(cls.Config(**checkpoint.config | {"device": device}))
            model._restore(checkpoint.weights, int(checkpoint.state["n_left_out"]))
        except (ValidationError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder} does not describe a generator of this software",
                value=str(error),
                cure="train it again",
            ) from error
        return model

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return all that was learnt, for `_restore`."""
        weights = {f"network.{name}": tensor for name, tensor in self._fitted().state_dict().items()}
        weights |= {f"seeds.{name}": tensor for name, tensor in self._seeds.cells.tensors().items()}
        weights |= {"seed_weights": self._seeds.weights, "latent": self._seeds.latent}
        weights |= {"target_low": self._target_low, "target_spread": self._target_spread}
        return weights

    def _restore(self, weights: Mapping[str, torch.Tensor], n_left_out: int) -> None:
        parts: dict[str, dict[str, torch.Tensor]] = {"network": {}, "seeds": {}}
        for name, tensor in weights.items():
            group, dot, rest = name.partition(".")
            if dot:
                parts[group][rest] = tensor
        network = FTCPNetwork(self.config, self.layout, 0)
        network.load_state_dict(parts["network"])
        self._network = network.to(self._device).eval()
        self._seeds = Seeds(Cells(**parts["seeds"]), weights["seed_weights"], weights["latent"])
        self._target_low, self._target_spread = weights["target_low"], weights["target_spread"]
        self.n_left_out = n_left_out

    def _fitted(self) -> FTCPNetwork:
        if self._network is None:
            raise NotFittedError("the generator knows nothing yet", cure="call fit or load first")
        return self._network

    def _adopt(self, network: FTCPNetwork, known: Cells, weights: torch.Tensor) -> None:
        self._network = network
        self._seeds = Seeds(known, weights, self._encoded(known))

    def _read(self, structures: Sequence[Structure], fewest: int) -> tuple[Cells, list[int]]:
        cells, kept = read_cells(structures, self.layout)
        if len(cells) < fewest:
            raise TrainingDataError(
                "too few crystals fit into the representation",
                value=f"{len(cells)} of {len(structures)}",
                allowed=f"{fewest} or more ordered crystals of at most {self.config.max_elements} elements and "
                f"{self.config.max_sites} atoms",
                cure="give smaller crystals, or raise max_elements and max_sites",
            )
        return cells, kept.tolist()

    def _truth(self, items: Sequence[LabelledStructure]) -> torch.Tensor:
        """Return (n_crystals, n_properties) float32 labels, NaN where not known."""
        names = self.config.properties
        rows = [
            [_UNKNOWN if (v := item.known(name)) is None else float(v) for name in names] for item in items
        ]
        return torch.tensor(rows, dtype=torch.float32).reshape(len(items), len(names))

    def _merits(self, items: Sequence[LabelledStructure]) -> torch.Tensor:
        """Return (n_crystals,) weights of new crystals in the reconstruction."""
        merits = torch.ones(len(items))
        for place, item in enumerate(items):
            scales = item.known(E_ABOVE_HULL)
            if scales is not None:
                scales = max(float(scales), 0.0) / self.config.hull_scale_ev_per_atom
            elif (stable := item.known(STABLE)) is not None:
                scales = 2.0 * (1.0 - float(stable))
            if scales is not None:
                merits[place] = self.config.labelled_weight * float(np.exp(-scales))
        return merits

    def _train(
        self,
        network: FTCPNetwork,
        cells: Cells,
        truth: torch.Tensor,
        weights: torch.Tensor,
        *,
        fine: bool,
        seed: int,
    ) -> None:
        config = self.config
        self.log = train_autoencoder(
            network,
            Examples(cells, (truth - self._target_low) / self._target_spread, weights),
            self.layout,
            epochs=config.fine_tune_epochs if fine else config.epochs,
            learning_rate=config.fine_tune_learning_rate if fine else config.learning_rate,
            batch_size=config.batch_size,
            seed=seed,
        )

    def _encoded(self, cells: Cells) -> torch.Tensor:
        return latent_means(self._fitted(), cells, self.layout)

    def _pieces(self, latent: torch.Tensor) -> list[torch.Tensor]:
        """Return latent vectors on the device, few enough at a time."""
        return [piece.to(self._device) for piece in torch.split(latent, 256)] if len(latent) else []

    def _decoded(self, latent: torch.Tensor, allowed: torch.Tensor | None = None) -> Cells:
        network = self._fitted()
        empty, _ = read_cells([], self.layout)
        with torch.no_grad():
            arrays = (network.unscale(network.decode(piece)).cpu() for piece in self._pieces(latent))
            return Cells.joined([empty, *(decode(array, self.layout, allowed) for array in arrays)])


def _has_symmetry(crystal: Structure) -> bool:
    """Say whether a space group can be told, be it P1; it cannot where atoms lie on top of each other."""
    numbers = np.array(crystal.atomic_numbers)
    return spacegroup_number(crystal.lattice.matrix, crystal.frac_coords, numbers, SYMPREC) > 0
