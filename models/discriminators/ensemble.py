"""What discriminators made of an ensemble of networks have in common, whatever the networks read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, ValidationError

from models.checkpoint import load_checkpoint, save_checkpoint
from models.data import E_ABOVE_HULL, FORMATION_ENERGY, STABLE, LabelledStructure
from models.discriminators.calibration import (
    Calibration,
    fit_calibration,
    fit_calibrations,
    probability_from,
)
from models.ensemble import Ensemble, EnsembleConfig
from models.errors import CheckpointError, NotFittedError, TrainingDataError
from models.metrics import Metrics, best_threshold, classification_metrics
from models.splitting import folds_by_composition
from models.training import (
    Inputs,
    Schedule,
    TrainingSet,
    classification_loss,
    derive_seed,
    draw_replay,
    regression_loss,
    standardisation,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure

Array = npt.NDArray[np.float64]


class EnsembleDiscriminatorConfig(EnsembleConfig):
    """Options of a discriminator, beside the shape of its networks."""

    class_weights: Literal["balanced", "none"] = Field(
        default="balanced",
        description="balanced: the rarer class weighs as much as the other one in the loss.",
    )
    threshold: float | None = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="The metrics call a crystal stable from this probability on; null for the one of the best F1 on "
        "crystals that were set aside.",
    )
    auxiliary: tuple[str, ...] = Field(
        default=(E_ABOVE_HULL, FORMATION_ENERGY),
        description="Properties that the networks learn beside stability, as far as they are known; what they share "
        "keeps the networks from learning the classes by heart.",
    )
    auxiliary_weight: float = Field(
        default=5.0, ge=0.0, description="Weight of each of these in the loss; stability has 1."
    )


class EnsembleDiscriminator:
    """Ensemble of networks; see `models.discriminators.base.Discriminator` for the methods' contract.

    A kind of network is one subclass that sets the three class attributes.
    """

    Config: ClassVar[type[EnsembleDiscriminatorConfig]]
    kind: ClassVar[str]
    """What its checkpoints are called, for example "discriminator/cgcnn"."""
    ensemble_type: ClassVar[type[Ensemble[Any]]]
    """The networks with what reads crystals for them."""

    def __init__(self, config: EnsembleDiscriminatorConfig | None = None) -> None:
        self.config = config or self.Config()
        self._ensemble: Ensemble[Any] | None = None
        self._calibration = Calibration()
        self._class_weights = (1.0, 1.0)  # of unstable and stable crystals in the loss
        self._threshold = self.config.threshold or 0.5
        n_auxiliary = len(self.config.auxiliary)
        self._centre: Array = np.zeros(n_auxiliary)  # of the auxiliary properties, in their unit
        self._spread: Array = np.ones(n_auxiliary)

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Train from scratch.

        Args:
            train: Crystals with `properties["stable"]`; others are left out.
            valid: Crystals to stop and calibrate on. If none is labelled, each member sets a share of the formulas
                of `train` aside (`valid_fraction`), others than its fellows, and is calibrated on those.
            seed: Of weights, splits and orders.

        Returns:
            Metrics on crystals that were not trained on, at the threshold; and `temperature`, `n_train`, `epochs`.

        Raises:
            TrainingDataError: No label, one class only, a label other than 0 and 1, or a training diverged.
            ModelsError: A structure cannot be read.
        """
        train, valid = _labelled(train), _labelled(valid)
        positive = _positive(train)  # (n_crystals,)
        n_stable, n_unstable = float(positive.sum()), float((1.0 - positive).sum())
        if n_stable == 0.0 or n_unstable == 0.0:
            raise TrainingDataError(
                "a discriminator needs stable and unstable crystals to learn from",
                value=f"{n_stable:.0f} stable, {n_unstable:.0f} unstable",
                cure="add crystals of the missing class, or change the hull distance that counts as stable",
            )
        balanced = self.config.class_weights == "balanced"
        half = 0.5 * len(train)
        self._class_weights = (half / n_unstable, half / n_stable) if balanced else (1.0, 1.0)
        self._centre, self._spread = standardisation(self._auxiliary(train))
        # Balanced weights teach the odds of a world with as many stable as unstable crystals.
        self._calibration = Calibration(shift=float(np.log(n_stable / n_unstable)) if balanced else 0.0)
        ensemble = self.ensemble_type.create(
            self.config, 1 + len(self.config.auxiliary), derive_seed(seed, 0)
        )
        inputs = _encode(ensemble, train)
        data = self._training_set(inputs, train)
        course = (self._loss, Schedule.from_scratch(self.config), derive_seed(seed, 1))
        if valid:
            valid_inputs, truth = _encode(ensemble, valid), _positive(valid)
            logs = ensemble.train(data, self._training_set(valid_inputs, valid), *course)
            scores = ensemble.outputs(valid_inputs).mean(axis=0)[:, 0]
        else:
            # Not the seed itself: who has split with it before would get the same formulas, which are gone.
            folds = folds_by_composition(
                train, self.config.valid_fraction, self.config.members, derive_seed(seed, 2)
            )
            logs = ensemble.train_in_folds(data, folds, *course)
            rows, said = ensemble.outputs_out_of_fold(inputs, folds)
            scores, truth = said[:, 0], positive[rows]
        self._ensemble = ensemble
        metrics = self._calibrate(scores, truth)
        metrics["n_train"] = float(len(train))
        metrics["epochs"] = float(np.mean([log.epochs for log in logs]))
        return metrics

    def logit(self, structures: Sequence[Structure]) -> Array:
        """Return (n_crystals,) calibrated log-odds of being stable.

        Raises:
            NotFittedError: Before `fit` or `load`.
            ModelsError: A structure cannot be read.
        """
        return self._log_odds(self._fitted().encode(structures))

    def probability(self, structures: Sequence[Structure]) -> Array:
        """Return (n_crystals,) chances of being stable; raises as `logit`."""
        return probability_from(self.logit(structures))

    def evaluate(self, labelled: Sequence[LabelledStructure]) -> Metrics:
        """Judge the discriminator on labelled crystals; see `models.metrics.classification_metrics`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        known = _labelled(labelled)
        scores = self._scores(_encode(self._fitted(), known))
        return self._metrics(self._calibration.apply(scores), _positive(known))

    def recalibrate(
        self, held_out: Sequence[LabelledStructure], labelled: Sequence[LabelledStructure] = ()
    ) -> Metrics:
        """Choose temperature, shift and threshold anew on crystals that the discriminator was not trained on.

        Args:
            held_out: Reference crystals. What they ask for is where the search on the labels starts,
            labelled: and a campaign's own labels, as far as there are any, decide: among them fewer are stable.

        Returns:
            Metrics on `labelled`, or on `held_out` if there are no labels, calibrated across two halves of the
            formulas; and `temperature`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        parts = [known for items in (held_out, labelled) if (known := _labelled(items))]
        if not parts:
            return {"temperature": self._calibration.temperature}
        scores = [self._scores(_encode(self._fitted(), items)) for items in parts]
        positive = [_positive(items) for items in parts]
        folds = folds_by_composition(parts[-1], 0.5, 2, 0)
        honest = np.zeros(len(folds))
        for fold in (0, 1):
            others = folds != fold
            rest = fit_calibrations(
                [*scores[:-1], scores[-1][others]], [*positive[:-1], positive[-1][others]], self._calibration
            )
            honest[~others] = rest.apply(scores[-1][~others])
        self._calibration = fit_calibrations(scores[:-1], positive[:-1], self._calibration)
        self._calibrate(scores[-1], positive[-1])
        return self._metrics(honest, positive[-1]) | {"temperature": self._calibration.temperature}

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> Metrics:
        """Learn new labels at a low learning rate, beside crystals that are already known.

        Args:
            labelled: New labels; each weighs `labelled_weight` times its class in the loss.
            replay: Crystals of the first training; `max_replay` of them are drawn.
            seed: Of the draw and the orders.

        Returns:
            `n_labelled`, `n_replay`, and the log-loss on both sets before and after:
            `log_loss_labelled_before`, ... These are losses on what was trained on: promotion is judged by
            `evaluate` on held-out crystals.

        Raises:
            NotFittedError: Before `fit` or `load`.
            TrainingDataError: No new crystal is labelled stable or unstable.
        """
        ensemble = self._fitted()
        new = _labelled(labelled)
        if not new:
            raise TrainingDataError(f"no crystal to fine-tune on has the property {STABLE}")
        old = draw_replay(_labelled(replay), self.config.max_replay, derive_seed(seed, 0))
        inputs, positive = _encode(ensemble, [*new, *old]), _positive([*new, *old])
        before = self._log_losses(inputs, positive, len(new), "before")
        ensemble.train(
            self._training_set(inputs, [*new, *old], n_new=len(new)),
            None,
            self._loss,
            Schedule.fine_tuning(self.config),
            derive_seed(seed, 1),
        )
        sizes = {"n_labelled": float(len(new)), "n_replay": float(len(old))}
        return sizes | before | self._log_losses(inputs, positive, len(new), "after")

    def save(self, folder: Path) -> None:
        """Write a checkpoint, replacing in one step what the folder holds.

        Raises:
            NotFittedError: Before `fit` or `load`.
            CheckpointError: The folder cannot be written.
        """
        state = {
            "temperature": self._calibration.temperature,
            "shift": self._calibration.shift,
            "class_weights": list(self._class_weights),
            "threshold": self._threshold,
            "centre": self._centre.tolist(),
            "spread": self._spread.tolist(),
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
        state = checkpoint.state
        try:
            config = cls.Config(**checkpoint.config | {"device": device})
            found = cls(config)
            found._calibration = Calibration(float(state["temperature"]), float(state["shift"]))
            unstable, stable = state["class_weights"]
            found._class_weights = (float(unstable), float(stable))
            found._threshold = float(state["threshold"])
            found._centre, found._spread = (
                np.array(state[name], dtype=np.float64).reshape(len(config.auxiliary))
                for name in ("centre", "spread")
            )
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder} does not describe a discriminator of this software",
                value=str(error),
                cure="train it again",
            ) from error
        found._ensemble = cls.ensemble_type.from_weights(
            config, 1 + len(config.auxiliary), checkpoint.weights
        )
        return found

    def _fitted(self) -> Ensemble[Any]:
        if self._ensemble is None:
            raise NotFittedError("the discriminator knows nothing yet", cure="call fit or load first")
        return self._ensemble

    def _scores(self, inputs: Inputs) -> Array:
        """Return (n_crystals,) mean logits of the members, as trained."""
        return self._fitted().outputs(inputs).mean(axis=0)[:, 0]

    def _log_odds(self, inputs: Inputs) -> Array:
        """Return (n_crystals,) calibrated log-odds of crystals that were read before."""
        return self._calibration.apply(self._scores(inputs))

    def _metrics(self, log_odds: Array, positive: Array) -> Metrics:
        return classification_metrics(positive, probability_from(log_odds), self._threshold)

    def _calibrate(self, scores: Array, positive: Array) -> Metrics:
        """Set temperature, shift and threshold by crystals that were not trained on; return the metrics with them."""
        self._calibration = fit_calibration(scores, positive, self._calibration)
        log_odds = self._calibration.apply(scores)
        if self.config.threshold is None:
            self._threshold = best_threshold(positive, probability_from(log_odds))
        return self._metrics(log_odds, positive) | {"temperature": self._calibration.temperature}

    def _training_set(
        self, inputs: Inputs, items: Sequence[LabelledStructure], n_new: int = 0
    ) -> TrainingSet:
        """Return inputs, targets and class weights; `labelled_weight` multiplies the first `n_new`."""
        positive = _positive(items)
        weights = np.where(positive > 0.5, self._class_weights[1], self._class_weights[0])
        weights[:n_new] *= self.config.labelled_weight
        others = (self._auxiliary(items) - self._centre) / self._spread  # (n_crystals, n_auxiliary)
        targets = np.column_stack([positive, others]).astype(np.float32)
        return TrainingSet(inputs, targets, weights.astype(np.float32))

    def _auxiliary(self, items: Sequence[LabelledStructure]) -> Array:
        """Return the auxiliary properties (n_crystals, n_auxiliary), NaN where not known."""
        names = self.config.auxiliary
        values = [[item.known(name) for name in names] for item in items]
        return np.array(values, dtype=np.float64).reshape(len(items), len(names))

    def _loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss per entry (n_crystals, 1 + n_auxiliary)."""
        classes = classification_loss(outputs[:, :1], targets[:, :1])
        others = regression_loss(outputs[:, 1:], targets[:, 1:])
        return torch.cat([classes, self.config.auxiliary_weight * others], dim=1)

    def _log_losses(self, inputs: Inputs, positive: Array, n_new: int, when: str) -> Metrics:
        """Return the log-loss on the first `n_new` crystals and on the others."""
        probability = probability_from(self._log_odds(inputs))
        found = {}
        for name, chosen in (("labelled", slice(n_new)), ("replay", slice(n_new, None))):
            part = classification_metrics(positive[chosen], probability[chosen], self._threshold)
            if "log_loss" in part:
                found[f"log_loss_{name}_{when}"] = part["log_loss"]
        return found


def _encode(ensemble: Ensemble[Any], items: Sequence[LabelledStructure]) -> Inputs:
    return ensemble.encode([item.structure for item in items])


def _labelled(items: Sequence[LabelledStructure]) -> list[LabelledStructure]:
    return [item for item in items if item.known(STABLE) is not None]


def _positive(items: Sequence[LabelledStructure]) -> Array:
    """Return (n_crystals,) 1.0 for stable and 0.0 for unstable crystals, all labelled.

    Raises:
        TrainingDataError: A label is something else.
    """
    values = np.array([item.known(STABLE) for item in items], dtype=float)
    wrong = values[~np.isin(values, (0.0, 1.0))]
    if len(wrong):
        raise TrainingDataError("a stability label must be 1 or 0", value=float(wrong[0]), allowed=[0.0, 1.0])
    return values
