"""What a generator's samples are like, on a worker: numbers that `campaign.gating` compares with its parent's.

Part of the door to `models` (see `campaign.tasks`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ASKED = 64
"""Crystals that a generator makes before and after fine-tuning."""


def sample_figures(generator: Any, task: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of `campaign.gating.SHARES` and `VARIETY` for a fixed number asked, with the task's seed.

    Args:
        generator: A fitted generator.
        task: A training task: `conditions`, `seed`, `reference`, `exclude`, `labelled`.
    """
    from campaign.references.catalogue import load_prepared
    from campaign.references.fingerprint import describe
    from campaign.screens.identity import known_of
    from models.data import Conditions

    reference = load_prepared(Path(task["reference"]), task["exclude"])
    made = generator.sample(ASKED, Conditions.of(task["conditions"]), task["seed"])
    crystals = [(described, one) for one in made if (described := describe(one)) is not None]
    distinct = {described["id"]: (described, one) for described, one in crystals}
    novel = [
        one
        for described, one in distinct.values()
        if known_of(reference, described["bucket"]).match(one) is None
    ]
    labelled = {one["candidate_id"] for one in task["labelled"]}
    return {
        "returned": float(len(crystals)),
        "distinct": float(len(distinct)),
        "novel": float(len(novel)),
        "unlabelled": float(len(distinct.keys() - labelled)),
        "formulas": _effective(described["formula"] for described, _ in crystals),
        "spacegroups": _effective(described["spacegroup"] for described, _ in crystals),
    }


def _effective(kinds: Any) -> float:
    from campaign.gating import effective_number

    return round(effective_number(Counter(kinds)), 3)
