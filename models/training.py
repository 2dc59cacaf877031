"""Training of networks: one loop for heads and discriminators, from scratch and for fine-tuning.

The loop knows nothing of crystals: it asks `Inputs` for a batch and gives it to the network.

Everything random comes from a seed that is passed in; no global random state, no clock and no thread setting
is touched. Two runs with one seed on one kind of machine give the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.data import LabelledStructure
from models.errors import TrainingDataError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets), both (n_crystals, n_outputs) -> loss per entry, of the same shape."""


class Inputs(Protocol):
    """Crystals as a network reads them, cut into batches on demand; `models.graph.GraphSet` for example."""

    def __len__(self) -> int:
        """Return the number of crystals."""
        ...

    def batch(self, indices: npt.ArrayLike, device: str | torch.device = "cpu") -> Any:
        """Join the crystals at `indices` (n_crystals,), in that order, to what the network takes."""
        ...


class TrainingConfig(BaseModel):
    """How networks are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: int = Field(default=4, ge=2, le=64, description="Networks; their spread is the uncertainty.")
    max_epochs: int = Field(default=40, ge=1, description="Passes over the training set.")
    max_steps: int = Field(
        default=4000, ge=1, description="Optimiser steps per member, whatever max_epochs allows."
    )
    patience: int = Field(
        default=15, ge=1, description="Epochs without a better validation loss before the end."
    )
    batch_size: int = Field(default=32, ge=1, description="Crystals per optimiser step.")
    learning_rate: float = Field(default=4e-3, gt=0.0, lt=1.0, description="Peak of the one-cycle schedule.")
    weight_decay: float = Field(default=1e-2, ge=0.0, description="Of AdamW.")
    fine_tune_epochs: int = Field(default=20, ge=1, description="Passes over labels and replayed crystals.")
    fine_tune_learning_rate: float = Field(
        default=5e-4, gt=0.0, lt=1.0, description="Peak, when fine-tuning."
    )
    labelled_weight: float = Field(
        default=4.0,
        gt=0.0,
        description="Weight in the loss of a new label when fine-tuning; a replayed one has 1.",
    )
    max_replay: int = Field(
        default=512, ge=0, description="Known crystals shown again when fine-tuning, against forgetting."
    )
    valid_fraction: float = Field(
        default=0.15,
        ge=0.0,
        lt=1.0,
        description="Share of formulas set aside if fit gets no validation crystals.",
    )


SMALLEST_SPREAD = 1e-8
"""What varies less than this is a constant."""


@dataclass(frozen=True)
class Schedule:
    """The course of one training."""

    epochs: int
    """Passes over the training set at most."""
    max_steps: int
    """Optimiser steps at most."""
    patience: int
    """Epochs without a better validation loss before it stops."""
    batch_size: int
    """Crystals per step."""
    learning_rate: float
    """Peak of the one-cycle schedule."""
    weight_decay: float
    """Of AdamW."""

    @classmethod
    def from_scratch(cls, config: TrainingConfig) -> Schedule:
        """Return the schedule of `fit`."""
        return cls(
            epochs=config.max_epochs,
            max_steps=config.max_steps,
            patience=config.patience,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
        )

    @classmethod
    def fine_tuning(cls, config: TrainingConfig) -> Schedule:
        """Return the schedule of `fine_tune`."""
        return cls(
            epochs=config.fine_tune_epochs,
            max_steps=config.max_steps,
            patience=config.patience,
            batch_size=config.batch_size,
            learning_rate=config.fine_tune_learning_rate,
            weight_decay=config.weight_decay,
        )


@dataclass(frozen=True)
class TrainingSet:
    """Crystals as a network reads them, with their targets."""

    inputs: Inputs
    """Of n_crystals crystals."""
    targets: npt.NDArray[np.float32]
    """(n_crystals, n_outputs), NaN where not known."""
    weights: npt.NDArray[np.float32]
    """(n_crystals,) of each crystal in the loss."""

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, rows: npt.NDArray[np.int64]) -> TrainingSet:
        """Return the crystals at `rows` (n_part,)."""
        return TrainingSet(PartOfInputs(self.inputs, rows), self.targets[rows], self.weights[rows])


@dataclass(frozen=True)
class PartOfInputs:
    """Some crystals of others that were read, without a copy of them."""

    whole: Inputs
    rows: npt.NDArray[np.int64]
    """(n_part,) places in `whole`."""

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: npt.ArrayLike, device: str | torch.device = "cpu") -> Any:
        """Join the crystals at `indices` of this part; see `Inputs.batch`."""
        return self.whole.batch(self.rows[np.asarray(indices)], device)


@dataclass(frozen=True)
class TrainingLog:
    """What one training did."""

    epochs: int
    """Passes made."""
    steps: int
    """Optimiser steps made."""
    best_epoch: int
    """The pass, counted from 1, whose weights were kept; 0 are the weights at the start."""
    best_loss: float | None
    """Validation loss of the weights kept; None without validation crystals."""


def train_network(
    network: torch.nn.Module,
    train: TrainingSet,
    valid: TrainingSet | None,
    loss: Loss,
    schedule: Schedule,
    *,
    seed: int,
) -> TrainingLog:
    """Train one network in place; with validation crystals its best weights are kept, else its last.

    Args:
        network: The network, on the device it is to be trained on.
        train: At least one crystal with a known target.
        valid: Crystals for early stopping.
        loss: The loss of one entry.
        schedule: Length, batch size and learning rate.
        seed: Of the order of the crystals.

    Raises:
        TrainingDataError: No target is known, or the loss became infinite or NaN.
    """
    if not np.isfinite(train.targets).any():
        raise TrainingDataError("no crystal of the training set has a known target")
    device = next(network.parameters()).device
    rng = np.random.default_rng(seed)
    per_epoch = math.ceil(len(train) / schedule.batch_size)
    total = min(schedule.epochs * per_epoch, schedule.max_steps)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    best_loss = None if valid is None else evaluate_loss(network, valid, loss, schedule.batch_size)
    best, best_epoch = copy_weights(network), 0
    epoch = step = 0
    while step < total and epoch - best_epoch < schedule.patience:
        epoch += 1
        network.train()
        for chosen in np.array_split(rng.permutation(len(train)), per_epoch)[: total - step]:
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * one_cycle(step / total)
            optimizer.zero_grad(set_to_none=True)
            batch_loss = _batch_loss(network, train, chosen, loss, device)
            torch.autograd.backward(batch_loss)
            torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm=1.0)
            optimizer.step()
            step += 1
        if valid is None:
            best_epoch = epoch
        else:
            found = evaluate_loss(network, valid, loss, schedule.batch_size)
            if best_loss is None or found < best_loss:
                best, best_loss, best_epoch = copy_weights(network), found, epoch
    if valid is not None:
        network.load_state_dict(best)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.parameters()):
        raise TrainingDataError(
            "the training diverged", value=schedule.learning_rate, cure="lower the learning rate"
        )
    network.eval()
    return TrainingLog(epochs=epoch, steps=step, best_epoch=best_epoch, best_loss=best_loss)


def one_cycle(progress: float, warm_up: float = 0.1) -> float:
    """Return the learning rate relative to its peak at `progress` in [0, 1]: a linear rise, then a cosine."""
    if progress < warm_up:
        return 0.1 + 0.9 * progress / warm_up
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up)))


def evaluate_loss(network: torch.nn.Module, data: TrainingSet, loss: Loss, batch_size: int) -> float:
    """Return the weighted mean loss over the known targets of `data`, without learning from it."""
    network.eval()
    device = next(network.parameters()).device
    total = weight = 0.0
    with torch.no_grad():
        for chosen in batches(len(data), batch_size):
            entries, weights = _entries(network, data, chosen, loss, device)
            total += float((entries * weights).sum())
            weight += float(weights.sum())
    return total / weight if weight > 0.0 else math.inf


def batches(n: int, size: int) -> list[npt.NDArray[np.int64]]:
    """Return 0 ... n - 1 in order, in pieces of at most `size`."""
    return [np.arange(start, min(start + size, n), dtype=np.int64) for start in range(0, n, size)]


def regression_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Huber's loss of standardised values: the absolute error, rounded off below 0.3 standard deviations."""
    return torch.nn.functional.smooth_l1_loss(outputs, targets, beta=0.3, reduction="none")


def classification_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of logits."""
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none")


def draw_replay(
    items: Sequence[LabelledStructure], at_most: int, seed: int, properties: Sequence[str] = ()
) -> list[LabelledStructure]:
    """Draw crystals to show again when fine-tuning, without repeats and in their old order.

    Args:
        items: The crystals.
        at_most: So many.
        seed: Of the draw.
        properties: Each of them is known of an equal share of the draw, as far as there are crystals: a property that
            few crystals have would hardly be shown again and so be forgotten.
    """
    if len(items) <= at_most:
        return list(items)
    order = np.random.default_rng(seed).permutation(len(items)).tolist()
    chosen: dict[int, None] = {}
    for name in properties:
        known = [place for place in order if items[place].known(name) is not None]
        chosen |= dict.fromkeys(known[: at_most // len(properties)])
    for place in order:
        if len(chosen) == at_most:
            break
        chosen.setdefault(place)
    return [items[place] for place in sorted(chosen)]


def standardisation(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation (n_columns,) of the known of (n, n_columns) values.

    They are 0 and 1 where nothing is known; what does not vary has a standard deviation of 1.
    """
    known = np.isfinite(values)
    amount = known.sum(axis=0).clip(1)
    centre = np.where(known, values, 0.0).sum(axis=0) / amount
    spread = np.sqrt(np.where(known, (values - centre) ** 2, 0.0).sum(axis=0) / amount)
    return centre, np.where(spread > SMALLEST_SPREAD, spread, 1.0)


def copy_weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of a network's tensors that further training does not touch."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def derive_seed(seed: int, *parts: int) -> int:
    """Return a seed for one part of a task, for example one member; other parts get unrelated ones."""
    state = np.random.SeedSequence([seed % 2**64, *parts]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))  # torch wants fewer than 64 bits


def _batch_loss(
    network: torch.nn.Module,
    data: TrainingSet,
    chosen: npt.NDArray[np.int64],
    loss: Loss,
    device: torch.device,
) -> torch.Tensor:
    entries, weights = _entries(network, data, chosen, loss, device)
    # Divided by the number of known entries and not by their weights: a batch with a heavy label counts more.
    return (entries * weights).sum() / (weights > 0.0).sum().clamp(min=1)


def _entries(
    network: torch.nn.Module,
    data: TrainingSet,
    chosen: npt.NDArray[np.int64],
    loss: Loss,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of each entry and its weight, both (n_crystals, n_outputs), 0 where not known."""
    outputs = network(data.inputs.batch(chosen, device))  # (n_crystals, n_outputs)
    targets = torch.from_numpy(data.targets[chosen]).to(device)
    weights = torch.from_numpy(data.weights[chosen]).to(device)[:, None] * torch.isfinite(targets)
    return loss(outputs, torch.nan_to_num(targets)), weights
