"""Core-hours that a label of a cell is expected to take: the engine's estimate, corrected by labels that have ended.

Of each rung the core-seconds measured grow as a power of the engine's own estimate, which knows the number of atoms and
the elements; the fit is that of `campaign.durations`, its median. A flow that computes a crystal many times, such as
phonons, is soon known by that; until then `core_hours` of its rung says what to expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.acquisition.standing import FIRST
from campaign.config import CampaignConfig
from campaign.documents import LabelStatus
from campaign.durations import Durations, Observation, Prior

PRIOR_ATOMS = 8
"""Cell of which `core_hours` of a rung speaks."""

Estimate = Callable[[int, Sequence[str]], float]
"""Number of atoms and elements -> core-seconds, by an engine."""


@dataclass(frozen=True)
class LabelCosts:
    """Expected core-hours of first labels and of rungs."""

    estimates: Mapping[str, Estimate]
    durations: Durations

    @classmethod
    def of(
        cls, config: CampaignConfig, estimates: Mapping[str, Estimate], ended: Iterable[Mapping[str, Any]]
    ) -> LabelCosts:
        """Return what labels tell.

        Args:
            config: The campaign's configuration.
            estimates: Of the engine of each rung, and of that of first labels under `FIRST`.
            ended: Labels that have ended, with `candidate_id`, `step`, `state`, `core_hours`, `chemsys` and `n_atoms`.
        """
        elements = config.chemistry.elements
        priors = {}
        for name, estimate in estimates.items():
            size = max(1.0, estimate(PRIOR_ATOMS, elements))
            said = next((one.core_hours for one in config.labels.ladder if one.name == name), None)
            priors[name] = Prior(size if said is None else 3600 * said, size)
        durations = Durations(priors)
        for one in sorted(ended, key=lambda one: one["candidate_id"]):  # the last digit of sums may matter
            name, spent_s = one.get("step") or FIRST, 3600 * float(one["core_hours"])
            if name in estimates and spent_s > 0:
                size = estimates[name](one["n_atoms"], one["chemsys"].split("-"))
                durations.learn(Observation(name, size, spent_s, one["state"] == LabelStatus.DONE))
        return cls(estimates, durations)

    def core_hours(self, rung: str, n_atoms: int, chemsys: str) -> float:
        """Return what a label is expected to take; `rung` is `FIRST` for a first label."""
        return self.durations.median_s(rung, self.estimates[rung](n_atoms, chemsys.split("-"))) / 3600
