"""A network on vectors of descriptors: cheap to train and to ask, thousands of crystals in seconds on one core."""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.crystal import check_structures
from models.descriptors import describe_crystal, n_descriptors
from models.ensemble import Ensemble, EnsembleConfig
from models.networks.cgcnn import initialise, linear
from models.training import (
    Inputs,
    Loss,
    Schedule,
    TrainingLog,
    TrainingSet,
    batches,
    standardisation,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

MOST_DEVIATIONS = 5.0
"""Standardised descriptors are cut off here: a crystal unlike all others is not extrapolated to."""
REMEMBERED = 50_000
"""Crystals whose descriptors a process keeps: a backlog is judged again after every training."""


class DescriptorNetworkConfig(BaseModel):
    """Shape of the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(default=256, ge=4, le=4096, description="Width of each layer.")
    layers: int = Field(default=3, ge=1, le=8, description="Number of hidden layers.")


class DescriptorEnsembleConfig(DescriptorNetworkConfig, EnsembleConfig):
    """Shape, training and place of an ensemble of these networks."""

    members: int = Field(default=3, ge=2, le=64, description="Networks; their spread is the uncertainty.")
    batch_size: int = Field(default=128, ge=1, description="Crystals per optimiser step.")
    learning_rate: float = Field(default=2e-3, gt=0.0, lt=1.0, description="Peak of the one-cycle schedule.")
    max_epochs: int = Field(default=30, ge=1, description="Passes over the training set.")


@dataclass(frozen=True)
class DescriptorSet:
    """Crystals as rows of descriptors."""

    rows: npt.NDArray[np.float32]
    """(n_crystals, n_descriptors)"""

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: npt.ArrayLike, device: str | torch.device = "cpu") -> torch.Tensor:
        """Return the crystals at `indices` (n_crystals,) as (n_crystals, n_descriptors) float32."""
        return torch.from_numpy(self.rows[np.asarray(indices)]).to(device)


class DescriptorNetwork(nn.Module):
    """Layers on standardised descriptors.

    Args:
        config: Shape.
        n_outputs: Numbers per crystal.
        seed: Of the initial weights.
    """

    centre: torch.Tensor
    spread: torch.Tensor
    hidden_spread: torch.Tensor

    def __init__(self, config: DescriptorNetworkConfig, n_outputs: int, seed: int) -> None:
        super().__init__()
        n_inputs = n_descriptors()
        # Of the descriptors over the first training set; a spread of 0 says that there was none yet.
        self.register_buffer("centre", torch.zeros(n_inputs))
        self.register_buffer("spread", torch.zeros(n_inputs))
        # Root of the summed variances of the last hidden layer over the first training set.
        self.register_buffer("hidden_spread", torch.ones(()))
        widths = [n_inputs, *[config.hidden] * config.layers]
        self.hidden = nn.ModuleList(linear(a, b) for a, b in itertools.pairwise(widths))
        self.output = linear(config.hidden, n_outputs)
        initialise(self, seed)

    def standardised(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Return (n_crystals, n_descriptors) deviations from the training set."""
        deviations = (descriptors - self.centre) / torch.where(self.spread > 0.0, self.spread, 1.0)
        return deviations.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)

    def embed(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Return the last hidden layer (n_crystals, hidden)."""
        values = self.standardised(descriptors)
        for layer in self.hidden:
            values = nn.functional.silu(layer(values))
        return values

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Return (n_crystals, n_outputs)."""
        outputs: torch.Tensor = self.output(self.embed(descriptors))
        return outputs


class DescriptorEnsemble(Ensemble[DescriptorEnsembleConfig]):
    """Networks on descriptors. The first training decides how descriptors are standardised, for good."""

    predict_batch: ClassVar[int] = 512

    members: list[DescriptorNetwork]  # type: ignore[assignment]  # what `network` returns

    def network(self, seed: int) -> DescriptorNetwork:
        """Return one untrained network."""
        return DescriptorNetwork(self.config, self.n_outputs, seed)

    def encode(self, structures: Sequence[Structure]) -> DescriptorSet:
        """Describe crystals, or remember how they were described.

        Raises:
            ModelsError: A structure cannot be read.
        """
        check_structures(structures)
        rows = [_remembered(structure) for structure in structures]
        return DescriptorSet(np.array(rows, dtype=np.float32).reshape(len(rows), n_descriptors()))

    def train(
        self, train: TrainingSet, valid: TrainingSet | None, loss: Loss, schedule: Schedule, seed: int
    ) -> list[TrainingLog]:
        """Train every member; see `models.ensemble.Ensemble.train`."""
        with self._scaled_by(train.inputs):
            return super().train(train, valid, loss, schedule, seed)

    def train_in_folds(
        self, data: TrainingSet, folds: npt.NDArray[np.int64], loss: Loss, schedule: Schedule, seed: int
    ) -> list[TrainingLog]:
        """Train every member without its fold; see `models.ensemble.Ensemble.train_in_folds`."""
        with self._scaled_by(data.inputs):
            return super().train_in_folds(data, folds, loss, schedule, seed)

    def features(self, inputs: Inputs) -> npt.NDArray[np.float64]:
        """Return (n_crystals, n_descriptors + n_members · hidden): standardised descriptors and last hidden layers.

        Each of the two parts has a summed variance of about 1 over the first training set.
        """
        found = []
        with torch.no_grad():
            for chosen in batches(len(inputs), self.predict_batch):
                batch = inputs.batch(chosen, self.device)
                plain = self.members[0].standardised(batch).clamp(-3.0, 3.0) / n_descriptors() ** 0.5
                hidden = [one.embed(batch) / one.hidden_spread for one in self.members]
                share = len(self.members) ** -0.5
                found.append(torch.cat([plain, *(share * one for one in hidden)], dim=1).double().cpu())
        width = n_descriptors() + len(self.members) * self.config.hidden
        return torch.cat(found).numpy() if found else np.zeros((0, width))

    @contextmanager
    def _scaled_by(self, inputs: Inputs) -> Iterator[None]:
        """Standardise by these crystals before the first training, and measure hidden layers on them after it."""
        first = not bool((self.members[0].spread > 0.0).any())
        if first:
            self._standardise(inputs)
        yield
        if first:
            self._measure_hidden(inputs)

    def _measure_hidden(self, inputs: Inputs) -> None:
        """Note how far the last hidden layer varies over the training set."""
        with torch.no_grad():
            for member in self.members:
                parts = batches(len(inputs), self.predict_batch)
                hidden = torch.cat([member.embed(inputs.batch(part, self.device)) for part in parts])
                member.hidden_spread.copy_(hidden.var(dim=0, unbiased=False).sum().sqrt().clamp(min=1e-6))

    def _standardise(self, inputs: Inputs) -> None:
        """Note centre and spread of the descriptors over the training set."""
        rows = torch.cat([inputs.batch(chosen) for chosen in batches(len(inputs), self.predict_batch)])
        centre, spread = standardisation(rows.double().numpy())
        for member in self.members:
            member.centre.copy_(torch.from_numpy(centre))
            member.spread.copy_(torch.from_numpy(spread))


_described: OrderedDict[bytes, npt.NDArray[np.float32]] = OrderedDict()
_lock = Lock()


def _remembered(structure: Structure) -> npt.NDArray[np.float32]:
    """Return a crystal's descriptors (n_descriptors,); those of the last `REMEMBERED` crystals are kept."""
    content = (structure.lattice.matrix, structure.frac_coords, np.array(structure.atomic_numbers))
    key = hashlib.blake2b(b"".join(part.tobytes() for part in content), digest_size=16).digest()
    with _lock:
        known = _described.get(key)
    if known is None:
        known = describe_crystal(structure).astype(np.float32)
        with _lock:
            _described[key] = known
            while len(_described) > REMEMBERED:
                _described.popitem(last=False)
    return known
