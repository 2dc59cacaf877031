"""When a step of the ladder is due, and when what climbed is known. Pure; a part of `campaign.plan`."""

from __future__ import annotations

from campaign.actions import Climb
from campaign.documents import LabelStatus
from campaign.state import CampaignState


def next_step(state: CampaignState, *, more_rounds: bool) -> Climb | None:
    """Return the next step: one for each round that has chosen, in their order, and last ones when no round is left.

    A last step waits until nothing of the ladder is open, and is due as long as anything was done since the one before.

    Args:
        state: The campaign's state.
        more_rounds: Whether another round may open.
    """
    index, following = len(state.steps), sum(not step.last for step in state.steps.values())
    current = state.rounds.get(following)
    if current is not None:
        return None if current.selected is None else Climb(f"climb/{index}", None, index, following)
    own = [label for label in state.labels.values() if label.on_ladder and label.purpose != "reference"]
    if more_rounds or not following or any(not label.final or not label.judged for label in own):
        return None
    before, done = state.steps[index - 1], sum(label.state == LabelStatus.DONE for label in own)
    if before.last and before.done_seen == done:
        return None
    return Climb(f"climb/{index}", None, index, following - 1, last=True)


def climbed(state: CampaignState, before: int) -> bool:
    """Return whether the steps of the rounds before one are decided, and all of their labels final and judged."""
    steps = [step for step in state.steps.values() if step.round < before]
    if {step.round for step in steps if not step.last} != set(range(before)):
        return False
    labels = [state.labels.get(name) for step in steps for name in step.labels]
    return all(label is not None and label.final and label.judged for label in labels)
