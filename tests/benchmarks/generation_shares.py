"""Shares of generated crystals that pass each test, over everything that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from campaign.screens.contract import ScreenContext
    from models.surrogates.base import Relaxed

SYMPRECS = (0.1, 0.01)
"""Tolerances of space groups [Å]."""
STABLE_EV_PER_ATOM = (0.0, 0.1)
"""Stable, and nearly so: at most this far above the hull."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """Crystals of one generator: which pass which test."""

    asked: int
    made: dict[str, Flags]
    """Test -> (n_made,)."""
    relaxed: dict[str, Flags] = field(default_factory=dict)
    """Test -> (n_relaxed,); a random part of what was made."""


def shares(judged: Judged) -> dict[str, float]:
    """Return test -> share of everything asked for.

    What was asked for and not made fails every test. Tests after relaxation are known of a random part; their share
    among these stands for all that was made.
    """
    n_made = max((len(flags) for flags in judged.made.values()), default=0)
    delivered = n_made / judged.asked
    found = {test: float(flags.sum()) / judged.asked for test, flags in judged.made.items()}
    return found | {
        test: delivered * float(flags.mean()) if len(flags) else 0.0 for test, flags in judged.relaxed.items()
    }


def all_of(flags: Mapping[str, Flags], *tests: str) -> Flags:
    """Return which crystals pass all of some tests."""
    return np.logical_and.reduce([flags[test] for test in tests])


def as_built(structures: Sequence[Structure], context: ScreenContext) -> dict[str, Flags]:
    """Judge crystals as they come from a generator."""
    wanted = np.array([structure.properties.get("spacegroup", -1) for structure in structures], dtype=int)
    found = {"made": np.ones(len(structures), dtype=bool)}
    if (wanted > 0).any():
        for symprec in SYMPRECS:
            found[f"has its gene's space group at {symprec} Å"] = groups(structures, symprec) == wanted
    for test, kind in (
        ("atoms far enough apart", "min_distance"),
        ("charge neutral", "charge_neutrality"),
        ("unique", "duplicates"),
        ("novel", "novelty"),
    ):
        found[test] = passed(structures, kind, context)
    found["neutral, unique and novel"] = all_of(found, "charge neutral", "unique", "novel")
    return found


def after_relaxation(
    before: Sequence[Structure], relaxed: Sequence[Relaxed], context: ScreenContext
) -> dict[str, Flags]:
    """Judge crystals after a relaxation; one that fails or does not converge passes no test."""
    structures = [one.structure for one in relaxed]
    done = np.array([one.error is None and one.converged for one in relaxed], dtype=bool)
    found = {"converged": done}
    for symprec in SYMPRECS:
        wanted = np.array([s.properties.get("spacegroup", -1) for s in before], dtype=int)
        wanted = np.where(wanted > 0, wanted, groups(before, symprec))
        found[f"space group as before at {symprec} Å"] = done & (groups(structures, symprec) == wanted)
    above = energies_above_hull(relaxed, context)
    unique, novel = passed(structures, "duplicates", context), passed(structures, "novelty", context)
    for limit in STABLE_EV_PER_ATOM:
        stable = found[f"at most {limit} eV/atom above the hull"] = done & (above <= limit)
        found[f"the same, unique and novel (S.U.N. at {limit})"] = stable & unique & novel
    return found


def placed(flags: Flags, among: Flags) -> Flags:
    """Return flags (n,) of all, from those (n_among,) of the ones that `among` (n,) names; the others fail."""
    found = np.zeros(len(among), dtype=bool)
    found[among] = flags
    return found


def groups(structures: Sequence[Structure], symprec: float) -> npt.NDArray[np.int64]:
    """Return space groups (n,), 0 where spglib finds none."""
    from models.symmetrise import spacegroup_number

    return np.array(
        [
            spacegroup_number(s.lattice.matrix, s.frac_coords, np.array(s.atomic_numbers), symprec)
            for s in structures
        ],
        dtype=np.int64,
    )


def passed(structures: Sequence[Structure], kind: str, context: ScreenContext) -> Flags:
    """Return which crystals (n,) a screen of the campaign lets through, with its default options."""
    return np.array([outcome.passed for outcome in _screened(structures, kind, {}, context)], dtype=bool)


def energies_above_hull(relaxed: Sequence[Relaxed], context: ScreenContext) -> npt.NDArray[np.float64]:
    """Return energies above the reference's hull (n,) [eV/atom] by the surrogate, nan where there is none."""
    wide: dict[str, Any] = {"max_ev_per_atom": 1e6, "min_ev_per_atom": -1e6}
    values = [{"energy_per_atom": float(one.energy_per_atom)} for one in relaxed]
    outcomes = _screened([one.structure for one in relaxed], "e_above_hull", wide, context, values)
    return np.array([outcome.values.get("e_above_hull", np.nan) for outcome in outcomes], dtype=float)


def _screened(
    structures: Sequence[Structure],
    kind: str,
    options: dict[str, Any],
    context: ScreenContext,
    values: Sequence[dict[str, Any]] | None = None,
) -> Sequence[Any]:
    from campaign.screens.contract import ScreenItem
    from campaign.screens.funnel import run_segment

    known = values or [{} for _ in structures]
    items = [
        ScreenItem(f"{place:06d}", structure, known[place]) for place, structure in enumerate(structures)
    ]
    return run_segment(items, [(kind, options)], context)


def screening_context(folder: Path) -> ScreenContext:
    """Return reference crystals, hull and surrogate for the screens.

    Args:
        folder: Of mp_train.parquet and hull_reference.parquet.
    """
    from campaign.references.catalogue import read_reference
    from campaign.screens.contract import ScreenContext
    from models.surrogates.chgnet import CHGNetSurrogate

    reference = read_reference(["mp_train.parquet"], base_dir=folder, hull_sources=["hull_reference.parquet"])
    return ScreenContext(reference=reference, surrogate=CHGNetSurrogate())
