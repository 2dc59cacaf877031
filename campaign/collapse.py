"""Generators that repeat themselves: which versions have collapsed in the rounds that they sampled. Pure.

A version is promoted on a few crystals (`campaign.gating`). What it makes by the hundred may still be what the campaign
has: then few of its crystals are new. Such a version falls, with all that was fine-tuned from it, and the next round is
sampled by the last one that did not. A version is held against the last round that one of its ancestors sampled, so
that a small chemistry whose crystals are used up slowly makes nobody fall. The first version never falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from campaign.state import CampaignState, ModelState

LEAST_ASKED = 20
"""Crystals of a version in a round that a judgement needs."""

LEAST_SHARE = 0.5
"""Part of its ancestor's share of new crystals that a version must keep ..."""

ERRORS = 3.0
"""... or miss by no more than this many standard errors of a binomial count."""


def fallen(state: CampaignState, key: str, index: int) -> frozenset[str]:
    """Return the versions of a generator that round `index` goes without, as the rounds before it say.

    When a version falls in a round, the next round goes back behind it: to the last good version, not to one that was
    fine-tuned meanwhile. The rounds before `index` have all been sampled when this is asked, so that the answer never
    depends on timing.
    """
    versions = {one.id: one for (name, _), one in state.models.items() if name == key}
    down: set[str] = set()
    last: dict[str, tuple[int, int]] = {}  # version -> asked and new of the last round that it sampled
    for earlier in range(index):
        current = state.rounds.get(earlier)
        for name, made in (current.made if current else {}).items():
            before = _ancestors_share(name, versions, last)
            if before is not None and collapsed(made, before):
                first = versions[name].term
                down |= {one.id for one in versions.values() if first <= one.term <= earlier + 1}
            last[name] = made
    for one in sorted(versions.values(), key=lambda one: one.term):
        if one.parent in down:
            down.add(one.id)
    return frozenset(down)


def collapsed(made: tuple[int, int], before: float) -> bool:
    """Return whether too few of a version's crystals were new.

    Args:
        made: Crystals asked of it, and those of them that were new.
        before: Share of new ones among its ancestor's.
    """
    asked, new = made
    if asked < LEAST_ASKED:
        return False
    least = LEAST_SHARE * before
    return new < asked * least - ERRORS * math.sqrt(asked * least * (1 - least))


def _ancestors_share(
    name: str, versions: Mapping[str, ModelState], last: Mapping[str, tuple[int, int]]
) -> float | None:
    """Return the share of new crystals of the nearest ancestor that has sampled, None if there is none."""
    version = versions.get(name)
    parent = version.parent if version else None
    while parent is not None and parent in versions and parent not in last:
        parent = versions[parent].parent
    if parent is None or parent not in last:
        return None
    asked, new = last[parent]
    return new / asked if asked else None
