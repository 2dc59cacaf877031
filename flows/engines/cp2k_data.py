"""CP2K's tables of basis sets and pseudopotentials: which element has which, found in their files by name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ENTRY = re.compile(r"^\s*([A-Z][a-z]?)\s+([A-Za-z][\w-]*(?:[ \t]+[A-Za-z][\w-]*)*)\s*$", re.MULTILINE)
"""First line of an entry: an element, then all names of the entry."""


class Kind(NamedTuple):
    """What CP2K computes an element with."""

    basis: str
    """Full name of the basis set."""
    potential: str
    """Full name of the pseudopotential."""
    valence: int
    """Electrons that it leaves."""


def kinds_in(folder: Path, bases: Iterable[str], potentials: str, basis: str, family: str) -> dict[str, Kind]:
    """Return the elements that have a basis set, and a pseudopotential of as many electrons.

    Args:
        folder: CP2K's data.
        bases: Names of files with basis sets; the first one that has an element decides.
        potentials: Name of the file with pseudopotentials.
        basis: Name without its end -q4: `DZVP-MOLOPT-SR-GTH`.
        family: Name of the pseudopotentials without that end: `GTH-PBE`.

    Returns:
        Nothing where the files are not.
    """
    known = {(element, name) for element, names in _entries(folder / potentials) for name in names}
    found: dict[str, Kind] = {}
    for name in bases:
        ranked: list[tuple[bool, int, str, str]] = []
        for element, names in _entries(folder / name):
            full = next((one for one in names if re.fullmatch(rf"{re.escape(basis)}-q\d+", one)), None)
            if full:
                ranked.append((basis not in names, -int(full.rpartition("-q")[2]), element, full))
        # what bears the plain name too is the usual choice; else the one with the most electrons
        for _, minus_valence, element, full in sorted(ranked):
            potential = f"{family}-q{-minus_valence}"
            if element not in found and (element, potential) in known:
                found[element] = Kind(full, potential, -minus_valence)
    return found


@lru_cache(maxsize=8)
def _entries(path: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return element and names of each entry of a file; none where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple((match[1], tuple(match[2].split())) for match in ENTRY.finditer(text))
