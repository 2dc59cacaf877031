"""What a head says about crystals that it was not trained on, beside the truth: its uncertainties are chosen by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

REFERENCE_WEIGHT = 5.0
"""Reference crystals together weigh as much as so many of a campaign's labels, once there are any of those."""

MOST_FORESEEN = 300
"""Of labels that versions were asked about before they learnt them, so many are kept: the newest."""


@dataclass(frozen=True)
class HeldOut:
    """What a head says about crystals that it was not trained on, beside the truth."""

    truth: Array
    """(n, n_properties), NaN where not known."""
    mean: Array
    """(n, n_properties)"""
    spread: Array
    """(n, n_properties) standard deviation of the members."""
    domain: npt.NDArray[np.bool_]
    """(n,) whether a crystal is one of a campaign's own labels and no reference crystal."""
    fold: npt.NDArray[np.int64]
    """(n,) 0 or 1, the same for all crystals of one formula."""

    def take(self, rows: npt.NDArray[Any]) -> HeldOut:
        """Return these crystals, by number or by truth."""
        return HeldOut(
            self.truth[rows], self.mean[rows], self.spread[rows], self.domain[rows], self.fold[rows]
        )

    def last(self, n: int) -> HeldOut:
        """Return the last `n` crystals, or all if there are fewer."""
        return self.take(np.arange(max(len(self.fold) - n, 0), len(self.fold)))

    @classmethod
    def none(cls, n_properties: int) -> Self:
        """Return no crystals."""
        empty = np.zeros((0, n_properties))
        return cls(empty, empty, empty, np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int64))

    def state(self) -> dict[str, object]:
        """Return the crystals as a plain document, which `of` reads; None where the truth is not known."""
        truth = [[value if np.isfinite(value) else None for value in row] for row in self.truth.tolist()]
        return {
            "truth": truth,
            "mean": self.mean.tolist(),
            "spread": self.spread.tolist(),
            "domain": self.domain.tolist(),
            "fold": self.fold.tolist(),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any], n_properties: int) -> Self:
        """Read what `state` gave.

        Raises:
            ValueError: It describes no crystals with so many properties.
        """
        truth, mean, spread = (
            np.array(state[name], dtype=np.float64).reshape(-1, n_properties)
            for name in ("truth", "mean", "spread")
        )
        domain, fold = np.array(state["domain"], dtype=bool), np.array(state["fold"], dtype=np.int64)
        if not len(truth) == len(mean) == len(spread) == len(domain) == len(fold):
            raise ValueError("the foreseen labels do not fit together")
        return cls(truth, mean, spread, domain, fold)

    @classmethod
    def join(cls, parts: Sequence[HeldOut]) -> HeldOut:
        """Return the crystals of all parts, one after another."""
        names = ("truth", "mean", "spread", "domain", "fold")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def errors(self, place: int) -> Errors:
        """Return the errors of one property where it is known, with what each crystal weighs.

        What a campaign will ask about is like its own labels and unlike the reference, so these lead as soon as there
        are any; the reference fills the gaps between a few of them.
        """
        error = self.truth[:, place] - self.mean[:, place]
        known = np.isfinite(error)
        domain = self.domain[known]
        share = REFERENCE_WEIGHT / max(int((~domain).sum()), 1) if domain.any() else 1.0
        weight = np.where(domain, 1.0, min(1.0, share))
        return Errors(error[known], self.spread[known, place], weight)


@dataclass(frozen=True)
class Errors:
    """How wrong a head is about crystals that it was not trained on, of one property."""

    error: Array
    """(n,) truth - mean, in the unit of the property."""
    spread: Array
    """(n,) standard deviation of the members, in the unit of the property."""
    weight: Array
    """(n,) of each crystal, at most 1."""
