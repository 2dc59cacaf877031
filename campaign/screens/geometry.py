"""Screens that look at a crystal's geometry: distances, density, volume, symmetry."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict, one_by_one

if TYPE_CHECKING:
    from pymatgen.core import Structure

_DEFAULT_RADIUS_ANG = 1.5
"""For the few elements without a tabulated covalent radius."""

_AMU_PER_ANG3_IN_G_PER_CM3 = 1.66053906660
"""1 atomic mass unit per cubic ångström [g/cm^3] (CODATA 2018)."""


class MinDistanceOptions(ScreenOptions):
    """No two atoms closer than this; periodic images included.

    Of 2,500 Materials Project crystals the closest pair of any is at 0.67 of the sum of covalent radii.
    """

    fraction_of_radii: float = Field(
        0.6, ge=0, le=1, description="Least distance as a fraction of the sum of the two covalent radii."
    )
    floor_ang: float = Field(
        0.7, ge=0, description="Least distance of any two atoms [Å], whatever their radii."
    )


class DensityOptions(ScreenOptions):
    """Mass density within what solids show."""

    min_g_per_cm3: float = Field(0.1, ge=0, description="Least density [g/cm^3].")
    max_g_per_cm3: float = Field(30.0, gt=0, description="Greatest density [g/cm^3]; osmium has 22.6.")


class VolumeOptions(ScreenOptions):
    """Cell volume against the volume of its atoms, taken as balls of their covalent radii.

    Of 2,500 Materials Project crystals all but solid helium lie between 0.71 and 22; half of them below 1.6.
    """

    min_ratio: float = Field(0.6, gt=0, description="Least ratio of cell volume to the atoms' volume.")
    max_ratio: float = Field(25.0, gt=0, description="Greatest ratio of cell volume to the atoms' volume.")


class SpaceGroupOptions(ScreenOptions):
    """Space group recorded, and kept through relaxation or at least this high where wanted."""

    mode: Literal["any", "kept"] = Field(
        "any", description="kept: the relaxation must not have changed the space group; any: only record it."
    )
    symprec_ang: float = Field(0.1, gt=0, description="Tolerance of the symmetry search [Å].")
    min_number: int = Field(
        1, ge=1, le=230, description="Least international number: 2 leaves out P1, 75 starts at tetragonal."
    )


def radii_ang(structure: Structure) -> np.ndarray:
    """Return covalent radii (n_atoms,) [Å] (Cordero et al., Dalton Trans. 2008, 2832; from pymatgen)."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius

    table = CovalentRadius.radius
    return np.array([table.get(site.specie.symbol, _DEFAULT_RADIUS_ANG) for site in structure])


def closest_pair(structure: Structure, reach_ang: float = 3.0) -> tuple[float, float]:
    """Return the least interatomic distance [Å] and the least ratio of a distance to its sum of radii.

    Both over all pairs, an atom and its own periodic images included. Exact for distances below `reach_ang`
    and ratios below 1; above that they are too high, and infinite where no pair is in reach.

    Args:
        structure: Any crystal.
        reach_ang: Pairs are looked for up to this distance [Å], and farther where the radii touch farther.
    """
    radii = radii_ang(structure)
    reach = max(reach_ang, 2.0 * float(radii.max()))
    centres, points, _, distances = structure.get_neighbor_list(reach, exclude_self=True)
    if not len(distances):
        return math.inf, math.inf
    ratios = distances / (radii[centres] + radii[points])
    return float(distances.min()), float(ratios.min())


def _min_distance(item: ScreenItem, options: MinDistanceOptions, _context: ScreenContext) -> Verdict:
    distance, ratio = closest_pair(item.structure, max(3.0, options.floor_ang))
    values = {"min_distance_ang": distance} if math.isfinite(distance) else {}
    if distance < options.floor_ang:
        reason = f"two atoms {distance:.2f} Å apart, at least {options.floor_ang:g} Å wanted"
        return Verdict(False, reason, values)
    if ratio < options.fraction_of_radii:
        reason = f"a distance of {ratio:.2f} of the radii, at least {options.fraction_of_radii:g} wanted"
        return Verdict(False, reason, values)
    return Verdict(True, values=values)


def _density(item: ScreenItem, options: DensityOptions, _context: ScreenContext) -> Verdict:
    mass = sum(float(site.specie.atomic_mass) for site in item.structure)
    density = mass / item.structure.volume * _AMU_PER_ANG3_IN_G_PER_CM3
    passed = options.min_g_per_cm3 <= density <= options.max_g_per_cm3
    limits = f"{options.min_g_per_cm3:g} to {options.max_g_per_cm3:g}"
    reason = "" if passed else f"density {density:.2f} g/cm^3, {limits} wanted"
    return Verdict(passed, reason, {"density_g_per_cm3": density})


def _volume(item: ScreenItem, options: VolumeOptions, _context: ScreenContext) -> Verdict:
    balls = float((4.0 / 3.0 * math.pi * radii_ang(item.structure) ** 3).sum())
    ratio = item.structure.volume / balls
    passed = options.min_ratio <= ratio <= options.max_ratio
    limits = f"{options.min_ratio:g} to {options.max_ratio:g}"
    reason = "" if passed else f"volume {ratio:.2f} times that of its atoms, {limits} wanted"
    return Verdict(passed, reason, {"volume_per_atom_ang3": item.structure.volume / len(item.structure)})


def _space_group(item: ScreenItem, options: SpaceGroupOptions, _context: ScreenContext) -> Verdict:
    from campaign.references.fingerprint import space_group

    number = space_group(item.structure, options.symprec_ang)
    values = {"spacegroup": number}
    before = item.values.get("spacegroup_before")  # written by `relax`; nothing has changed it before that
    if options.mode == "kept" and before is not None and number != before:
        return Verdict(False, f"space group {before} became {number}", values)
    if number < options.min_number:
        return Verdict(False, f"space group {number}, at least {options.min_number} wanted", values)
    return Verdict(True, values=values)


MIN_DISTANCE = Screen(
    "min_distance", "candidate", MinDistanceOptions, one_by_one(_min_distance), "No two atoms too close."
)
DENSITY = Screen("density", "candidate", DensityOptions, one_by_one(_density), "Mass density of a solid.")
VOLUME = Screen(
    "volume",
    "candidate",
    VolumeOptions,
    one_by_one(_volume),
    "Cell volume that suits the sizes of its atoms.",
)
SPACE_GROUP = Screen(
    "space_group",
    "candidate",
    SpaceGroupOptions,
    one_by_one(_space_group),
    "Space group recorded; kept through relaxation where asked for.",
)
