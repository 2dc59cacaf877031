"""Every screen that can be named in a campaign, and the list that is used when none is given.

A new screen is one function with its options and one line here.
"""

from __future__ import annotations

from campaign.screens.chemistry import CHARGE_NEUTRALITY, COMPOSITION
from campaign.screens.contract import Named, Screen
from campaign.screens.energy import E_ABOVE_HULL, RELAX
from campaign.screens.genes import BEST_TRIAL, WYCKOFF
from campaign.screens.geometry import DENSITY, MIN_DISTANCE, SPACE_GROUP, VOLUME
from campaign.screens.identity import DUPLICATES, NOVELTY
from campaign.screens.judged import PREDICTED_ENERGY, SYNTHESIZABILITY
from campaign.screens.second_opinion import SECOND_OPINION

SCREENS: dict[str, Screen] = {
    screen.kind: screen
    for screen in (
        COMPOSITION,
        MIN_DISTANCE,
        DENSITY,
        VOLUME,
        CHARGE_NEUTRALITY,
        WYCKOFF,
        PREDICTED_ENERGY,
        SYNTHESIZABILITY,
        NOVELTY,
        DUPLICATES,
        RELAX,
        BEST_TRIAL,
        SPACE_GROUP,
        E_ABOVE_HULL,
        SECOND_OPINION,
    )
}
"""Screens by name."""

DEFAULT_SCREEN: tuple[Named, ...] = (
    ("composition", {}),
    ("min_distance", {}),
    ("density", {}),
    ("volume", {}),
    ("charge_neutrality", {"alloys": "metals_and_metalloids"}),
    ("duplicates", {}),
    ("relax", {}),
    ("best_trial", {}),
    ("min_distance", {}),
    ("space_group", {}),
    ("novelty", {}),
    ("duplicates", {}),
    ("e_above_hull", {}),
)
"""Cheap screens first; identity is judged again after relaxation, where different samples may have met."""
