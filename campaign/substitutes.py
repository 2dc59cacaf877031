"""What is recorded for a task that failed every time: the honest nothing, so that the campaign goes on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from campaign.actions import Action, BuildLabel, Sample, Score, Screen, Train
from campaign.errors import CampaignError
from campaign.state import CampaignState


def substitute_result(action: Action, state: CampaignState, failure: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result that stands in for a task that will not succeed.

    A batch gives no candidates; a chunk's candidates are rejected with the cause as reason; scores stay away; a
    fine-tuning is refused, so that the parent goes on.

    Raises:
        CampaignError: A first model cannot be trained: without it there is no campaign.
    """
    reason = f"error: {failure['cause']}: {failure['message']}"
    match action:
        case Sample():
            return {"candidates": []}
        case Screen():
            outcomes: list[dict[str, Any]] = [
                {
                    "candidate_id": name,
                    "passed": False,
                    "rejected_by": "error",
                    "reason": reason,
                    "values": {},
                    "structure": None,
                }
                for name in action.ids
            ]
            return {"outcomes": outcomes}
        case Score():
            return {"predictions": {name: {} for name in action.ids}}
        case BuildLabel():
            return {"failure": dict(failure)}
        case Train() if state.version(action.model, action.term - 1) is not None and action.term > 0:
            return {
                "promoted": False,
                "labels": [],
                "metrics_before": {},
                "metrics_after": {},
                "verdict": reason,
                "checkpoint": None,
                "sha256": None,
            }
    raise CampaignError(
        f"task {action.key} failed every time",
        value=failure["message"],
        cure="see the logs in the run folder, mend the cause, then `campaign resume`",
    )
