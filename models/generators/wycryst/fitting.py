"""Training of the gene autoencoders: one loop for both networks, from scratch and for fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.errors import TrainingDataError
from models.generators.wycryst.contract import GeneBatch
from models.generators.wycryst.sites import slot_rank
from models.training import one_cycle


class GeneTraining(BaseModel):
    """How our autoencoder is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=60, ge=1, description="Passes over the training genes at most.")
    max_steps: int = Field(default=4000, ge=1, description="Optimiser steps at most, whatever epochs allows.")
    min_steps: int = Field(
        default=400, ge=1, description="Optimiser steps at least: few genes are passed over more often."
    )
    batch_size: int = Field(default=128, ge=2, description="Genes per step.")
    learning_rate: float = Field(default=3e-3, gt=0.0, lt=1.0, description="Peak of the one-cycle schedule.")
    weight_decay: float = Field(default=1e-2, ge=0.0, description="Of AdamW.")
    exchange: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Share of genes shown with elements exchanged at random."
    )


@dataclass(frozen=True)
class Course:
    """The course of one training."""

    epochs: int
    max_steps: int
    batch_size: int
    learning_rate: float
    optimizer: str
    """`adamw` with a one-cycle schedule, or `rmsprop` with a drop at each plateau (the paper's)."""
    weight_decay: float = 0.0
    exchange: float = 0.0
    """Share of the genes of a step whose elements are exchanged at random, see `exchanged`."""
    plateau_factor: float = 0.3
    plateau_patience: int = 6
    min_learning_rate: float = 2e-5


@dataclass
class FitLog:
    """What a training did."""

    steps: int = 0
    losses: list[dict[str, float]] = field(default_factory=list)
    """Mean parts of the loss, one per epoch."""


def fit_autoencoder(network: Any, batch: GeneBatch, course: Course, seed: int) -> FitLog:
    """Train an autoencoder in place.

    Args:
        network: A `GeneAutoencoder`, on the device it is to be trained on.
        batch: All training genes, on the same device.
        course: Length, optimiser and learning rate.
        seed: Of orders and latent noise.

    Raises:
        TrainingDataError: There is no gene, or the training diverged.
    """
    if len(batch) < 2:
        raise TrainingDataError("too few genes to train on", value=len(batch), allowed="2 or more")
    generator = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(network, course)
    per_epoch = max(1, len(batch) // course.batch_size)
    total = min(course.epochs * per_epoch, course.max_steps)
    log = FitLog()
    plateau = _Plateau(course)
    seen = torch.bincount(batch.elements.flatten())[1:].nonzero()[:, 0] + 1  # (n_seen,)
    # Dropout draws from the global generators; they are left as they were found.
    with torch.random.fork_rng(devices=_cuda_devices(batch)):
        while log.steps < total:
            network.train()
            order = torch.randperm(len(batch), generator=generator)
            sums: dict[str, float] = {}
            pieces = order.tensor_split(per_epoch)[: total - log.steps]
            for chosen in pieces:
                _set_rate(optimizer, course, plateau, log.steps / total)
                torch.manual_seed(int(np.random.default_rng([seed, log.steps]).integers(2**31)))
                piece = exchanged(batch.part(chosen), course.exchange, seen, generator)
                losses = network.losses(piece, generator, log.steps / total)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(losses.total)
                if course.optimizer == "adamw":
                    torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm=1.0)
                optimizer.step()
                log.steps += 1
                for name, value in losses.parts.items():
                    sums[name] = sums.get(name, 0.0) + value
            log.losses.append({name: value / len(pieces) for name, value in sums.items()})
            plateau.see(sum(log.losses[-1].values()))
    network.eval()
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.parameters()):
        raise TrainingDataError(
            "the training diverged", value=course.learning_rate, cure="lower the learning rate"
        )
    return log


def exchanged(batch: GeneBatch, share: float, seen: torch.Tensor, generator: torch.Generator) -> GeneBatch:
    """Return a batch in which some genes have other elements, so that new combinations are learned as well.

    An autoencoder that has seen 8,000 of a million combinations of elements remembers them as a whole; exchanging
    elements makes it code them one by one. The targets of such a gene are not known.

    Args:
        batch: The genes.
        share: Part of the genes to change; half of their elements are exchanged.
        seen: (n_seen,) atomic numbers to draw from.
        generator: Source of the draws.
    """
    if share <= 0.0:
        return batch
    device, shape = batch.elements.device, batch.elements.shape
    chosen = torch.rand(shape[0], 1, generator=generator) < share
    chosen = (chosen & (torch.rand(shape, generator=generator) < 0.5)).to(device) & (batch.elements > 0)
    drawn = seen[torch.randint(len(seen), shape, generator=generator).to(device)]
    elements = torch.where(chosen, drawn, batch.elements)
    twice = (elements[:, :, None] == elements[:, None, :]) & (elements > 0)[:, :, None]
    clash = twice.sum(dim=(1, 2)) > (elements > 0).sum(dim=1)
    elements = torch.where(clash[:, None], batch.elements, elements)
    changed = (elements != batch.elements).any(dim=1)
    order = slot_rank().to(device)[elements].argsort(dim=1)  # (n, n_slots)
    return GeneBatch(
        batch.spacegroup,
        elements.gather(1, order),
        batch.counts.gather(1, order[:, :, None].expand_as(batch.counts)),
        batch.targets.masked_fill(changed[:, None], torch.nan),
        batch.weights,
    )


def course_of(training: GeneTraining, n_genes: int) -> Course:
    """Return the course of our network's training on `n_genes` genes."""
    per_epoch = max(1, n_genes // training.batch_size)
    epochs = max(training.epochs, -(-training.min_steps // per_epoch))
    return Course(
        epochs=epochs,
        max_steps=training.max_steps,
        batch_size=min(training.batch_size, max(2, n_genes)),
        learning_rate=training.learning_rate,
        optimizer="adamw",
        weight_decay=training.weight_decay,
        exchange=training.exchange,
    )


def _cuda_devices(batch: GeneBatch) -> list[int]:
    """Return the numbers of the CUDA devices whose generators a training on the batch's device seeds."""
    return list(range(torch.cuda.device_count())) if batch.spacegroup.is_cuda else []


class _Plateau:
    """The paper's schedule: the rate falls by a factor when the loss has not fallen for some epochs."""

    def __init__(self, course: Course) -> None:
        self.course, self.rate = course, course.learning_rate
        self.best, self.waited = float("inf"), 0

    def see(self, loss: float) -> None:
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited >= self.course.plateau_patience:
            self.rate = max(self.rate * self.course.plateau_factor, self.course.min_learning_rate)
            self.waited = 0


def _optimizer(network: torch.nn.Module, course: Course) -> torch.optim.Optimizer:
    if course.optimizer == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), lr=course.learning_rate, alpha=0.9, eps=1e-7)
    return torch.optim.AdamW(network.parameters(), lr=course.learning_rate, weight_decay=course.weight_decay)


def _set_rate(optimizer: torch.optim.Optimizer, course: Course, plateau: _Plateau, progress: float) -> None:
    rate = plateau.rate if course.optimizer == "rmsprop" else course.learning_rate * one_cycle(progress)
    for group in optimizer.param_groups:
        group["lr"] = rate
