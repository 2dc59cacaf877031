"""What acquisition reads from the store: candidates that compete or are pending, and labels of rounds that it may know.

Which labels count is said by numbers of rounds alone, so that a choice never depends on what happens to be finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from campaign.acquisition.beliefs import Candidates, SurrogateErrors
from campaign.acquisition.policies import ChoiceContext
from campaign.acquisition.ranking import read
from campaign.acquisition.shares import Yielded
from campaign.acquisition.verdicts import climbed_results
from campaign.config import CampaignConfig
from campaign.documents import CandidateStatus, derive_seed
from campaign.plan import Spec
from campaign.quarantine import quarantined
from campaign.state import CampaignState, alarm_of
from campaign.store import CampaignStore

DRAWN_AGAIN = 0.2
"""Part of the backlog's bound that is drawn from candidates beyond the best."""


@dataclass(frozen=True)
class AcquisitionReader:
    """Reads for one campaign; decides nothing."""

    store: CampaignStore
    config: CampaignConfig
    spec: Spec

    def context(self, index: int) -> ChoiceContext:
        """Return what the choice of a round rests on beside its candidates."""
        return ChoiceContext(
            seed=derive_seed(self.config.seed, "select", index),
            stable_ev_per_atom=self.config.labels.stable_ev_per_atom,
            discriminated_ev_per_atom=self.config.learn.stable_ev_per_atom,
        )

    def competing(self, index: int, state: CampaignState, surrogate_std: SurrogateErrors) -> Candidates:
        """Return the candidates that a round was given to score and that have no label."""
        scored = [name for chunk in state.rounds[index].to_score or () for name in chunk]
        return self._candidates(scored, surrogate_std, unlabelled=True)

    def pending(self, index: int, state: CampaignState, surrogate_std: SurrogateErrors) -> Candidates:
        """Return the candidates chosen earlier whose labels round `index` may not know, finished or not."""
        rounds = [state.rounds[earlier] for earlier in self.spec.pending(index)]
        return self._candidates([name for one in rounds for name in one.selected or ()], surrogate_std)

    def surrogate_pairs(self, index: int) -> list[tuple[str, float, float]]:
        """Return (version, surrogate, DFT) of the labels that round `index` may know about.

        The version is that of the surrogate that relaxed the candidate, '' where it does not learn; the others are
        e_above_hull [eV/atom].
        """
        term = self.spec.term(index)
        found = self.store.query(
            "labels",
            {"purpose": "candidate", "state": "done", "round": self._trusted(term)},
            fields=["predicted", "result.e_above_hull", "round", "rank"],
        )
        higher = climbed_results(self.store, self.spec, term, ["e_above_hull"])
        pairs = []
        for one in sorted(found, key=lambda one: (one["round"], one["rank"])):
            told = one.get("predicted") or {}
            predicted, version = told.get("e_above_hull"), str(told.get("surrogate_model") or "")
            computed = (higher.get(one["_id"]) or one.get("result") or {}).get("e_above_hull")
            if predicted is not None and computed is not None:
                pairs.append((version, float(predicted), float(computed)))
        return pairs

    def yielded(self, term: int) -> list[Yielded]:
        """Return what came of each generator's crystals in the rounds before `term`."""
        limit, rounds = self.config.learn.stable_ev_per_atom, self._trusted(term)
        known = {"purpose": "candidate", "state": "done", "round": rounds}
        higher = climbed_results(self.store, self.spec, term, ["e_above_hull"])
        near = [{"result.e_above_hull": {"$lte": limit}}, {"_id": {"$in": list(higher)}}]
        labels = self.store.query("labels", known | {"$or": near}, fields=["models", "result.e_above_hull"])
        stable = Counter(
            key
            for one in labels
            if higher.get(one["_id"], one["result"])["e_above_hull"] <= limit
            for key in one["models"]
        )
        asked: Counter[str] = Counter()
        for one in self.store.query("rounds", {"index": rounds}, fields=["batches"]):
            for batch in one["batches"].values():
                asked[batch["generator"]] += batch["asked"]
        return [Yielded(asked[key], stable[key]) for key in self.spec.generators]

    def backlog(self, index: int, seed: int) -> list[str]:
        """Return the screened candidates of earlier rounds that compete in round `index`: all, up to a bound.

        Beyond `acquisition.backlog`, most are those with the best scores so far; a part is drawn from the others, so
        that what an older model was blind to gets another look.
        """
        most = self.config.acquisition.backlog
        waiting = {"state": CandidateStatus.SCREENED.value, "round": {"$lt": index}}
        found = self.store.query("candidates", waiting, fields=["_id", "score"])
        ranked = [one["_id"] for one in sorted(found, key=lambda one: (-_score(one), one["_id"]))]
        if len(ranked) <= most:
            return ranked
        drawn = round(most * DRAWN_AGAIN)
        best, rest = ranked[: most - drawn], ranked[most - drawn :]
        places = np.random.default_rng(seed).choice(len(rest), size=drawn, replace=False)
        return best + [rest[place] for place in sorted(places.tolist())]

    def _trusted(self, term: int) -> dict[str, Any]:
        """Return the filter of the rounds whose labels a round of this term may know and trust."""
        rounds = self.store.query("rounds", {"index": {"$lt": term}}, fields=["index", "inspection"])
        held: frozenset[int] = frozenset()
        if not self.config.learn.trust_alarmed:
            held = quarantined({one["index"]: alarm_of(one) or "" for one in rounds}, term)
        return {"$lt": term, "$nin": sorted(held)}

    def _candidates(
        self, names: Iterable[str], surrogate_std: SurrogateErrors, *, unlabelled: bool = False
    ) -> Candidates:
        found = self.store.query(
            "candidates",
            {"_id": {"$in": list(names)}},
            fields=["_id", "formula", "chemsys", "n_atoms", "spacegroup", "predictions", "state"],
        )
        core_seconds = None
        if self.config.acquisition.cost_exponent:
            from campaign.components import label_cost

            core_seconds = label_cost(self.config)
        return read(
            [one for one in found if not unlabelled or one["state"] == CandidateStatus.SCREENED.value],
            self.config.acquisition,
            elements=self.config.chemistry.elements,
            surrogate_std=surrogate_std,
            core_seconds=core_seconds,
        )


def _score(candidate: Mapping[str, Any]) -> float:
    """Return a candidate's last score; one that never had any comes last."""
    score = candidate.get("score")
    return float("-inf") if score is None else float(score)
