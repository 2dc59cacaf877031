"""The crystals of one formula in the order of their energies: what a structure prediction has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from campaign.store import CampaignStore
from campaign.views.status import gene_of, spacegroup_of

PASSED = ("screened", "selected", "labelling", "labelled", "failed")
"""States of candidates that passed every screen."""


def ranking_rows(store: CampaignStore) -> list[dict[str, Any]]:
    """Return one row per candidate that passed the screens, the lowest energy first.

    Those that the engine has computed stand before the others, by its energies; the others follow by the surrogate's.
    Energies are absolute [eV/atom], of two scales.
    """
    fields = ["_id", "label_id", "formula", "predictions", "spacegroup", "structure.properties"]
    labels = {
        one["_id"]: one.get("result") or {}
        for one in store.query(
            "labels",
            {"purpose": "candidate", "state": "done"},
            fields=["_id", "result.energy_per_atom", "result.spacegroup_after"],
        )
    }
    rows = []
    for one in store.query("candidates", {"state": {"$in": list(PASSED)}}, fields=fields):
        result = labels.get(one.get("label_id") or "", {})
        predictions = one.get("predictions") or {}
        rows.append(
            {
                "candidate_id": one["_id"],
                "formula": one["formula"],
                "spacegroup": result.get("spacegroup_after") or spacegroup_of(one),
                "gene": gene_of(one),
                "energy_per_atom": result.get("energy_per_atom"),
                "surrogate_energy_per_atom": predictions.get("energy_per_atom"),
                "matches_reference": predictions.get("matches_reference"),
            }
        )
    return sorted(rows, key=_height)


def _height(row: Mapping[str, Any]) -> tuple[bool, float, bool, float, str]:
    computed, foretold = row["energy_per_atom"], row["surrogate_energy_per_atom"]
    return (computed is None, computed or 0.0, foretold is None, foretold or 0.0, row["candidate_id"])


def ranking_table(rows: Sequence[Mapping[str, Any]], engine: str, *, most: int = 12) -> Table:
    """Return the table of the lowest crystals; energies in meV/atom above the lowest of their column."""
    shown = min(most, len(rows))
    title = f"lowest {shown} of {len(rows)} crystals [meV/atom above the lowest]"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in ("", engine, "surrogate"):
        table.add_column(heading, justify="right")
    table.add_column("space group", no_wrap=True)
    table.add_column("Wyckoff gene", overflow="fold")
    table.add_column("known as", overflow="fold")
    lowest = {
        key: min((row[key] for row in rows if row[key] is not None), default=0.0)
        for key in ("energy_per_atom", "surrogate_energy_per_atom")
    }
    for place, row in enumerate(rows[:most], start=1):
        heights = ["–" if row[key] is None else f"{1000 * (row[key] - lowest[key]):.0f}" for key in lowest]
        words = [_group(row["spacegroup"]), row["gene"] or "–", row["matches_reference"] or "new"]
        table.add_row(str(place), *heights, *map(Text, words), style="bold green" if place == 1 else "")
    return table


def _group(number: int | None) -> str:
    if number is None:
        return "–"
    from pymatgen.symmetry.groups import sg_symbol_from_int_number

    return f"{sg_symbol_from_int_number(number)} ({number})"
