"""What a generator must offer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from models.data import Conditions, LabelledStructure

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Generator(Protocol):
    """A model that proposes crystals. `models.testing.check_generator` holds it to all that is said here."""

    Config: type[Any]
    """Frozen pydantic model of the options."""

    config: Any
    """The options it was built with."""

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:
        """Learn from reference crystals.

        Raises:
            TrainingDataError: The crystals cannot serve.
        """
        ...

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        """Propose at most `n` crystals that keep to `conditions`.

        Equal seeds give equal crystals. Fewer than `n` come back when the model has no more to say. A crystal
        may carry JSON-able provenance in `structure.properties`.

        Raises:
            NotFittedError: Before `fit` or `load`.
            OptionsError: The model can make no crystal that keeps to `conditions`.
        """
        ...

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> None:
        """Learn from the campaign's labels, the good ones more.

        What makes the next samples better is weighting by reward: a label counts by exp(-energy above hull / scale),
        as in reward-weighted regression (Peters and Schaal, ICML 2007) and the advantage-weighted regression that
        followed it. A model must stay a source of variety: a version whose samples collapse is not taken over (see
        `models.testing.check_generator`, and the campaign's gate).

        Args:
            labelled: Newly labelled crystals.
            replay: Crystals known before, for models that would forget them otherwise.
            seed: Source of all randomness.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write weights, config and version to `folder`."""
        ...

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what `save` wrote; the loaded model samples as the saved one did."""
        ...
