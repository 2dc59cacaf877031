"""plan() with a surrogate that learns: the screens of a round wait for the version of its term."""

from __future__ import annotations

import pytest
from test_plan import World, spec_with

from campaign.actions import Screen
from campaign.plan import Spec


class Watching(World):
    """Notes relaxations that ended before the surrogate's version was decided."""

    def __init__(self, spec: Spec, seed: int) -> None:
        super().__init__(spec, seed)
        self.relaxed_too_early: list[str] = []

    def finish(self, action) -> None:
        if isinstance(action, Screen) and self.spec.segments[action.segment].needs_surrogate:
            term = self.spec.term(action.round)
            if not all(self.state.decided(key, term) for key in self.spec.surrogates):
                self.relaxed_too_early.append(action.key)
        super().finish(action)


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_surrogate_that_learns_screens_with_the_version_of_the_rounds_term(lookahead):
    spec = spec_with(
        surrogates=("surrogate-0-s",),
        acquisition={"candidates_per_round": 10, "labels_per_round": 3, "lookahead_rounds": lookahead},
    )
    first, other = Watching(spec, 0), Watching(spec, 7)
    assert first.run() == other.run() == "every round is complete"
    assert first.relaxed_too_early == other.relaxed_too_early == []
    assert first.chosen == other.chosen
    assert {("surrogate-0-s", term) for term in range(4)} <= set(first.state.models)
    assert spec.surrogate_checkpoint(first.state, 2) == f"surrogate-0-s-{max(0, 2 - lookahead)}"
