"""What property heads made of an ensemble of networks have in common, whatever the networks read.

Targets are standardised, unknown ones are masked. The members' mean predicts (Lakshminarayanan, Pritzel and
Blundell, NeurIPS 2017); what their spread means is decided by held-out crystals, see `models.heads.calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, field_validator

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.data import FORMATION_ENERGY, LabelledStructure
from models.ensemble import Ensemble, EnsembleConfig
from models.errors import CheckpointError, NotFittedError, TrainingDataError
from models.heads.base import Intervals, Prediction
from models.heads.calibration import (
    Calibration,
    cross_fitted,
    fit_calibrations,
    read_calibrations,
    uncertainties,
)
from models.heads.held_out import MOST_FORESEEN, HeldOut
from models.metrics import Metrics, mae, regression_metrics
from models.splitting import folds_by_composition, split_by_composition
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
    import torch
    from pymatgen.core import Structure

FEWEST_TO_HALVE = 40
"""From so many crystals set aside on, one half of the formulas stops the training and the other one calibrates: errors
on crystals that chose the moment to stop are too small, by a tenth."""

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
        self._calibrations = [Calibration()] * n_properties
        self._foreseen = HeldOut.none(n_properties)

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Train from scratch.

        Args:
            train: Crystals with labels; those without any of `properties` are left out.
            valid: Crystals to stop and calibrate on, one half of the formulas each, or all for both if there are
                few. If none has a label, a share of the formulas of `train` (`valid_fraction`) is set aside for that.
            seed: Of weights, splits and orders.

        Returns:
            Metrics on the crystals that calibrate. Uncertainties are calibrated across two halves for them, so
            that `z_std` and the coverages are honest. Also `n_train`, `n_stop` and `epochs` (the members' mean).

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
        self._calibrations = [Calibration()] * len(self.properties)
        self._foreseen = HeldOut.none(len(self.properties))
        stop, calibrating = valid, valid
        if len(valid) >= FEWEST_TO_HALVE:
            stop, calibrating = split_by_composition(valid, 0.5, derive_seed(seed, 3))
        ensemble = self.ensemble_type.create(self.config, len(self.properties), derive_seed(seed, 0))
        logs = ensemble.train(
            self._training_set(_encode(ensemble, train), truth, np.ones(len(train))),
            self._training_set(_encode(ensemble, stop), self._truth(stop), np.ones(len(stop)))
            if stop
            else None,
            regression_loss,
            Schedule.from_scratch(self.config),
            derive_seed(seed, 1),
        )
        self._ensemble = ensemble
        metrics = self._calibrate(self._held_out(calibrating))
        metrics["n_train"], metrics["n_stop"] = float(len(train)), float(len(stop))
        metrics["epochs"] = float(np.mean([log.epochs for log in logs]))
        return metrics

    def predict(self, structures: Sequence[Structure]) -> Prediction:
        """Predict all properties.

        Raises:
            NotFittedError: Before `fit` or `load`.
            ModelsError: A structure cannot be read.
        """
        return self._answer(self._fitted().encode(structures))

    def predict_labelled(self, items: Sequence[LabelledStructure]) -> Prediction:
        """Predict all properties of crystals of the reference or of a campaign, each as what it is; see `predict`."""
        mean, spread = self._said_of(items)
        return Prediction(mean=mean, std=uncertainties(self._calibrations, spread)[0])

    def interval(self, structures: Sequence[Structure], level: float) -> Intervals:
        """Return intervals that hold the truth with a chance of `level`, for crystals like those calibrated on.

        Args:
            structures: The crystals.
            level: Above 0, at most 0.99; rounded up to a hundredth.

        Raises:
            NotFittedError: Before `fit` or `load`.
            ModelsError: A structure cannot be read.
            OptionsError: There are no intervals of this level.
        """
        mean, spread = self._mean_and_spread(self._fitted().encode(structures))
        half = [
            one.half_width(column, level) for one, column in zip(self._calibrations, spread.T, strict=True)
        ]
        return Intervals(mean - np.column_stack(half), mean + np.column_stack(half))

    def evaluate(self, labelled: Sequence[LabelledStructure]) -> Metrics:
        """Judge the head on crystals with known properties; see `models.metrics.regression_metrics`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        known = self._held_out(labelled)
        return self._metrics(known.truth, known.mean, *uncertainties(self._calibrations, known.spread))

    def foresee(self, labels: Sequence[LabelledStructure]) -> Metrics:
        """Remember how wrong the head is about labels that it has not learnt, before they are learnt.

        They stand for the labels to come when the head is recalibrated: of labels that are never learnt there are
        few in a campaign. Versions fine-tuned from this one remember them, too.

        Returns:
            Metrics on them, as `evaluate` returns them: how well the head held up in use.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        found = self._held_out(labels, domain=True)
        self._foreseen = HeldOut.join([self._foreseen, found]).last(MOST_FORESEEN)
        return self._metrics(found.truth, found.mean, *uncertainties(self._calibrations, found.spread))

    def recalibrate(
        self, held_out: Sequence[LabelledStructure], labelled: Sequence[LabelledStructure] = ()
    ) -> Metrics:
        """Choose anew how uncertain the head is, for example after fine-tuning.

        What it will be asked about is like the labels and not like the reference: as soon as there are labels, held
        out or foreseen, they decide, and all reference crystals together weigh as much as a few of them.

        Args:
            held_out: Reference crystals that the head was not trained on.
            labelled: A campaign's labels that the head was not trained on.

        Returns:
            Metrics on all labels, or on `held_out` if there are none, calibrated across two halves of the formulas;
            and `n_calibration`. With fewer than three crystals of a property its calibration stays.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        return self._calibrate(
            HeldOut.join([self._held_out(held_out), self._held_out(labelled, domain=True), self._foreseen])
        )

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
        old = draw_replay(
            self._labelled(replay), self.config.max_replay, derive_seed(seed, 0), self.properties
        )
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
        config = self.config.model_dump(mode="json")
        save_checkpoint(Path(folder), self.kind, config, self._state(), self._weights())

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read a checkpoint onto `device`.

        Raises:
            CheckpointError: Missing, damaged, of another kind or of a newer format.
            DeviceError: The device is not there.
        """
        checkpoint = load_checkpoint(Path(folder), cls.kind)
        try:
            return cls._from_checkpoint(checkpoint, device)
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} does not describe a head of this software", value=str(error), cure="train it again"
            ) from error

    def _state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside config and tensors."""
        return {
            "centre": self._centre.tolist(),
            "spread": self._spread.tolist(),
            "calibrations": [one.state() for one in self._calibrations],
            "foreseen": self._foreseen.state(),
        }

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return the tensors that a checkpoint keeps."""
        return self._fitted().weights()

    @classmethod
    def _from_checkpoint(cls, checkpoint: Checkpoint, device: str) -> Self:
        """Return the head that a checkpoint describes; raises all sorts of errors if it describes none."""
        config = cls.Config(**checkpoint.config | {"device": device})
        head = cls(config)
        head._centre, head._spread = _vectors(checkpoint.state, len(config.properties))
        head._calibrations = read_calibrations(checkpoint.state, len(config.properties))
        head._foreseen = HeldOut.of(checkpoint.state["foreseen"], len(config.properties))
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
        rows = [[item.known(name) for name in self.properties] for item in items]
        return np.array(rows, dtype=float).reshape(len(items), len(self.properties))

    def _training_set(self, inputs: Inputs, truth: Array, weights: Array) -> TrainingSet:
        targets = (truth - self._centre) / self._spread
        return TrainingSet(inputs, targets.astype(np.float32), weights.astype(np.float32))

    def _answer(self, inputs: Inputs) -> Prediction:
        """Predict all properties of crystals that were read before."""
        mean, spread = self._mean_and_spread(inputs)
        return Prediction(mean=mean, std=uncertainties(self._calibrations, spread)[0])

    def _mean_and_spread(self, inputs: Inputs) -> tuple[Array, Array]:
        """Return the members' mean and standard deviation (n_crystals, n_properties), in the properties' units."""
        outputs = self._fitted().outputs(inputs)  # (n_members, n_crystals, n_properties)
        spread = outputs.std(axis=0, ddof=1) * self._spread
        return outputs.mean(axis=0) * self._spread + self._centre, spread

    def _said_of(self, items: Sequence[LabelledStructure]) -> tuple[Array, Array]:
        """Return mean and spread (n_crystals, n_properties) of crystals of the reference or of a campaign."""
        return self._mean_and_spread(_encode(self._fitted(), items))

    def _held_out(self, items: Sequence[LabelledStructure], *, domain: bool = False) -> HeldOut:
        """Return what the head says about those of the crystals that have labels; it was not trained on them."""
        known = self._labelled(items)
        mean, spread = self._said_of(known)
        folds = folds_by_composition(known, 0.5, 2, 0)
        return HeldOut(self._truth(known), mean, spread, np.full(len(known), domain), folds)

    def _calibrate(self, held_out: HeldOut) -> Metrics:
        """Set the calibrations; return metrics, cross-fitted, on the labels or else on the reference."""
        judged = held_out.domain if held_out.domain.any() else ~held_out.domain
        std, half_widths = cross_fitted(held_out, self._calibrations, judged)
        self._calibrations = fit_calibrations(held_out, self._calibrations)
        metrics = self._metrics(held_out.truth[judged], held_out.mean[judged], std, half_widths)
        return metrics | {"n_calibration": float(len(held_out.fold))}

    def _metrics(self, truth: Array, mean: Array, std: Array, half_widths: Mapping[float, Array]) -> Metrics:
        each = [
            regression_metrics(
                truth[:, p], mean[:, p], std[:, p], {level: half[:, p] for level, half in half_widths.items()}
            )
            for p in range(len(self.properties))
        ]
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


def _vectors(state: Mapping[str, object], n_properties: int) -> tuple[Array, Array]:
    """Read the two vectors of a checkpoint's state, each (n_properties,)."""
    found = [np.array(state[name], dtype=float) for name in ("centre", "spread")]
    if any(vector.shape != (n_properties,) or not np.isfinite(vector).all() for vector in found):
        raise ValueError("the scales of the targets do not fit the properties")
    return found[0], found[1]
