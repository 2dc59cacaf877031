"""Property head `descriptors`: networks on descriptors, corrected by a Gaussian process where a campaign has labels.

It is trained on twenty thousand crystals in a minute or two on one core, and fine-tuned in a second: labels do not
change the networks, they are what a process on the networks' errors learns from (`models.heads.residual_process`).
So nothing is forgotten, a few dozen labels help, and what has no labelled neighbour is known to be uncertain. The
correction is for the crystals of a campaign: those that generators propose err otherwise than known crystals do,
most of which are stable. Crystals of the reference (`LabelledStructure.campaign` is false) are judged without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field

from models.checkpoint import Checkpoint
from models.data import LabelledStructure
from models.descriptors import n_descriptors
from models.errors import TrainingDataError
from models.heads.ensemble import Array, EnsembleHead, EnsembleHeadConfig
from models.heads.residual_process import ResidualProcess
from models.metrics import Metrics
from models.networks.descriptors import DescriptorEnsemble, DescriptorEnsembleConfig, DescriptorSet
from models.training import Inputs

MAE_TO_SIGMA = 1.2533
"""sqrt(π / 2): standard deviation over mean absolute error of a normal distribution."""


KNOWN = "known."
"""How the names of the labels' tensors begin in a checkpoint."""


class DescriptorHeadConfig(DescriptorEnsembleConfig, EnsembleHeadConfig):
    """Options of the property head `descriptors`."""

    max_steps: int = Field(
        default=6000, ge=1, description="Optimiser steps per member, whatever max_epochs allows."
    )
    max_labels: int = Field(
        default=3000, ge=10, description="Labels that the correction knows at most; the newest are kept."
    )


class DescriptorHead(EnsembleHead):
    """Networks on descriptors with a correction; see `models.heads.base.PropertyHead` for the methods' contract."""

    Config: ClassVar[type[EnsembleHeadConfig]] = DescriptorHeadConfig
    kind = "head/descriptors"
    ensemble_type = DescriptorEnsemble
    config: DescriptorHeadConfig
    _ensemble: DescriptorEnsemble | None
    _known: DescriptorSet
    """Of the labels that the correction knows (n_labels)."""
    _labels: Array
    """(n_labels, n_properties) their values, NaN where not known."""
    _processes: list[ResidualProcess | None]
    """One for each property that has labels."""

    def __init__(self, config: DescriptorHeadConfig | None = None) -> None:
        super().__init__(config)
        n_properties = len(self.properties)
        self._sigma: Array = np.ones(n_properties)
        """Held-out error of the networks, in the properties' units."""
        self._forget()

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Train the networks from scratch, without a correction; see `models.heads.ensemble.EnsembleHead.fit`."""
        self._forget()
        metrics = super().fit(train, valid, seed)
        for place, name in enumerate(self.properties):
            error = metrics.get(f"{name}:mae", metrics.get("mae") if place == 0 else None)
            # Without held-out labels, a quarter of the property's spread is what a poor head errs by.
            self._sigma[place] = MAE_TO_SIGMA * error if error else 0.25 * self._spread[place]
        return metrics

    def fine_tune(
        self,
        labelled: Sequence[LabelledStructure],
        replay: Sequence[LabelledStructure],  # noqa: ARG002 - the networks stay as they are
        seed: int,  # noqa: ARG002 - nothing is drawn
    ) -> Metrics:
        """Let the correction learn labels; those that it knows already are replaced.

        Args:
            labelled: The campaign's labels, new ones or all.
            replay: Not needed.
            seed: Not needed.

        Returns:
            `n_labelled`, `n_known`, and `mae_labelled_before` and `mae_labelled_after` of the first property. These
            are errors on what was learned: promotion is judged by `evaluate` on held-out crystals.

        Raises:
            NotFittedError: Before `fit` or `load`.
            TrainingDataError: No crystal has a label of the head's properties.
        """
        new = self._labelled(labelled)
        if not new:
            raise TrainingDataError(
                "no crystal to fine-tune on has a label of this head", allowed=self.properties
            )
        inputs, truth = self._fitted().encode([item.structure for item in new]), self._truth(new)
        before = self._maes(inputs, truth, len(new), "before")
        told = {row.tobytes() for row in inputs.rows}
        kept = [place for place, row in enumerate(self._known.rows) if row.tobytes() not in told]
        newest = slice(-self.config.max_labels, None)
        self._known = DescriptorSet(np.concatenate([self._known.rows[kept], inputs.rows])[newest])
        self._labels = np.concatenate([self._labels[kept], truth])[newest]
        self._learn()
        sizes = {"n_labelled": float(len(new)), "n_known": float(len(self._known))}
        return sizes | before | self._maes(inputs, truth, len(new), "after")

    def _fitted(self) -> DescriptorEnsemble:
        ensemble: DescriptorEnsemble = super()._fitted()  # type: ignore[assignment]  # of `ensemble_type`
        return ensemble

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"sigma": self._sigma.tolist()}

    def _weights(self) -> dict[str, torch.Tensor]:
        labels = {"rows": torch.from_numpy(self._known.rows), "labels": torch.from_numpy(self._labels)}
        return super()._weights() | {f"{KNOWN}{name}": tensor for name, tensor in labels.items()}

    @classmethod
    def _from_checkpoint(cls, checkpoint: Checkpoint, device: str) -> Self:
        head = super()._from_checkpoint(checkpoint, device)
        n_properties = len(head.properties)
        head._sigma = np.array(checkpoint.state["sigma"], dtype=np.float64).reshape(n_properties)
        head._known = DescriptorSet(checkpoint.weights[f"{KNOWN}rows"].numpy().reshape(-1, n_descriptors()))
        head._labels = checkpoint.weights[f"{KNOWN}labels"].numpy().reshape(len(head._known), n_properties)
        head._learn()
        return head

    def _forget(self) -> None:
        """Know no label."""
        self._known = DescriptorSet(np.zeros((0, n_descriptors()), dtype=np.float32))
        self._labels = np.zeros((0, len(self.properties)))
        self._processes = [None] * len(self.properties)

    def _learn(self) -> None:
        """Fit the processes to the labels that are known."""
        if not len(self._known):
            return
        mean, _ = super()._mean_and_spread(self._known)
        features = self._fitted().features(self._known)
        for place in range(len(self.properties)):
            rows = np.isfinite(self._labels[:, place])
            if rows.any():
                residuals = self._labels[rows, place] - mean[rows, place]
                process = ResidualProcess.fit(features[rows], residuals, float(self._sigma[place]))
                self._processes[place] = process

    def _mean_and_spread(self, inputs: Inputs) -> tuple[Array, Array]:
        """Return what is expected of a campaign's crystals: corrected where there are labels."""
        mean, spread = super()._mean_and_spread(inputs)
        if len(inputs) and any(self._processes):
            features = self._fitted().features(inputs)
            for place, process in enumerate(self._processes):
                if process is not None:
                    error, spread[:, place] = process.correct(features)
                    mean[:, place] += error
        return mean, spread

    def _said_of(self, items: Sequence[LabelledStructure]) -> tuple[Array, Array]:
        """Return mean and spread (n_crystals, n_properties): those of the reference without the correction."""
        inputs = self._fitted().encode([item.structure for item in items])
        plain, corrected = super()._mean_and_spread(inputs), self._mean_and_spread(inputs)
        own = np.array([item.campaign for item in items], dtype=bool).reshape(-1, 1)
        mean, spread = (np.where(own, two, one) for one, two in zip(plain, corrected, strict=True))
        return mean, spread
