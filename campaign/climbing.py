"""A step of the ladder: reads what it may know, decides (`campaign.acquisition.ladder`), and describes the labels.

The choice is one document of the collection `ladder`, written before any of its labels is; whoever finds it without
them makes them from it. What a label costs is all that may depend on timing, and only with `ladder_costs: measured`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from campaign.acquisition.ladder import Account, choose_climbs
from campaign.acquisition.standing import FIRST, Known, Ladder
from campaign.actions import Climb
from campaign.components import label_cost, rung_costs
from campaign.config import CampaignConfig
from campaign.documents import LabelDocument, LabelStatus, LadderDocument, label_id, now, step_id
from campaign.label_costs import LabelCosts
from campaign.labels_config import label_fields
from campaign.plan import Spec
from campaign.state import CampaignState
from campaign.store import CampaignStore

Document = dict[str, Any]

LARGE = frozenset({"structure", "steps"})
"""Fields of a result that no decision needs."""


@dataclass(frozen=True)
class Climber:
    """Decides steps of one campaign's ladder, and writes nothing."""

    store: CampaignStore
    config: CampaignConfig
    spec: Spec
    settings: Mapping[str, Mapping[str, Any]]
    """Settings of the labels of each rung."""

    def decide(self, action: Climb, state: CampaignState) -> tuple[Document, dict[str, str]]:
        """Return the document of a step; and of conditions that do not fit the values, why not."""
        labels, steps = self.config.labels, list(self.store.query("ladder", sort=[("index", 1)]))
        known = self._known(action, steps)
        costs = self._costs(known)
        ladder = Ladder(labels, known, costs.core_hours)
        fresh = [] if action.last else self._fresh(state.rounds[action.round].selected or (), ladder, costs)
        fresh_core_hours = sum(cost for _, cost in fresh)
        values = [value for value, _ in fresh]
        opened = {rung for one in steps for rung in one["opened"]}
        climbs = choose_climbs(
            ladder.contenders(),
            self._opening(
                [rung.name for rung in labels.ladder if rung.judge and rung.name not in opened], costs
            ),
            Account(
                fresh_core_hours + sum(one["fresh_core_hours"] for one in steps),
                sum(climb["core_hours"] for one in steps for climb in one["climbs"]),
            ),
            price=min(values, default=0.0),
            floor=labels.ladder_floor,
            share=1.0 if action.last else labels.ladder_share,
        )
        document = LadderDocument(
            id=step_id(self.config.name, action.index),
            campaign=self.config.name,
            index=action.index,
            round=action.round,
            last=action.last,
            climbs=[
                {
                    "root": one.contender.root,
                    "rung": one.contender.rung,
                    "label": label_id(one.contender.candidate, self._hash(one.contender.rung)),
                    "rank": place if action.last else sum(value >= one.value for value in values),
                    "stable_probability": one.contender.stable_probability,
                    "value": one.value,
                    "core_hours": one.core_hours,
                }
                for place, one in enumerate(climbs)
            ],
            opened=sorted({one.contender.rung for one in climbs} & ladder.errors.keys() - opened),
            fresh_core_hours=fresh_core_hours,
            price=min(values, default=0.0),
            errors={rung: asdict(error) for rung, error in ladder.errors.items()},
            done_seen=sum(
                one["state"] == LabelStatus.DONE and one["purpose"] != "reference"
                for one in (*known.firsts, *known.rungs.values())
            ),
            created=now(),
        )
        return document.doc(), ladder.odd

    def labels(self, step: Mapping[str, Any]) -> list[Document]:
        """Return the labels of those that climb in a step, each of the structure that the rung below has left."""
        names = [rung.name for rung in self.config.labels.ladder]
        roots = {one["root"]: one for one in step["climbs"]}
        found = {one["_id"]: one for one in self.store.query("labels", {"_id": {"$in": list(roots)}})}
        below = self.store.query(
            "labels", {"parent": {"$in": list(roots)}, "rung": {"$gt": 0}, "state": LabelStatus.DONE.value},
            fields=["parent", "rung", "result.structure"],
        )  # fmt: skip
        structures: dict[str, tuple[int, Document]] = {
            name: (0, one["result"]["structure"]) for name, one in found.items()
        }
        for one in below:
            place = names.index(roots[one["parent"]]["rung"])
            if structures[one["parent"]][0] < one["rung"] <= place:
                structures[one["parent"]] = (one["rung"], one["result"]["structure"])
        return [
            self._label(
                climb["rung"],
                found[climb["root"]],
                purpose="follow_up",
                parent=climb["root"],
                rung=names.index(climb["rung"]) + 1,
                round=step["round"],
                rank=climb["rank"],
                structure=structures[climb["root"]][1],
                judged=not self.config.labels.ladder[names.index(climb["rung"])].judge,
            )
            for climb in step["climbs"]
        ]

    def references(self, step: Mapping[str, Any]) -> list[Document]:
        """Return the references of the rungs that a step opens, each relaxed as far as the first labels' own."""
        found = self._first_references(
            ["candidate_id", "formula", "chemsys", "rank", "structure", "result.structure"]
        )
        return [
            self._label(
                rung,
                one,
                purpose="reference",
                round=-1,
                rank=one["rank"],
                structure=(one.get("result") or {}).get("structure") or one["structure"],
            )
            for rung in step["opened"]
            for one in found
        ]

    def _label(self, step: str, like: Mapping[str, Any], **fields: Any) -> Document:
        settings = dict(self.settings[step])
        return LabelDocument(
            id=label_id(like["candidate_id"], self._hash(step)),
            campaign=self.config.name,
            candidate_id=like["candidate_id"],
            formula=like["formula"],
            chemsys=like["chemsys"],
            step=step,
            flow=settings["flow"],
            engine=settings["engine"],
            settings=settings,
            settings_hash=self._hash(step),
            created=now(),
            **fields,
        ).doc()

    def _hash(self, rung: str) -> str:
        from flows.run import settings_hash

        return settings_hash(dict(self.settings[rung]))

    def _known(self, action: Climb, steps: Iterable[Mapping[str, Any]]) -> Known:
        """Return the labels of the rounds that a step may know; all of them in a last one."""
        term = self.spec.term(action.round)
        fields = ["_id", "candidate_id", "formula", "chemsys", "state", "step", "purpose", "core_hours"]
        fields += ["attempts"]
        fields += [f"result.{name}" for name in sorted(label_fields() - LARGE)]
        ended = {"state": {"$in": [LabelStatus.DONE.value, LabelStatus.FAILED.value]}}
        rounds = {} if action.last else {"round": {"$lt": term}}
        firsts = self.store.query("labels", {"purpose": "candidate", **ended, **rounds}, fields=fields)
        places = {rung.name: place for place, rung in enumerate(self.config.labels.ladder, 1)}
        ids: dict[str, tuple[str, str]] = {}
        climbed: dict[str, int] = {}
        for step in steps:
            for one in step["climbs"]:
                climbed[one["root"]] = max(climbed.get(one["root"], 0), places[one["rung"]])
                if action.last or step["round"] < self.spec.climbed(term):
                    ids[one["label"]] = (one["root"], one["rung"])
        rungs = self.store.query("labels", {"_id": {"$in": list(ids)}, **ended})
        return Known(
            sorted(firsts, key=lambda one: one["candidate_id"]),
            {ids[one["_id"]]: one for one in sorted(rungs, key=lambda one: one["candidate_id"])},
            climbed,
        )

    def _costs(self, known: Known) -> LabelCosts:
        estimates = {FIRST: label_cost(self.config), **rung_costs(self.config)}
        ended = []
        if self.config.labels.ladder_costs == "measured":
            for one in (*known.firsts, *known.rungs.values()):
                if one["attempts"]:  # a label whose flow cannot be built has none
                    ended.append({**one, "n_atoms": one["attempts"][0]["n_atoms"]})
        return LabelCosts.of(self.config, estimates, ended)

    def _fresh(self, selected: Iterable[str], ladder: Ladder, costs: LabelCosts) -> list[tuple[float, float]]:
        """Return value and core-hours of the first labels that a round has chosen."""
        found = self.store.query(
            "candidates", {"_id": {"$in": list(selected)}},
            fields=["n_atoms", "chemsys", "predictions.belief_e_above_hull"],
        )  # fmt: skip
        fresh = []
        for one in sorted(found, key=lambda one: one["_id"]):
            belief = one["predictions"]["belief_e_above_hull"]
            cost = costs.core_hours(FIRST, one["n_atoms"], one["chemsys"])
            fresh.append((ladder.fresh_value(belief["mean"], belief["std"], cost), cost))
        return fresh

    def _opening(self, rungs: Iterable[str], costs: LabelCosts) -> dict[str, float]:
        """Return the core-hours of the references of each rung."""
        found = self._first_references(["chemsys", "result.n_atoms"])
        sizes = [(one["result"]["n_atoms"], one["chemsys"]) for one in found if one.get("result")]
        return {rung: sum(costs.core_hours(rung, *size) for size in sizes) for rung in rungs}

    def _first_references(self, fields: list[str]) -> list[Document]:
        found = self.store.query("labels", {"purpose": "reference", "step": None}, fields=["_id", *fields])
        return sorted(found, key=lambda one: one["_id"])
