"""What property heads made of an ensemble of networks have in common, whatever the networks read.

Targets are standardised, unknown ones are masked. The members' mean predicts; their standard deviation, times
one factor per property that held-out crystals decide, is the uncertainty (Lakshminarayanan, Pritzel and
Blundell, NeurIPS 2017, with the recalibration by a single scale of Levi et al., Sensors 22, 5540 (2022)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, field_validator

from models.checkpoint import load_checkpoint, save_checkpoint
from models.data import FORMATION_ENERGY, LabelledStructure
from models.ensemble import Ensemble, EnsembleConfig
from models.errors import CheckpointError, NotFittedError, TrainingDataError
from models.heads.base import Prediction
from models.metrics import Metrics, cross_fitted_std, mae, regression_metrics, std_scale
from models.splitting import split_by_composition
from models.training import (
    Inputs,
    Schedule,
    TrainingSet,
    derive_seed,
    draw_replay,
    regression_loss,
    standardisation,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

MIN_STD = 1e-6
"""Floor of predicted standard deviations, in the unit of the property."""

Array = npt.NDArray[np.float64]


class EnsembleHeadConfig(EnsembleConfig):
    """Options of a property head, beside the shape of its networks."""

    properties: tuple[str, ...] = Field(
        default=(FORMATION_ENERGY,), min_length=1, description="Labels to learn, for example e_above_hull."
    )

    @field_validator("properties")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError("name each property once")
        return value


class EnsembleHead:
    """Ensemble of networks; see `models.heads.base.PropertyHead` for the methods' contract.

    A kind of network is one subclass that sets the three class attributes.
    """

    Config: ClassVar[type[EnsembleHeadConfig]]
    kind: ClassVar[str]
    """What its checkpoints are called, for example "head/cgcnn"."""
    ensemble_type: ClassVar[type[Ensemble[Any]]]
    """The networks with what reads crystals for them."""

    def __init__(self, config: EnsembleHeadConfig | None = None) -> None:
        self.config = config or self.Config()
        self.properties = self.config.properties
        self._ensemble: Ensemble[Any] | None = None
        n_properties = len(self.properties)
        self._centre: Array = np.zeros(n_properties)  # of the targets, in their unit
        self._spread: Array = np.ones(n_properties)
        self._std_scale: Array = np.ones(n_properties)

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Train from scratch.

        Args:
            train: Crystals with labels; those without any of `properties` are left out.
            valid: Crystals to stop and calibrate on. If none has a label, a share of the formulas of `train`
                (`valid_fraction`) is set aside for that.
            seed: Of weights, splits and orders.

        Returns:
            Metrics on the validation crystals. Uncertainties are calibrated across two halves for them, so
            that `z_std` and the coverages are honest. Also `std_scale`, `n_train` and `epochs` (the
            members' mean).

        Raises:
            TrainingDataError: A property has no label in `train`, or the training diverged.
            ModelsError: A structure cannot be read.
        """
        train, valid = self._labelled(train), self._labelled(valid)
        if not valid:
            # Not the seed itself: who has split with it before would get the same formulas, which are gone.
            train, valid = split_by_composition(train, self.config.valid_fraction, derive_seed(seed, 2))
        truth = self._truth(train)  # (n_crystals, n_properties)
        for place, name in enumerate(self.properties):
            if not np.isfinite(truth[:, place]).any():
                raise TrainingDataError(
                    f"no training crystal has the property {name}",
                    value=sorted({key for item in train for key in item.properties}),
                    cure="train on crystals that carry it, or change the head's properties",
                )
        self._centre, self._spread = standardisation(truth)
        self._std_scale = np.ones(len(self.properties))
        ensemble = self.ensemble_type.create(self.config, len(self.properties), derive_seed(seed, 0))
        train_inputs, valid_inputs = _encode(ensemble, train), _encode(ensemble, valid)
        valid_truth = self._truth(valid)
        logs = ensemble.train(
            self._training_set(train_inputs, truth, np.ones(len(train))),
            self._training_set(valid_inputs, valid_truth, np.ones(len(valid))) if valid else None,
            regression_loss,
            Schedule.from_scratch(self.config),
            derive_seed(seed, 1),
        )
        self._ensemble = ensemble
        metrics = self._calibrate(valid_inputs, valid_truth)
        metrics["n_train"] = float(len(train))
        metrics["epochs"] = float(np.mean([log.epochs for log in logs]))
        return metrics

    def predict(self, structures: Sequence[Structure]) -> Prediction:
        """Predict all properties.

        Raises:
            NotFittedError: Before `fit` or `load`.
            ModelsError: A structure cannot be read.
        """
        return self._answer(self._fitted().encode(structures))

    def evaluate(self, labelled: Sequence[LabelledStructure]) -> Metrics:
        """Judge the head on crystals with known properties; see `models.metrics.regression_metrics`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        known = self._labelled(labelled)
        prediction = self.predict([item.structure for item in known])
        return self._metrics(self._truth(known), prediction.mean, prediction.std)

    def recalibrate(self, held_out: Sequence[LabelledStructure]) -> Metrics:
        """Choose the factors on the uncertainties anew, for example after fine-tuning.

        Args:
            held_out: Crystals that the head was not trained on; with fewer than three labels of a property
                its factor stays.

        Returns:
            Metrics on them, as `fit` returns them.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        known = self._labelled(held_out)
        return self._calibrate(_encode(self._fitted(), known), self._truth(known))

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Learn new labels at a low learning rate, beside crystals that are already known.

        Args:
            labelled: New labels; each weighs `labelled_weight` in the loss.
            replay: Crystals of the first training; `max_replay` of them are drawn.
            seed: Of the draw and the orders.

        Returns:
            `n_labelled`, `n_replay`, and for the first property the mean absolute error on both sets before
            and after: `mae_labelled_before`, `mae_labelled_after`, `mae_replay_before`, `mae_replay_after`.
            These are errors on what was trained on: promotion is judged by `evaluate` on held-out crystals.

        Raises:
            NotFittedError: Before `fit` or `load`.
            TrainingDataError: No new crystal has a label of the head's properties.
        """
        ensemble = self._fitted()
        new = self._labelled(labelled)
        if not new:
            raise TrainingDataError(
                "no crystal to fine-tune on has a label of this head", allowed=self.properties
            )
        old = draw_replay(self._labelled(replay), self.config.max_replay, derive_seed(seed, 0))
        inputs, truth = _encode(ensemble, [*new, *old]), self._truth([*new, *old])
        before = self._maes(inputs, truth, len(new), "before")
        weights = np.concatenate([np.full(len(new), self.config.labelled_weight), np.ones(len(old))])
        ensemble.train(
            self._training_set(inputs, truth, weights),
            None,
            regression_loss,
            Schedule.fine_tuning(self.config),
            derive_seed(seed, 1),
        )
        sizes = {"n_labelled": float(len(new)), "n_replay": float(len(old))}
        return sizes | before | self._maes(inputs, truth, len(new), "after")

    def save(self, folder: Path) -> None:
        """Write a checkpoint, replacing in one step what the folder holds.

        Raises:
            NotFittedError: Before `fit` or `load`.
            CheckpointError: The folder cannot be written.
        """
        state = {
            "centre": self._centre.tolist(),
            "spread": self._spread.tolist(),
            "std_scale": self._std_scale.tolist(),
        }
        config = self.config.model_dump(mode="json")
        save_checkpoint(Path(folder), self.kind, config, state, self._fitted().weights())

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read a checkpoint onto `device`.

        Raises:
            CheckpointError: Missing, damaged, of another kind or of a newer format.
            DeviceError: The device is not there.
        """
        checkpoint = load_checkpoint(Path(folder), cls.kind)
        try:
            config = cls.Config(**checkpoint.config | {"device": device})
            head = cls(config)
            head._centre, head._spread, head._std_scale = _vectors(checkpoint.state, len(config.properties))
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} does not describe a head of this software", value=str(error), cure="train it again"
            ) from error
        head._ensemble = cls.ensemble_type.from_weights(config, len(config.properties), checkpoint.weights)
        return head

    def _fitted(self) -> Ensemble[Any]:
        if self._ensemble is None:
            raise NotFittedError("the head knows nothing yet", cure="call fit or load first")
        return self._ensemble

    def _labelled(self, items: Sequence[LabelledStructure]) -> list[LabelledStructure]:
        """Return the crystals that have at least one of the properties."""
        return [item for item in items if any(item.known(name) is not None for name in self.properties)]

    def _truth(self, items: Sequence[LabelledStructure]) -> Array:
        """Return (n_crystals, n_properties), NaN where not known."""
        rows = [[_or_nan(item.known(name)) for name in self.properties] for item in items]
        return np.array(rows, dtype=float).reshape(len(items), len(self.properties))

    def _training_set(self, inputs: Inputs, truth: Array, weights: Array) -> TrainingSet:
        targets = (truth - self._centre) / self._spread
        return TrainingSet(inputs, targets.astype(np.float32), weights.astype(np.float32))

    def _answer(self, inputs: Inputs) -> Prediction:
        """Predict all properties of crystals that were read before."""
        outputs = self._fitted().outputs(inputs)  # (n_members, n_crystals, n_properties)
        std = outputs.std(axis=0, ddof=1) * self._spread * self._std_scale
        return Prediction(
            mean=outputs.mean(axis=0) * self._spread + self._centre,  # (n_crystals, n_properties)
            std=np.maximum(std, MIN_STD),
        )

    def _calibrate(self, held_out: Inputs, truth: Array) -> Metrics:
        """Set the factors on the uncertainties; return metrics with uncertainties that were cross-fitted."""
        prediction = self._answer(held_out)
        raw = prediction.std / self._std_scale  # (n_crystals, n_properties)
        honest = prediction.std.copy()
        for place in range(len(self.properties)):
            column = truth[:, place], prediction.mean[:, place], raw[:, place]
            if np.isfinite(column[0]).sum() >= 3:
                self._std_scale[place] = std_scale(*column)
                honest[:, place] = cross_fitted_std(*column)
        return self._metrics(truth, prediction.mean, honest) | {"std_scale": float(self._std_scale[0])}

    def _metrics(self, truth: Array, mean: Array, std: Array) -> Metrics:
        each = [regression_metrics(truth[:, p], mean[:, p], std[:, p]) for p in range(len(self.properties))]
        found = dict(each[0])
        if len(each) > 1:
            for name, metrics in zip(self.properties, each, strict=True):
                found |= {f"{name}:{metric}": value for metric, value in metrics.items()}
        return found

    def _maes(self, inputs: Inputs, truth: Array, n_new: int, when: str) -> Metrics:
        """Return the first property's mean absolute error on the first `n_new` crystals and on the others."""
        truth, mean = truth[:, 0], self._answer(inputs).mean[:, 0]
        new = np.arange(len(truth)) < n_new
        found = {}
        for name, chosen in (("labelled", new), ("replay", ~new)):
            known = chosen & np.isfinite(truth)
            if known.any():
                found[f"mae_{name}_{when}"] = mae(truth[known], mean[known])
        return found


def _encode(ensemble: Ensemble[Any], items: Sequence[LabelledStructure]) -> Inputs:
    return ensemble.encode([item.structure for item in items])


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _vectors(state: Mapping[str, object], n_properties: int) -> tuple[Array, Array, Array]:
    """Read the three vectors of a checkpoint's state, each (n_properties,)."""
    found = [np.array(state[name], dtype=float) for name in ("centre", "spread", "std_scale")]
    if any(vector.shape != (n_properties,) or not np.isfinite(vector).all() for vector in found):
        raise ValueError("the scales of the targets do not fit the properties")
    return found[0], found[1], found[2]
