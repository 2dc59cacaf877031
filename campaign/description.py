"""What a candidate's document says of its structure: id, bucket, formula, chemical system, space group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from campaign.fingerprint import bucket, candidate_id

if TYPE_CHECKING:
    from pymatgen.core import Structure

SYMPREC_ANG = 0.1
"""Tolerance of the recorded space group [Å]; the Materials Project's own setting."""


def describe(structure: Structure) -> dict[str, Any] | None:
    """Return the descriptive fields of a candidate, or None if it is no crystal at all.

    A generator may return anything; what cannot be described (a flat cell, coinciding atoms) is dropped here
    and shows as the difference between `returned` and `asked` in its round.
    """
    try:
        return {
            "id": candidate_id(structure),
            "bucket": bucket(structure),
            "formula": structure.composition.reduced_formula,
            "chemsys": structure.chemical_system,
            "n_atoms": len(structure),
            "spacegroup": space_group(structure),
        }
    except (ValueError, ZeroDivisionError, ArithmeticError, TypeError):
        return None


def space_group(structure: Structure, symprec: float = SYMPREC_ANG) -> int:
    """Return the space group number, 0 where spglib finds none."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        return int(SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number())
    except (SymmetryUndeterminedError, TypeError, ValueError):
        return 0
