"""Which rounds' labels nobody may learn from: a pure count over the alarms of rounds (`campaign.alarms`).

Labels of an alarmed round are kept out of training, gates, shares and the count of stable crystals until the user says
`learn.trust_alarmed: true`, or until `LASTING` rounds in a row were alarmed alike. What lasts is no accident of one
round: either the models are wrong about a new chemistry, and must learn it, or the engine has changed, and then the
gate (`campaign.gating`) refuses what contradicts the reference and the labels that were trusted before.
"""

from __future__ import annotations

from collections.abc import Mapping

LASTING = 3
"""So many rounds alarmed alike in a row are no accident of one round."""


def quarantined(alarms: Mapping[int, str], term: int) -> frozenset[int]:
    """Return the rounds whose labels nobody may learn from, as the rounds before `term` say.

    Args:
        alarms: Round -> kind of its alarm, '' or absent for none.
        term: Rounds from this one on are not known.
    """
    held: set[int] = set()
    run: list[int] = []
    for index in range(term):
        kind = alarms.get(index, "")
        if not kind:
            run = []
            continue
        run = [*run, index] if run and alarms[run[-1]] == kind else [index]
        held.add(index)
        if len(run) >= LASTING:
            held -= set(run)
    return frozenset(held)
