"""The contract of property heads and discriminators, runnable on anybody's class.

    check_head(MyHead(MyHead.Config(...)), labelled, folder, seed=0)
    check_discriminator(MyDiscriminator(...), labelled, folder, seed=0)

Both train on what they are given: a few dozen small crystals and few epochs are enough.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from models.data import STABLE, LabelledStructure
from models.equivalents import equivalent_structures
from models.errors import ContractError, ModelsError, NotFittedError
from models.splitting import split_by_composition

if TYPE_CHECKING:
    from pymatgen.core import Structure

TOLERANCE = 1e-4
"""Largest change of an answer for another description of one crystal, per unit of its range over crystals."""

Answer = Callable[[Any, Sequence["Structure"]], npt.NDArray[np.float64]]
"""(model, structures) -> (n_crystals, n_numbers), everything the model says about each crystal."""


def check_head(head: Any, labelled: Sequence[LabelledStructure], folder: Path, seed: int) -> None:
    """Check a property head that was built and not yet fitted.

    Args:
        head: The head; it is trained here.
        labelled: Some dozens of crystals of several formulas, with the head's properties.
        folder: An empty folder for checkpoints.
        seed: Of everything.

    Raises:
        ContractError: The first promise of `models.heads.base.PropertyHead` that is broken.
    """
    properties = head.properties
    names = isinstance(properties, tuple) and all(isinstance(name, str) for name in properties)
    _require(names and len(properties) > 0, "properties must be a tuple of names")

    def answer(model: Any, structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
        prediction = model.predict(structures)
        shape = (len(structures), len(properties))
        _require(prediction.mean.shape == shape, f"mean has shape {prediction.mean.shape}, not {shape}")
        _require(prediction.std.shape == shape, f"std has shape {prediction.std.shape}, not {shape}")
        _require(bool((prediction.std > 0.0).all()), "a standard deviation is not above 0")
        return np.concatenate([prediction.mean, prediction.std], axis=1)

    _check_model(head, labelled, answer, folder, seed)


def check_discriminator(
    discriminator: Any, labelled: Sequence[LabelledStructure], folder: Path, seed: int
) -> None:
    """Check a discriminator that was built and not yet fitted; arguments as for `check_head`.

    Raises:
        ContractError: The first promise of `models.discriminators.base.Discriminator` that is broken.
    """
    _require(
        {item.known(STABLE) for item in labelled} >= {0.0, 1.0},
        "give stable and unstable crystals to check with",
    )

    def answer(model: Any, structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
        logit, probability = model.logit(structures), model.probability(structures)
        shape = (len(structures),)
        _require(logit.shape == shape and probability.shape == shape, f"answers must have shape {shape}")
        logistic = 1.0 / (1.0 + np.exp(-np.clip(logit, -500.0, 500.0)))
        _require(np.allclose(probability, logistic, atol=1e-6), "probability is not the logistic of logit")
        return logit[:, None]

    _check_model(discriminator, labelled, answer, folder, seed)


def _check_model(
    model: Any, labelled: Sequence[LabelledStructure], answer: Answer, folder: Path, seed: int
) -> None:
    kind = type(model)
    structures = [item.structure for item in labelled]
    train, valid = split_by_composition(labelled, 0.3, seed)
    _check_unfitted(model, answer, structures, folder)
    untouched = [structure.copy() for structure in structures]
    random_state = _random_state()

    _check_metrics(model.fit(train, valid, seed), "fit")
    first = answer(model, structures)
    _require(bool(np.isfinite(first).all()), "an answer is not finite")
    _require(len(answer(model, [])) == 0, "no crystals must give no answers")
    _require(np.ptp(first, axis=0)[0] > 0.0, "all crystals get the same answer")
    _check_equivalents(model, answer, structures[:6], first, seed)

    again = kind(model.config)
    again.fit(train, valid, seed)
    _require(np.allclose(answer(again, structures), first, atol=1e-6), "the same seed gives another model")

    model.save(folder / "first")
    loaded = kind.load(folder / "first")
    _require(np.allclose(answer(loaded, structures), first, atol=1e-6), "save and load change the answers")
    loaded.save(folder / "first")  # onto itself

    _check_metrics(loaded.fine_tune(valid, train, seed), "fine_tune")
    _require(not np.allclose(answer(loaded, structures), first, atol=1e-6), "fine_tune changes nothing")
    _check_metrics(loaded.evaluate(valid), "evaluate")
    _require(np.allclose(answer(model, structures), first, atol=1e-6), "two models share their weights")
    _require(structures == untouched, "the crystals that were given were changed")
    _require(_random_state() == random_state, "the global random state was used or changed")


def _check_unfitted(model: Any, answer: Answer, structures: Sequence[Structure], folder: Path) -> None:
    calls: dict[str, Callable[[], object]] = {
        "an answer": lambda: answer(model, structures),
        "save": lambda: model.save(folder / "unfitted"),
    }
    for name, call in calls.items():
        try:
            call()
        except NotFittedError:
            continue
        raise ContractError(f"{name} before fit must raise NotFittedError")
    try:
        type(model).load(folder / "nothing")
    except ModelsError:
        return
    raise ContractError("load of a folder without a checkpoint must raise a ModelsError")


def _check_equivalents(
    model: Any,
    answer: Answer,
    structures: Sequence[Structure],
    expected: npt.NDArray[np.float64],
    seed: int,
) -> None:
    """Compare the answers about each crystal with those about its other descriptions, and when it is alone."""
    allowed = TOLERANCE * np.ptp(expected, axis=0)  # (n_numbers,)
    for place, structure in enumerate(structures):
        others = equivalent_structures(structure, seed + place) | {"alone": structure}
        for name, other in others.items():
            change = np.abs(answer(model, [other])[0] - expected[place])
            _require(
                bool((change <= allowed).all()),
                f"{structure.composition.reduced_formula} {name} gets another answer, by {change.max():.2g}",
            )


def _check_metrics(metrics: Mapping[str, float], where: str) -> None:
    sane = all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    _require(bool(metrics) and sane, f"{where} must return finite figures by name")
    json.dumps(metrics)


def _random_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)["state"]
    return (
        bytes(torch.get_rng_state().numpy().tobytes()),
        numpy_state["key"].tobytes(),
        numpy_state["pos"],
        random.getstate(),
    )


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ContractError(problem)
