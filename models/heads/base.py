"""What every property head does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from models.data import LabelledStructure
from models.metrics import Metrics

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Prediction:
    """Values with uncertainties, in the unit of each property."""

    mean: npt.NDArray[np.float64]
    """(n_crystals, n_properties)"""
    std: npt.NDArray[np.float64]
    """(n_crystals, n_properties) standard deviation, above 0; the normal distribution's central 90 % holds 90 % of
    truths."""


@dataclass(frozen=True)
class Intervals:
    """Where values lie with a given chance, in the unit of each property."""

    low: npt.NDArray[np.float64]
    """(n_crystals, n_properties)"""
    high: npt.NDArray[np.float64]
    """(n_crystals, n_properties)"""


@runtime_checkable
class PropertyHead(Protocol):
    """Predicts properties of crystals.

    A head is built from its `Config` and is of use after `fit` or `load`. Predictions are the same for a
    crystal and for its rotated, shifted, permuted and repeated images.
    """

    Config: ClassVar[type[BaseModel]]
    properties: tuple[str, ...]

    def __init__(self, config: Any) -> None: ...

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Train from scratch; `valid` stops the training and calibrates the uncertainty.

        Returns:
            Metrics on `valid` (see `models.metrics.regression_metrics`) for the first property, and where
            there are several, for each as "property:metric".
        """
        ...

    def predict(self, structures: Sequence[Structure]) -> Prediction:
        """Predict all properties, in the order of `properties`."""
        ...

    def evaluate(self, labelled: Sequence[LabelledStructure]) -> Metrics:
        """Judge the head on crystals that it was not trained on; metrics as `fit` returns them."""
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
