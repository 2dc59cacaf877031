"""Fine-tuning of CHGNet on frames: energies, forces and stresses, with reference crystals shown against forgetting.

chgnet's own `Trainer` prints, writes its checkpoints into the working directory with pickled arguments, keeps the
best model in a global, and moves torch's global seed. So the loop is ours, on this package's batched graphs. The loss
is Huber's, rounded off at what matters of each term: with CHGNet's own (delta 0.1 for all; B. Deng et al., Nature
Machine Intelligence 5, 1031 (2023)) energies that are wrong by 30 meV/atom counted for nothing beside the forces.

Of the way from the first weights to the learned ones only that part is gone which serves best on crystals that were
not learned, reference crystals among them (M. Wortsman et al., CVPR 2022, 7959). Magnetic moments stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.errors import TrainingDataError
from models.metrics import Metrics
from models.relaxation import Geometry
from models.surrogates.chgnet_graph import CrystalGraph, GraphError, assemble, crystal_graph, elements
from models.surrogates.frames import Frame, hold_out
from models.surrogates.tuning_config import TuningConfig
from models.training import copy_weights, derive_seed, one_cycle

EV_PER_ANG3_IN_GPA = 160.21766208
"""1 eV/Å³ [GPa], the value that CHGNet was trained with."""

PARTS: dict[str, tuple[str, ...]] = {
    "all": ("",),
    "last_layers": ("atom_conv_layers.3", "bond_conv_layers.2", "angle_layers.1", "readout_norm", "mlp"),
    "readout": ("atom_conv_layers.3", "readout_norm", "mlp"),
}
"""What may learn -> how the names of these weights begin. The composition model and the magnetic moments never do."""

ROUNDED_BELOW = (0.01, 0.05, 0.1)
"""Errors of energy [eV/atom], force [eV/Å] and stress [GPa] below which the absolute error is rounded off."""

STRIDES = (0.25, 0.5, 0.75, 1.0)
"""Parts of the way from the first weights to the learned ones that are tried."""

FIXED = ("composition_model", "site_wise")


@dataclass(frozen=True)
class Example:
    """A frame as the network reads it."""

    graph: CrystalGraph
    frame: Frame


@dataclass(frozen=True)
class Predicted:
    """What the network says about a batch."""

    energies: Tensor
    """(n_crystals,) [eV/atom]"""
    forces: Tensor
    """(n_atoms, 3) [eV/Å]"""
    stress: Tensor
    """(n_crystals, 3, 3) [GPa], negative when compressed."""


def examples_of(model: Any, pairs: Sequence[tuple[Frame, Geometry]]) -> list[Example]:
    """Return frames with their graphs; those of which none can be made are left out."""
    converter, found = model.graph_converter, []
    for frame, geometry in pairs:
        try:
            graph = crystal_graph(geometry, converter.atom_graph_cutoff, converter.bond_graph_cutoff)
        except GraphError:
            continue
        found.append(Example(graph, frame))
    return found


def tune(
    model: Any, frames: Sequence[Example], replay: Sequence[Example], config: TuningConfig, seed: int
) -> Metrics:
    """Train in place; the weights of the lowest validation loss are kept, which may be those at the start.

    Args:
        model: CHGNet, on the device it is to be trained on.
        frames: To learn, energies on the model's scale.
        replay: Reference crystals, at most `max_replay` of which are drawn.
        config: How.
        seed: Of the order, the split and what is drawn.

    Returns:
        `epochs`, `stride` (part of the way to the learned weights that is gone), `n_train`, `n_valid`, and of
        validation `loss_before` and `loss_after`.

    Raises:
        TrainingDataError: Nothing to learn from, or the training diverged.
    """
    rng = np.random.default_rng(derive_seed(seed, 1))
    drawn = sorted(rng.permutation(len(replay))[: config.max_replay].tolist())
    train, valid = _split(frames, config.valid_fraction, seed)
    old, old_valid = _split([replay[place] for place in drawn], config.valid_fraction, seed)
    if not train:
        raise TrainingDataError("no frame to learn from", cure="give frames that the potential can treat")
    train, valid = [*train, *old], [*valid, *old_valid]
    weights = _learning(model, config.learns)
    optimizer = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
    per_epoch = math.ceil(len(train) / config.batch_size)
    first = copy_weights(model)
    before = best = _loss_of(model, valid, config) if valid else math.inf
    kept, best_epoch, epoch = first, 0, 0
    while epoch < config.epochs and epoch - best_epoch < config.patience:
        for number, chosen in enumerate(np.array_split(rng.permutation(len(train)), per_epoch)):
            progress = (epoch * per_epoch + number) / (config.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * one_cycle(progress)
            _step(model, [train[place] for place in chosen], optimizer, config)
        epoch += 1
        found = _loss_of(model, valid, config) if valid else -epoch  # without validation the last are kept
        if found < best:
            kept, best, best_epoch = copy_weights(model), found, epoch
    stride = 1.0
    if valid:
        learned = kept if best_epoch else copy_weights(model)
        best, stride = before, 0.0
        for part in STRIDES:
            model.load_state_dict(part_way(first, learned, part))
            found = _loss_of(model, valid, config)
            best, stride = min((best, stride), (found, part))
        kept = part_way(first, learned, stride)
    model.load_state_dict(kept)
    model.requires_grad_(False)
    if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
        raise TrainingDataError(
            "the fine-tuning diverged", value=config.learning_rate, cure="lower tuning.learning_rate"
        )
    figures = {"loss_before": before, "loss_after": best} if valid else {}
    counts = {"epochs": epoch, "stride": stride, "n_train": len(train), "n_valid": len(valid)}
    return {**{name: float(number) for name, number in counts.items()}, **figures}


def part_way(first: dict[str, Tensor], learned: dict[str, Tensor], stride: float) -> dict[str, Tensor]:
    """Return weights that lie between others: 0 gives the first, 1 the learned ones."""
    if stride in (0.0, 1.0):
        return learned if stride else first
    return {
        name: one + stride * (learned[name] - one) if one.is_floating_point() else one
        for name, one in first.items()
    }


def predict(model: Any, batch: Sequence[Example], device: torch.device, *, learning: bool) -> Predicted:
    """Return energies, forces and stresses of a batch; `learning` keeps what their own gradients need."""
    joined = assemble(model, [one.graph for one in batch], device)
    per_atom = model._compute(joined.graph)["e"]  # (n_crystals,) [eV/atom]
    counts = torch.as_tensor(joined.n_atoms, device=device)
    by_coords, by_strain = torch.autograd.grad(
        (per_atom * counts).sum(), [joined.cart_coords, joined.strain], create_graph=learning
    )
    stress = by_strain / joined.volumes[:, None, None] * EV_PER_ANG3_IN_GPA
    return Predicted(
        per_atom + model.composition_model(elements(joined.graph.atomic_numbers, joined.n_atoms)),
        -by_coords,
        (stress + stress.mT) / 2,
    )


def batch_loss(found: Predicted, batch: Sequence[Example], config: TuningConfig) -> Tensor:
    """Return the loss of a batch: each term is the mean over what is known."""
    energies, forces, stress = _targets(batch, found.energies.device)
    terms = (
        (config.energy_weight, ROUNDED_BELOW[0], found.energies, energies),
        (config.force_weight, ROUNDED_BELOW[1], found.forces, forces),
        (config.stress_weight, ROUNDED_BELOW[2], found.stress, stress),
    )
    total = torch.zeros((), device=found.energies.device)
    for weight, beta, value, target in terms:
        known = torch.isfinite(target)
        if weight and bool(known.any()):
            total = total + weight * torch.nn.functional.smooth_l1_loss(
                value[known], target[known], beta=beta
            )
    return total


def errors(model: Any, examples: Sequence[Example], batch_size: int = 8) -> Metrics:
    """Return mean absolute errors: `energy:mae` [eV/atom], `force:mae` [eV/Å], `stress:mae` [GPa], those known."""
    device = next(model.parameters()).device
    found: dict[str, list[np.ndarray]] = {"energy": [], "force": [], "stress": []}
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        said = predict(model, batch, device, learning=False)
        values = (said.energies, said.forces, said.stress)
        for name, value, target in zip(found, values, _targets(batch, device), strict=True):
            off = (value - target).detach().abs().cpu().double().numpy().ravel()
            found[name].append(off[np.isfinite(off)])
    joined = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in found.items()}
    figures = {f"{name}:mae": float(off.mean()) for name, off in joined.items() if len(off)}
    return {"n": float(len(examples)), **figures}


def _split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Set formulas aside, or groups of the only one."""
    inside, outside = hold_out([one.frame for one in examples], fraction, seed)
    held = {id(frame) for frame in outside}
    chosen = {id(frame) for frame in inside}
    return (
        [one for one in examples if id(one.frame) in chosen],
        [one for one in examples if id(one.frame) in held],
    )


def _learning(model: Any, learns: str) -> list[Tensor]:
    """Let some weights learn, and return them."""
    model.requires_grad_(False)
    chosen = [
        one
        for name, one in model.named_parameters()
        if name.startswith(PARTS[learns]) and not name.startswith(FIXED)
    ]
    for one in chosen:
        one.requires_grad_(True)
    return chosen


def _step(
    model: Any, batch: Sequence[Example], optimizer: torch.optim.Optimizer, config: TuningConfig
) -> None:
    """Learn one batch."""
    weights = [one for group in optimizer.param_groups for one in group["params"]]
    optimizer.zero_grad(set_to_none=True)
    loss = batch_loss(predict(model, batch, weights[0].device, learning=True), batch, config)
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(weights, max_norm=1.0)
    optimizer.step()


def _loss_of(model: Any, examples: Sequence[Example], config: TuningConfig) -> float:
    """Return the mean loss over examples, without learning from them."""
    device, total = next(model.parameters()).device, 0.0
    for start in range(0, len(examples), config.batch_size):
        batch = examples[start : start + config.batch_size]
        loss = batch_loss(predict(model, batch, device, learning=False), batch, config)
        total += float(loss.detach()) * len(batch)
    return total / len(examples)


def _targets(batch: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return energies (n_crystals,), forces (n_atoms, 3) and stresses (n_crystals, 3, 3), NaN where not known."""
    frames = [one.frame for one in batch]
    energies = [math.nan if one.energy_per_atom is None else one.energy_per_atom for one in frames]
    forces = [
        np.full((len(one.structure), 3), np.nan) if one.forces is None else one.forces for one in frames
    ]
    stress = [np.full((3, 3), np.nan) if one.stress_gpa is None else one.stress_gpa for one in frames]

    def tensor(values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)

    return tensor(energies), tensor(np.concatenate(forces)), tensor(np.stack(stress))
