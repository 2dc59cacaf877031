"""Training of the FTCP autoencoder: arrays are made batch by batch, as all of them would fill the memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from models.errors import TrainingDataError
from models.generators.ftcp.network import FTCPNetwork
from models.generators.ftcp.representation import Cells, Layout, represent
from models.training import derive_seed

_CHUNK = 256
"""Crystals per array where nothing is learnt."""


@dataclass(frozen=True)
class Examples:
    """Crystals to train on."""

    cells: Cells
    targets: torch.Tensor
    """(n_crystals, n_properties) float32, scaled to 0...1; NaN where not known."""
    weights: torch.Tensor
    """(n_crystals, 2) float32 of each crystal in the reconstruction and in the property error."""


@dataclass(frozen=True)
class TrainingLog:
    """What one training did: parts of the loss by epoch, the two errors per crystal, as they entered it."""

    reconstruction: list[float]
    divergence: list[float]
    properties: list[float]


def rate_factor(epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 0, relative to the first one.

    As printed: 5e-4, from epoch 50 of 200 on 1e-4, from epoch 100 on 5e-5. (The public code also lowers it when
    the training loss stands still for four epochs; that is left out.)
    """
    if 2 * epoch >= epochs:
        return 0.1
    return 0.2 if 4 * epoch >= epochs else 1.0


def fit_scale(network: FTCPNetwork, cells: Cells, layout: Layout) -> None:
    """Set a network's row scales to the smallest and largest entry of each row over all columns and crystals."""
    low = torch.full((layout.n_rows,), torch.inf)
    high = torch.full((layout.n_rows,), -torch.inf)
    for start in range(0, len(cells), _CHUNK):
        array = _array(
            network, cells.part(torch.arange(start, min(start + _CHUNK, len(cells)))), layout
        ).cpu()
        low = torch.minimum(low, array.amin(dim=(0, 2)))
        high = torch.maximum(high, array.amax(dim=(0, 2)))
    spread = torch.where(high > low, high - low, 1.0)  # a row that never changes becomes zero
    network.low.copy_(low[:, None])
    network.spread.copy_(spread[:, None])


def target_scale(truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smallest value and spread (n_properties,) of labels; NaN and 1 where none is known."""
    known = torch.isfinite(truth)
    low = torch.where(known, truth, torch.inf).amin(dim=0)
    high = torch.where(known, truth, -torch.inf).amax(dim=0)
    any_known = known.any(dim=0)
    spread = torch.where(any_known & (high > low), high - low, 1.0)
    return torch.where(any_known, low, torch.nan), spread


def train_autoencoder(
    network: FTCPNetwork,
    examples: Examples,
    layout: Layout,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> TrainingLog:
    """Train in place and leave the network ready for use.

    Raises:
        TrainingDataError: The training diverged.
    """
    device = network.low.device
    rng = np.random.default_rng(derive_seed(seed, 0))
    generator = torch.Generator().manual_seed(derive_seed(seed, 1))
    # Keras's rho and epsilon, which are not torch's.
    optimizer = torch.optim.RMSprop(network.parameters(), lr=learning_rate, alpha=0.9, eps=1e-7)
    n = len(examples.cells)
    log = TrainingLog([], [], [])
    network.train()
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * rate_factor(epoch, epochs)
        sums = np.zeros(3)
        pieces = np.array_split(rng.permutation(n), math.ceil(n / batch_size))
        for piece in pieces:
            chosen = torch.from_numpy(piece)
            array = network.scale(_array(network, examples.cells.part(chosen), layout))
            targets, weights = examples.targets[chosen].to(device), examples.weights[chosen].to(device)
            optimizer.zero_grad(set_to_none=True)
            losses = network.losses(array, targets, weights, generator)
            torch.autograd.backward(losses.total)
            optimizer.step()
            sums += [part.item() for part in (losses.reconstruction, losses.divergence, losses.properties)]
        log.reconstruction.append(float(sums[0]) / n)
        log.divergence.append(float(sums[1]) / len(pieces))
        log.properties.append(float(sums[2]) / n)
    network.eval()
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.parameters()):
        raise TrainingDataError(
            "the training diverged", value=learning_rate, cure="lower the learning rate of the generator"
        )
    return log


def latent_means(network: FTCPNetwork, cells: Cells, layout: Layout) -> torch.Tensor:
    """Return the latent means (n_crystals, latent) of crystals, on the CPU."""
    found = [torch.zeros((0, network.config.latent))]
    with torch.no_grad():
        for start in range(0, len(cells), _CHUNK):
            part = cells.part(torch.arange(start, min(start + _CHUNK, len(cells))))
            found.append(network.encode(network.scale(_array(network, part, layout)))[0].cpu())
    return torch.cat(found)


def _array(network: FTCPNetwork, cells: Cells, layout: Layout) -> torch.Tensor:
    return represent(cells.to(network.low.device), layout, network.features)
