"""Screens that compare crystals: with the reference, and with one another."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from campaign.references.entries import ReferenceSet
from campaign.references.fingerprint import bucket, candidate_id, reduced, same_reduced
from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict, one_by_one

if TYPE_CHECKING:
    from pymatgen.core import Structure


class NoveltyOptions(ScreenOptions):
    """Not among the reference crystals."""

    keep_known: bool = Field(
        False,
        description="Let known crystals pass and only record which one they match in matches_reference.",
    )


class DuplicatesOptions(ScreenOptions):
    """Each crystal once; the one made first is kept."""

    against_earlier: bool = Field(
        True,
        description="Also compare with accepted candidates of earlier rounds, not only within the round.",
    )


class _Known:
    """Distinct crystals of one composition with their ids; equal fingerprints are found without matching."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._by_size: dict[int, list[tuple[str, Structure]]] = {}

    def match(self, structure: Structure) -> str | None:
        """Return the name of the crystal that is the same as this one, or None."""
        found = self._ids.get(candidate_id(structure))
        if found is not None:
            return found
        small = reduced(structure)
        candidates = self._by_size.get(len(small), ())
        return next((name for name, other in candidates if same_reduced(small, other)), None)

    def add(self, name: str, structure: Structure) -> None:
        """Remember a crystal; of two with one fingerprint the first counts."""
        fingerprint = candidate_id(structure)
        if fingerprint in self._ids:
            return
        self._ids[fingerprint] = name
        small = reduced(structure)
        self._by_size.setdefault(len(small), []).append((name, small))


@functools.lru_cache(maxsize=4096)
def known_of(reference: ReferenceSet, composition: str) -> _Known:
    """Return the reference crystals of one composition, prepared for matching; kept per process."""
    known = _Known()
    for entry in reference.in_bucket(composition):
        if entry.structure is not None:
            known.add(entry.entry_id, entry.structure)
    return known


def _novelty(item: ScreenItem, options: NoveltyOptions, context: ScreenContext) -> Verdict:
    known = known_of(context.need_reference(), bucket(item.structure))
    match = known.match(item.structure)
    values = {"novel": match is None}
    if match is None:
        return Verdict(True, values=values)
    return Verdict(
        options.keep_known,
        "" if options.keep_known else f"same as reference {match}",
        {**values, "matches_reference": match},
    )


def _duplicates(
    items: Sequence[ScreenItem], options: DuplicatesOptions, context: ScreenContext
) -> list[Verdict]:
    known: dict[str, _Known] = {}
    if options.against_earlier:
        wanted = {bucket(item.structure) for item in items}
        for earlier in context.earlier.values():
            for name, structure in earlier:
                # The bucket is asked again: the caller may have used any other grouping.
                key = bucket(structure)
                if key in wanted:
                    known.setdefault(key, _Known()).add(name, structure)
    verdicts = []
    for item in items:
        ones = known.setdefault(bucket(item.structure), _Known())
        try:
            match = ones.match(item.structure)
            if match is None or match == item.candidate_id:
                ones.add(item.candidate_id, item.structure)
                verdicts.append(Verdict(True))
            else:
                verdicts.append(Verdict(False, f"same as {match}", {"duplicate_of": match}))
        except Exception as error:  # one odd crystal must not end the comparison of all the others
            reason = f"error: {type(error).__name__}: {' '.join(str(error).split())}"
            verdicts.append(Verdict(False, reason[:500]))
    return verdicts


NOVELTY = Screen(
    "novelty",
    "candidate",
    NoveltyOptions,
    one_by_one(_novelty),
    "Not among the reference crystals (StructureMatcher within one composition).",
    needs_reference=True,
)
DUPLICATES = Screen(
    "duplicates",
    "campaign",
    DuplicatesOptions,
    _duplicates,
    "Not made before in this campaign (fingerprint, then StructureMatcher); the first one is kept.",
)
