"""A screen that asks another universal potential: where the two disagree, at least one of them is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict


class SecondOpinionOptions(ScreenOptions):
    """How far two potentials may be apart on the formation energy of a crystal as it is."""

    surrogate: str = Field("sevennet", min_length=1, description="The other potential, by its name or path.")
    options: dict[str, Any] = Field(default_factory=dict, description="Its own options.")
    max_difference_ev_per_atom: float = Field(
        0.1, gt=0, description="Greatest difference of formation energies, and so of e_above_hull [eV/atom]."
    )
    disagreement: Literal["reject", "flag"] = Field(
        "reject",
        description="What becomes of candidates on which they disagree; flag keeps them, with the difference.",
    )


def _second_opinion(
    items: Sequence[ScreenItem], options: SecondOpinionOptions, context: ScreenContext
) -> list[Verdict]:
    first, second = context.need_surrogate(), context.another_surrogate(options.surrogate, options.options)
    structures = [item.structure for item in items]
    known = [item.values.get("energy_per_atom") for item in items]
    if any(one is None for one in known):
        known = first.energies(structures).tolist()
    mine = first.formation_energies(structures, [float(one) for one in known if one is not None])
    theirs = second.formation_energies(structures)
    version = second.version
    return [
        _verdict(float(one), float(other), version, options) for one, other in zip(mine, theirs, strict=True)
    ]


def _verdict(mine: float, theirs: float, version: str, options: SecondOpinionOptions) -> Verdict:
    values: dict[str, Any] = {"second_surrogate": version}
    difference = theirs - mine
    if not math.isfinite(difference):
        # an element without a reference, say: nobody has spoken against the crystal
        return Verdict(True, values={**values, "second_opinion_agrees": None})
    agrees = abs(difference) <= options.max_difference_ev_per_atom
    values |= {
        "second_formation_energy_per_atom": theirs,
        "second_opinion_difference": difference,
        "second_opinion_agrees": agrees,
    }
    if agrees or options.disagreement == "flag":
        return Verdict(True, values=values)
    reason = (
        f"the second potential puts it {difference:+.3f} eV/atom from the first, at most "
        f"{options.max_difference_ev_per_atom:g} wanted"
    )
    return Verdict(False, reason, values)


SECOND_OPINION = Screen(
    "second_opinion",
    "candidate",
    SecondOpinionOptions,
    _second_opinion,
    "Another universal potential agrees on the formation energy within a limit.",
    needs_surrogate=True,
    pool="gpu",
)
