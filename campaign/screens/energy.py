"""Screens that ask the surrogate: relaxation, and energy above the hull of the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from campaign.errors import ReferenceDataError
from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict
from campaign.screens.genes import gene_text


class RelaxOptions(ScreenOptions):
    """Relaxation of all candidates of a chunk together."""

    fix_symmetry: bool | Literal["genes"] = Field(
        "genes",
        description="Keep the space group during relaxation: of all candidates, of none, or of those that were built "
        "from a Wyckoff gene.",
    )
    symprec_ang: float = Field(0.1, gt=0, description="Tolerance for the space groups before and after [Å].")
    relax_cell: bool = Field(True, description="Relax the cell, not only the positions.")
    max_steps: int = Field(200, ge=1, description="Most steps per candidate.")
    fmax_ev_per_ang: float = Field(0.05, gt=0, description="Converged below this force [eV/Å].")
    max_volume_change: float = Field(
        0.5, gt=0, description="Greatest relative change of the volume: 0.5 allows 2/3 to 3/2 of it."
    )
    unconverged: Literal["reject", "keep"] = Field(
        "reject", description="What becomes of candidates that do not converge within max_steps."
    )


class EAboveHullOptions(ScreenOptions):
    """Window of the energy above the reference hull, after the surrogate."""

    max_ev_per_atom: float = Field(0.1, description="Greatest energy above the hull [eV/atom].")
    min_ev_per_atom: float = Field(
        -1.0,
        description="Least energy above the hull [eV/atom]; negative is below it. What lies deeper is more "
        "often an artefact of the surrogate than a discovery.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> EAboveHullOptions:
        if self.min_ev_per_atom >= self.max_ev_per_atom:
            raise ValueError("min_ev_per_atom must be below max_ev_per_atom")
        return self


def _relax(items: Sequence[ScreenItem], options: RelaxOptions, context: ScreenContext) -> list[Verdict]:
    surrogate = context.need_surrogate()
    fixed = [_fixed(item, options) for item in items]
    found: dict[int, Any] = {}
    for fix_symmetry in sorted(set(fixed)):
        places = [place for place, one in enumerate(fixed) if one is fix_symmetry]
        relaxed = surrogate.relax(
            [items[place].structure for place in places],
            fix_symmetry=fix_symmetry,
            max_steps=options.max_steps,
            fmax_ev_per_ang=options.fmax_ev_per_ang,
            relax_cell=options.relax_cell,
            symprec=options.symprec_ang,
        )
        found |= dict(zip(places, relaxed, strict=True))
    version = surrogate.version
    return [_relaxed_verdict(item, found[place], options, version) for place, item in enumerate(items)]


def _fixed(item: ScreenItem, options: RelaxOptions) -> bool:
    if options.fix_symmetry == "genes":
        return gene_text(item.structure) is not None
    return options.fix_symmetry


def _relaxed_verdict(item: ScreenItem, relaxed: Any, options: RelaxOptions, version: str) -> Verdict:
    if relaxed.error is not None:
        return Verdict(False, f"relaxation failed: {relaxed.error}")
    ratio = (relaxed.structure.volume / len(relaxed.structure)) / (
        item.structure.volume / len(item.structure)
    )
    values = {
        "energy_per_atom": float(relaxed.energy_per_atom),
        "max_force_ev_per_ang": float(relaxed.max_force),
        "relax_steps": int(relaxed.n_steps),
        "relax_converged": bool(relaxed.converged),
        # The first relaxation of several tells the space group as it was sampled.
        "spacegroup_before": item.values.get("spacegroup_before", int(relaxed.spacegroup_before)),
        "spacegroup_after": int(relaxed.spacegroup_after),
        "volume_ratio": float(ratio),
        "surrogate": version,
    }
    limit = 1.0 + options.max_volume_change
    reason = ""
    if not math.isfinite(relaxed.energy_per_atom):
        reason = "relaxation failed: its energy is not finite"
        del values["energy_per_atom"]
    elif not 1.0 / limit <= ratio <= limit:
        reason = f"volume changed to {ratio:.2f} of what it was, {1 / limit:.2f} to {limit:.2f} wanted"
    elif not relaxed.converged and options.unconverged == "reject":
        reason = (
            f"not converged after {relaxed.n_steps} steps: largest force {relaxed.max_force:.3f} eV/Å, "
            f"{options.fmax_ev_per_ang:g} wanted"
        )
    # Where a crystal comes from outlives a surrogate that does not tell.
    relaxed.structure.properties = {**item.structure.properties, **relaxed.structure.properties}
    return Verdict(not reason, reason, values, relaxed.structure)


def _e_above_hull(
    items: Sequence[ScreenItem], options: EAboveHullOptions, context: ScreenContext
) -> list[Verdict]:
    surrogate, hull = context.need_surrogate(), context.hull
    energies = np.array([item.values.get("energy_per_atom", math.nan) for item in items], dtype=float)
    unknown = [index for index, energy in enumerate(energies) if not math.isfinite(energy)]
    if unknown:
        energies[unknown] = surrogate.energies([items[index].structure for index in unknown])
    formation = surrogate.formation_energies([item.structure for item in items], energies)
    verdicts = []
    for item, total, energy in zip(items, energies, formation, strict=True):
        if not math.isfinite(energy):
            verdicts.append(Verdict(False, "the surrogate gives no formation energy"))
            continue
        values = {
            "energy_per_atom": float(total),
            "formation_energy_per_atom": float(energy),
            "surrogate": surrogate.version,
        }
        try:
            distance = hull.e_above_hull(item.structure.composition, float(energy))
        except ReferenceDataError as error:
            verdicts.append(Verdict(False, f"error: {error.one_line()}", values))
            continue
        values["e_above_hull"] = distance
        passed = options.min_ev_per_atom <= distance <= options.max_ev_per_atom
        limits = f"{options.min_ev_per_atom:g} to {options.max_ev_per_atom:g}"
        reason = "" if passed else f"{distance:.3f} eV/atom above the hull, {limits} wanted"
        verdicts.append(Verdict(passed, reason, values))
    return verdicts


RELAX = Screen(
    "relax",
    "candidate",
    RelaxOptions,
    _relax,
    "Relaxed with the surrogate, all candidates of a chunk together; replaces the structure.",
    needs_surrogate=True,
    pool="gpu",
)
E_ABOVE_HULL = Screen(
    "e_above_hull",
    "candidate",
    EAboveHullOptions,
    _e_above_hull,
    "Energy above the reference hull within a window, by the surrogate.",
    needs_surrogate=True,
    needs_reference=True,
    pool="gpu",
)
