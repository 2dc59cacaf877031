"""Several networks of one shape, differently seeded: their mean predicts, their spread says how surely."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from models.errors import CheckpointError, DeviceError
from models.training import (
    Inputs,
    Loss,
    PartOfInputs,
    Schedule,
    TrainingConfig,
    TrainingLog,
    TrainingSet,
    batches,
    derive_seed,
    train_network,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure


class EnsembleConfig(TrainingConfig):
    """Training and place of an ensemble; a kind of network adds its shape."""

    device: str = Field(default="cpu", description='Where it is trained and used: "cpu", "cuda", "cuda:1"...')


ConfigT = TypeVar("ConfigT", bound=EnsembleConfig)


class Ensemble(ABC, Generic[ConfigT]):
    """Networks with what they need to read crystals. One kind of network is one subclass with two methods.

    Args:
        config: Shape and training.
        n_outputs: Numbers per crystal.
        seeds: One seed for the initial weights of each member.

    Raises:
        DeviceError: `config.device` is not there.
    """

    predict_batch: ClassVar[int] = 64
    """Crystals per forward pass; too many are slower on a CPU, whose caches they leave."""

    def __init__(self, config: ConfigT, n_outputs: int, seeds: Iterable[int]) -> None:
        self.config = config
        self.n_outputs = n_outputs
        self.device = find_device(config.device)
        self.members = [self.network(seed).to(self.device).eval() for seed in seeds]

    @abstractmethod
    def network(self, seed: int) -> torch.nn.Module:
        """Return one untrained network; its weights depend on the configuration and the seed only."""

    @abstractmethod
    def encode(self, structures: Sequence[Structure]) -> Inputs:
        """Read crystals as these networks want them.

        Raises:
            ModelsError: A structure cannot be read; it is named by its place.
        """

    @classmethod
    def create(cls, config: ConfigT, n_outputs: int, seed: int) -> Self:
        """Return an untrained ensemble; the same seed gives the same weights."""
        return cls(config, n_outputs, [derive_seed(seed, member, 0) for member in range(config.members)])

    @classmethod
    def from_weights(cls, config: ConfigT, n_outputs: int, weights: Mapping[str, torch.Tensor]) -> Self:
        """Rebuild an ensemble from `weights()`.

        Raises:
            CheckpointError: The weights do not fit the configuration.
        """
        ensemble = cls(config, n_outputs, range(config.members))
        for place, member in enumerate(ensemble.members):
            prefix = f"member{place}."
            own = {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
            try:
                member.load_state_dict(own)
            except RuntimeError as error:
                raise CheckpointError(
                    f"the weights of member {place} do not fit the configuration beside them",
                    cure="use another model version, or train this one again",
                ) from error
        return ensemble

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all tensors under "member<i>.<name>"."""
        return {
            f"member{place}.{name}": tensor
            for place, member in enumerate(self.members)
            for name, tensor in member.state_dict().items()
        }

    def outputs(self, inputs: Inputs) -> npt.NDArray[np.float64]:
        """Return (n_members, n_crystals, n_outputs)."""
        found = np.zeros((len(self.members), len(inputs), self.n_outputs))
        with torch.no_grad():
            for chosen in batches(len(inputs), self.predict_batch):
                batch = inputs.batch(chosen, self.device)
                for place, member in enumerate(self.members):
                    found[place, chosen] = member(batch).double().cpu().numpy()
        return found

    def train(
        self, train: TrainingSet, valid: TrainingSet | None, loss: Loss, schedule: Schedule, seed: int
    ) -> list[TrainingLog]:
        """Train every member in place, each on its own order of the crystals.

        Raises:
            TrainingDataError: No target is known, or a training diverged.
        """
        return [
            train_network(member, train, valid, loss, schedule, seed=derive_seed(seed, place, 1))
            for place, member in enumerate(self.members)
        ]

    def train_in_folds(
        self, data: TrainingSet, folds: npt.NDArray[np.int64], loss: Loss, schedule: Schedule, seed: int
    ) -> list[TrainingLog]:
        """Train every member in place on all crystals but its own fold, which says when to stop.

        So no crystal is lost to the ensemble, and each one in a fold has a member that never saw it.

        Args:
            data: All crystals.
            folds: (n_crystals,) the member that is not to see a crystal, -1 where all may.
            loss: The loss of one entry.
            schedule: Length, batch size and learning rate.
            seed: Of the orders of the crystals.

        Raises:
            TrainingDataError: No target is known, or a training diverged.
        """
        logs = []
        for place, member in enumerate(self.members):
            own, others = np.flatnonzero(folds == place), np.flatnonzero(folds != place)
            valid = data.part(own) if len(own) and len(others) else None
            train = data.part(others) if len(others) else data
            logs.append(train_network(member, train, valid, loss, schedule, seed=derive_seed(seed, place, 1)))
        return logs

    def outputs_out_of_fold(
        self, inputs: Inputs, folds: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return what the members say of the crystals that they did not see.

        Returns:
            (n_in_folds,) places of the crystals, and (n_in_folds, n_outputs).
        """
        rows = np.flatnonzero(folds >= 0)
        said = self.outputs(PartOfInputs(inputs, rows))  # (n_members, n_in_folds, n_outputs)
        return rows, said[folds[rows], np.arange(len(rows))]


def find_device(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        DeviceError: The name is no device, or this machine has none such.
    """
    allowed = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError("this is no device", value=name, allowed=allowed) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            "the device is not on this machine", value=name, allowed=allowed, cure="set device: cpu"
        )
    return device
