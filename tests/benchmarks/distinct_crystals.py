"""Energies put in order over distinct crystals: at which place the known one is found. Decides only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """Where a crystal stands among others."""

    rank: int
    """One more than the number of distinct crystals of lower energy."""
    place: int
    """Index of the first crystal that is the same, by energy, in the list as it was given."""


@dataclass(frozen=True)
class Distinct(Generic[T]):
    """Crystals by energy, each once."""

    places: tuple[int, ...]
    """Index of the lowest of each, in the list as it was given."""

    def found(
        self, crystals: Sequence[T], energies: Sequence[float], is_wanted: Callable[[T], bool]
    ) -> Found | None:
        """Return where the lowest crystal stands that is the wanted one; None if there is none."""
        for place in by_energy(energies):
            if is_wanted(crystals[place]):
                below = sum(energies[other] < energies[place] for other in self.places)
                return Found(below + 1, place)
        return None


def by_energy(energies: Sequence[float]) -> list[int]:
    """Return indices, the lowest energy first; what has none is left out."""
    known = [place for place, energy in enumerate(energies) if energy == energy]  # noqa: PLR0124 - nan
    return sorted(known, key=lambda place: (energies[place], place))


def distinct(
    crystals: Sequence[T], energies: Sequence[float], same: Callable[[T, T], bool], most: int | None = None
) -> Distinct[T]:
    """Return the crystals that equal none of lower energy.

    Args:
        crystals: Any order.
        energies: (n,) [eV/atom]; nan for what has none.
        same: Whether two are the same crystal.
        most: So many are enough.
    """
    kept: list[int] = []
    for place in by_energy(energies):
        if most is not None and len(kept) >= most:
            break
        if not any(same(crystals[place], crystals[other]) for other in kept):
            kept.append(place)
    return Distinct(tuple(kept))
