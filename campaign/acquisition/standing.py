"""Where candidates stand on the ladder: from documents of labels to those that wait for a rung. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from campaign.acquisition.ladder import (
    Contender,
    RungError,
    done_probability,
    learned_error,
    stable_probability,
)
from campaign.documents import LabelStatus
from campaign.follow_ups import known_fields
from campaign.labels_config import LabelsConfig, RungConfig

FIRST = "first"
"""Stands where rungs have their name."""

CoreHours = Callable[[str, int, str], float]
"""Rung or `FIRST`, number of atoms, chemical system -> expected core-hours of a label."""

Label = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """Labels whose outcome a step of the ladder may know."""

    firsts: Sequence[Label]
    """First labels of candidates that have ended."""
    rungs: Mapping[tuple[str, str], Label]
    """(id of the first label, rung) -> its label, ended."""
    climbed: Mapping[str, int]
    """Id of a first label -> place of the highest rung that was decided for it, known or not; from 1."""


@dataclass
class Ladder:
    """The rungs of a campaign, and what is known of them."""

    labels: LabelsConfig
    known: Known
    core_hours: CoreHours
    odd: dict[str, str] = field(default_factory=dict)
    """Rung -> why its condition does not fit the values of some label."""

    def __post_init__(self) -> None:
        self.errors = {rung.name: self._error(rung) for rung in self.labels.ladder if rung.judge}
        self._counts = Counter((rung, str(one["state"])) for (_, rung), one in self.known.rungs.items())
        self._counts.update((FIRST, str(one["state"])) for one in self.known.firsts)

    def done_probability(self, rung: str) -> float:
        """Return the probability that a label of a rung, or a first one, will not fail."""
        done, failed = (self._counts[rung, state.value] for state in (LabelStatus.DONE, LabelStatus.FAILED))
        return done_probability(done, failed)

    def fresh_value(self, mean: float, std: float, core_hours: float) -> float:
        """Return the value of the first label of a candidate of which this is believed, see `ladder`."""
        chance = self._stable(mean, 0, std)
        return chance * self.done_probability(FIRST) / core_hours

    def contenders(self) -> list[Contender]:
        """Return the candidates that wait for a rung whose condition holds."""
        return list(self._waiting())

    def _waiting(self) -> Iterator[Contender]:
        rungs = self.labels.ladder
        for first in self.known.firsts:
            place = self.known.climbed.get(first["_id"], 0)
            family = [self.known.rungs.get((first["_id"], rung.name)) for rung in rungs[:place]]
            below = [one for one in family if one is not None and one["state"] == LabelStatus.DONE]
            if place == len(rungs) or first["state"] != LabelStatus.DONE or len(below) < place:
                continue
            rung = rungs[place]
            if not self._holds(rung, first, below):
                continue
            chance = self._standing(first, below)
            gain = rung.worth * self.done_probability(rung.name) * chance
            cost = self.core_hours(rung.name, first["result"]["n_atoms"], first["chemsys"])
            yield Contender(first["candidate_id"], first["_id"], rung.name, chance, gain, cost)

    def _holds(self, rung: RungConfig, first: Label, below: Sequence[Label]) -> bool:
        from flows.conditions import parse_condition
        from flows.errors import ConditionError

        try:
            return not rung.when or bool(parse_condition(rung.when).holds(known_fields(first, below)))
        except ConditionError as error:
            self.odd[rung.name] = error.one_line()
            return False

    def _standing(self, first: Label, below: Sequence[Label]) -> float:
        """Return the probability that a candidate is stable; of one without a hull nothing is expected."""
        found = [
            (place, label["result"]["e_above_hull"])
            for place, label in enumerate([first, *below])
            if label["result"].get("e_above_hull") is not None
        ]
        return self._stable(found[-1][1], found[-1][0]) if found else 0.0

    def _stable(self, e_above_hull: float, place: int, std: float = 0.0) -> float:
        errors = [self.errors[rung.name] for rung in self.labels.ladder[place:] if rung.judge]
        return stable_probability(e_above_hull, errors, self.labels.stable_ev_per_atom, std)

    def _error(self, rung: RungConfig) -> RungError:
        """Return what is known of a judged rung from those that were judged on it and below it."""
        rungs = self.labels.ladder
        lower = [one.name for one in rungs[: rungs.index(rung)] if one.judge]
        pairs = []
        for first in self.known.firsts:
            under: Label | None = self.known.rungs.get((first["_id"], lower[-1])) if lower else first
            on = self.known.rungs.get((first["_id"], rung.name))
            below, above = (((one or {}).get("result") or {}).get("e_above_hull") for one in (under, on))
            if below is not None and above is not None:
                pairs.append((float(below), float(above)))
        return learned_error(pairs, rung.error_ev_per_atom)
