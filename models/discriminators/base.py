"""What every discriminator does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from models.data import LabelledStructure
from models.metrics import Metrics

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pymatgen.core import Structure


@runtime_checkable
class Discriminator(Protocol):
    """Tells stable from unstable crystals, by `properties["stable"]` (1.0 or 0.0) of the labels.

    Whoever makes the labels chooses the hull distance below which a crystal counts as stable.
    """

    Config: ClassVar[type[BaseModel]]

    def __init__(self, config: Any) -> None: ...

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Train from scratch; `valid` stops the training and calibrates the probabilities.

        Returns:
            Metrics on `valid`, see `models.metrics.classification_metrics`.
        """
        ...

    def logit(self, structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
        """Return (n_crystals,) calibrated log-odds of being stable."""
        ...

    def probability(self, structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
        """Return (n_crystals,) chances of being stable, the logistic function of `logit`."""
        ...

    def evaluate(self, labelled: Sequence[LabelledStructure]) -> Metrics:
        """Judge the discriminator on crystals that it was not trained on; metrics as `fit` returns them."""
        ...

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Learn new labels; `replay` are crystals of the first training, shown again against forgetting."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        ...

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read a checkpoint."""
        ...
