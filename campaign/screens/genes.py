"""Screens that look at Wyckoff genes: legality and size, and the best of several trials of one gene.

A generator that builds crystals from genes leaves the gene in `structure.properties["gene"]`, as text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict, one_by_one

if TYPE_CHECKING:
    from pymatgen.core import Structure


class WyckoffOptions(ScreenOptions):
    """Limits of a crystal's Wyckoff gene. Limits that are left out are not applied."""

    max_dof: int | None = Field(
        None, ge=0, description="Most free coordinates of all orbits; the lattice is not counted."
    )
    max_orbits: int | None = Field(None, ge=1, description="Most occupied orbits.")
    max_atoms_conventional: int | None = Field(None, ge=1, description="Most atoms in the conventional cell.")
    spacegroup_kept: bool = Field(
        True,
        description="A crystal built from a gene must still have the gene's space group; after a relaxation, too.",
    )
    symprec_ang: float = Field(0.1, gt=0, description="Tolerance of the symmetry search [Å].")


class BestTrialOptions(ScreenOptions):
    """Of the trials of one gene in one round, the one with the lowest energy by the surrogate."""


def gene_text(structure: Structure) -> str | None:
    """Return the text of the gene that a crystal was built from, None for one that was not."""
    found = structure.properties.get("gene")
    return found if isinstance(found, str) else None


def _wyckoff(item: ScreenItem, options: WyckoffOptions, _context: ScreenContext) -> Verdict:
    from models.genes import WyckoffGene, gene_of

    gene = gene_of(item.structure, options.symprec_ang)
    if gene is None:
        return Verdict(False, "no Wyckoff gene: the symmetry search finds no orbits that fit together")
    values = {"gene": gene.text(), "dof": gene.dof, "n_orbits": gene.n_orbits}
    limits = (
        ("free coordinates", gene.dof, options.max_dof),
        ("orbits", gene.n_orbits, options.max_orbits),
        ("atoms in the conventional cell", gene.atoms_per_conventional_cell, options.max_atoms_conventional),
    )
    for name, found, most in limits:
        if most is not None and found > most:
            return Verdict(False, f"{found} {name}, at most {most} wanted", values)
    text = gene_text(item.structure)
    if text is not None and options.spacegroup_kept:
        built = WyckoffGene.from_text(text).spacegroup
        if built != gene.spacegroup:
            return Verdict(False, f"space group {gene.spacegroup}, its gene has {built}", values)
    return Verdict(True, values=values)


def _best_trial(
    items: Sequence[ScreenItem], _options: BestTrialOptions, context: ScreenContext
) -> list[Verdict]:
    texts = [gene_text(item.structure) for item in items]
    energies = _energies([item for item, text in zip(items, texts, strict=True) if text], context)
    best: dict[str, ScreenItem] = {}
    for item, text in zip(items, texts, strict=True):
        if text is None or not math.isfinite(energies[item.candidate_id]):
            continue
        known = best.get(text)  # of equal energies the first counts
        if known is None or energies[item.candidate_id] < energies[known.candidate_id]:
            best[text] = item
    verdicts = []
    for item, text in zip(items, texts, strict=True):
        winner = None if text is None else best.get(text)
        if text is None or winner is item:
            verdicts.append(Verdict(True))
        elif winner is None or not math.isfinite(energies[item.candidate_id]):
            verdicts.append(Verdict(False, "the surrogate gives no energy"))
        else:
            higher = energies[item.candidate_id] - energies[winner.candidate_id]
            reason = f"{higher:.3f} eV/atom above {winner.candidate_id}, another trial of {text}"
            verdicts.append(Verdict(False, reason, {"best_trial": winner.candidate_id}))
    return verdicts


def _energies(items: Sequence[ScreenItem], context: ScreenContext) -> dict[str, float]:
    """Return the energies [eV/atom] that `relax` has found; those of the others are asked of the surrogate."""
    found = {item.candidate_id: float(item.values.get("energy_per_atom", math.nan)) for item in items}
    unknown = [item for item in items if not math.isfinite(found[item.candidate_id])]
    if unknown:
        energies = context.need_surrogate().energies([item.structure for item in unknown])
        found |= {item.candidate_id: float(one) for item, one in zip(unknown, energies, strict=True)}
    return found


WYCKOFF = Screen(
    "wyckoff",
    "candidate",
    WyckoffOptions,
    one_by_one(_wyckoff),
    "Wyckoff gene legal, recorded and within limits; the space group is still that of the gene it was built from.",
)
BEST_TRIAL = Screen(
    "best_trial",
    "campaign",
    BestTrialOptions,
    _best_trial,
    "Of the round's crystals built from one gene only the one of lowest energy; stands after `relax`.",
    needs_surrogate=True,
)
