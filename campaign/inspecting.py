"""Reads what the inspection of a round's labels needs, and words what it found; `campaign.alarms` decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from campaign.alarms import Inspection, inspect
from campaign.documents import round_id
from campaign.plan import Spec
from campaign.state import CampaignState
from campaign.store import CampaignStore

TRUST = "look at them, then `learn.trust_alarmed: true` and `campaign resume` if they are right"
"""What a user can do about labels in quarantine."""


@dataclass(frozen=True)
class Inspector:
    """Inspects the labels of one campaign."""

    store: CampaignStore
    name: str
    """The campaign's."""
    spec: Spec

    def inspect(self, index: int, state: CampaignState) -> Inspection:
        """Hold the labels of a round against what was believed of them, and against the rounds trusted so far."""
        found = self.store.query(
            "labels",
            {"purpose": "candidate", "state": "done", "round": index, "result.e_above_hull": {"$ne": None}},
            fields=["rank", "predicted.belief_e_above_hull", "result.e_above_hull"],
        )
        beliefs = [
            (*_belief(one), one["result"]["e_above_hull"])
            for one in sorted(found, key=lambda one: (one["rank"], one["_id"]))
        ]
        known = np.array([one for one in beliefs if one[0] is not None], dtype=np.float64).reshape(-1, 3)
        return inspect(known[:, 0], known[:, 1], known[:, 2], self._trusted(index, state))

    def tell(self, index: int, found: Inspection, before: frozenset[int], after: frozenset[int]) -> None:
        """Log the alarm of a round, and which rounds are trusted again.

        Args:
            index: The round.
            found: What its inspection found.
            before: Rounds in quarantine as the earlier rounds say.
            after: The same with this round.
        """
        if found.alarm:
            held = f"; nothing learns from them: {TRUST}" if index in after else ""
            self.store.log_event(
                "alarm",
                f"labels of round {index} {found.message()}{held}",
                severity="critical" if found.suspect else "warning",
                what=f"labels {found.alarm}",
                round=index,
                inspection=found.document(),
            )
        cleared = sorted(before - after)
        if cleared:
            rounds = ", ".join(map(str, [*cleared, index]))
            words = f"labels of rounds {rounds} were alarmed alike: this lasts, and is left to the gate"
            self.store.log_event("alarm_cleared", words, rounds=[*cleared, index])

    def _trusted(self, index: int, state: CampaignState) -> list[Inspection]:
        """Return the inspections of the earlier rounds that are trusted, in order."""
        held = self.spec.quarantined(state, index)
        names = [round_id(self.name, earlier) for earlier in range(index) if earlier not in held]
        found = self.store.query(
            "rounds", {"_id": {"$in": names}}, fields=["index", "inspection"], sort=[("index", 1)]
        )
        return [Inspection.of(one["inspection"]) for one in found if one.get("inspection")]


def _belief(label: dict[str, Any]) -> tuple[float | None, float | None]:
    believed = (label.get("predicted") or {}).get("belief_e_above_hull") or {}
    return believed.get("mean"), believed.get("std")
