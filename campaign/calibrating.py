"""What calibrates a fine-tuned version, and the figures of it that are kept. Part of the door to `models`.

Labels to come are like the labels that there are, and few of these are held out. So a version about to learn new
labels foretells them first, and remembers how wrong it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.data import LabelledStructure

FIGURES = frozenset(
    {"n", "n_calibration", "coverage_50", "coverage_68", "coverage_90", "coverage_95", "width_90", "z_std"}
    | {"calibration_error", "reliability", "temperature"}
)
"""Figures of calibration: none of them judges a version."""


def foresee(
    model: Any, fresh: Sequence[LabelledStructure], held_out: Sequence[LabelledStructure]
) -> dict[str, dict[str, float]]:
    """Let a version foretell the labels that it is about to learn, where its kind can.

    Args:
        model: Not yet fine-tuned.
        fresh: Labels that it was not trained on.
        held_out: Labels that it is not going to learn either; they calibrate it later.

    Returns:
        {"foreseen": figures}: how well the version in use held up on the labels that it was asked about.
    """
    never = {id(one) for one in held_out}
    new = [one for one in fresh if id(one) not in never]
    return _kept("foreseen", model.foresee(new)) if new and hasattr(model, "foresee") else {}


def recalibrate(
    model: Any, reference: Sequence[LabelledStructure], labels: Sequence[LabelledStructure]
) -> dict[str, dict[str, float]]:
    """Recalibrate a fine-tuned version on held-out crystals, where its kind can.

    Returns:
        {"calibration": figures}, cross-fitted: what `evaluate` says of the same crystals is what was asked for.
    """
    if not hasattr(model, "recalibrate"):
        return {}
    return _kept("calibration", model.recalibrate(reference, labels))


def _kept(name: str, metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    kept = {key: value for key, value in metrics.items() if key.rpartition(":")[2] in FIGURES}
    return {name: kept} if kept else {}
