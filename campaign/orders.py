"""From an action to the document that a worker gets: reads the store, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign import tasks
from campaign.acquisition.verdicts import climbed_results
from campaign.actions import Action, BuildLabel, RunJob, Sample, Score, Screen, Train
from campaign.config import CampaignConfig
from campaign.documents import LabelStatus, derive_seed, now
from campaign.failures import allowance, causes_of, cures_for
from campaign.plan import Spec
from campaign.run_folder import RunFolder
from campaign.state import CampaignState, ModelState
from campaign.store import CampaignStore
from flows.cures import Cure

Order = tuple[Callable[[dict[str, Any]], dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class ModelRole:
    """What a model key stands for."""

    key: str
    role: str
    """`generator`, `head`, `discriminator`, or `surrogate` if it learns."""
    kind: str
    options: Mapping[str, Any]
    checkpoint: Path | None = None
    """Folder that the first version is read from; None: it is fitted on the reference."""


def learns_surrogate(config: CampaignConfig) -> bool:
    """Return whether labels teach the surrogate."""
    return config.learn.retrain and config.learn.surrogate.enabled


def model_roles(config: CampaignConfig) -> dict[str, ModelRole]:
    """Return every model of a configuration by its key, generators first."""
    named = [
        *(("generator", spec) for spec in config.generators),
        *(("head", spec) for spec in config.learn.heads),
        *(("discriminator", spec) for spec in config.learn.discriminators),
        *(("surrogate", spec) for spec in (config.surrogate,) if learns_surrogate(config)),
    ]
    roles: dict[str, ModelRole] = {}
    for role, spec in named:
        number = sum(other.role == role for other in roles.values())
        key = f"{role}-{number}-{spec.kind.replace(':', '.')}"
        checkpoint = getattr(spec, "checkpoint", None)  # a surrogate begins as its package has it
        roles[key] = ModelRole(key, role, spec.kind, spec.options, checkpoint)
    return roles


@dataclass(frozen=True)
class OrderBook:
    """Writes orders for one campaign."""

    store: CampaignStore
    config: CampaignConfig
    spec: Spec
    roles: Mapping[str, ModelRole]
    folder: RunFolder
    reference: str
    """Absolute path of the prepared reference."""
    cores_per_job: int = 1
    """Cores that a worker of the pool `dft` holds."""

    def order(self, action: Action, state: CampaignState) -> Order:
        """Return the function and the document of a task."""
        match action:
            case Sample():
                return tasks.sample, self._sample(action, state)
            case Screen():
                return tasks.screen, self._screen(action, state)
            case Score():
                return tasks.score, self._score(action, state)
            case BuildLabel():
                return tasks.build_label, self._build(action)
            case RunJob():
                return tasks.run_job, self._job(action, state)
            case Train():
                return tasks.train, self._with_frames(action, self._train(action, state))
        raise TypeError(f"no worker does {action!r}")

    def _sample(self, action: Sample, state: CampaignState) -> dict[str, Any]:
        role = self.roles[self.spec.generators[action.generator]]
        version = self.spec.sampler(state, role.key, action.round)
        return {
            "kind": role.kind,
            "checkpoint": version.checkpoint if version else None,
            "n": action.n,
            "seed": action.seed,
            "conditions": self.config.chemistry.conditions(),
        }

    def _screen(self, action: Screen, state: CampaignState) -> dict[str, Any]:
        segment = self.spec.segments[action.segment]
        documents = self._candidates(action.ids, ["structure", "screened_structure", "predictions", "bucket"])
        earlier: dict[str, list[list[Any]]] = {}
        if segment.campaign_scope:
            earlier = self._earlier({document["bucket"] for document in documents}, action)
        return {
            "items": [
                {
                    "id": one["_id"],
                    "structure": current_structure(one),
                    "values": one.get("predictions") or {},
                }
                for one in documents
            ],
            "screens": [[kind, dict(options)] for kind, options in segment.screens],
            "surrogate": {
                **self.config.surrogate.model_dump(mode="json"),
                "checkpoint": self.spec.surrogate_checkpoint(state, action.round),
            },
            "judges": self._judges(action.round, state) if segment.needs_judges else None,
            "reference": self.reference,
            "exclude": list(self.config.reference.exclude),
            "earlier": earlier,
            "seed": derive_seed(self.config.seed, "screen", action.round, action.segment),
            "elements": list(self.config.chemistry.elements),
        }

    def _earlier(self, buckets: set[str], action: Screen) -> dict[str, list[list[Any]]]:
        """Return the candidates of earlier rounds that passed this segment, by bucket, in order of making."""
        found = self.store.query(
            "candidates",
            {
                "bucket": {"$in": sorted(buckets)},
                "round": {"$lt": action.round},
                "segment": {"$gt": action.segment},
            },
            fields=["_id", "bucket", "round", "order", "structure", "screened_structure"],
        )
        earlier: dict[str, list[list[Any]]] = {}
        for one in sorted(found, key=lambda one: (one["round"], one["order"])):
            earlier.setdefault(one["bucket"], []).append([one["_id"], current_structure(one)])
        return earlier

    def _score(self, action: Score, state: CampaignState) -> dict[str, Any]:
        judges = self._judges(action.round, state)
        newest = {one["key"]: one["version"] for one in judges}
        anew = any(one["retrained"] for one in judges)
        ids = [
            one["_id"]
            for one in self._candidates(action.ids, ["judged_by"])
            # The same versions would say the same again, unless one was lost and trained anew.
            if anew or (one.get("judged_by") or {}) != newest
        ]
        documents = self._candidates(ids, ["structure", "screened_structure"])
        return {
            "items": [{"id": one["_id"], "structure": current_structure(one)} for one in documents],
            "judges": judges,
            "reference": self.reference,
        }

    def _judges(self, index: int, state: CampaignState) -> list[dict[str, Any]]:
        """Return the versions of heads and discriminators that judge round `index`."""
        judges = []
        for key in self.spec.judges:
            version = state.version(key, self.spec.judge_term(index))
            if version is not None:
                role = self.roles[key]
                judges.append(
                    {
                        "key": key,
                        "version": version.id,
                        "retrained": version.retrained,
                        "role": role.role,
                        "kind": role.kind,
                        "checkpoint": version.checkpoint,
                    }
                )
        return judges

    def _build(self, action: BuildLabel) -> dict[str, Any]:
        label = self.store.get("labels", action.label) or {}
        labels = self.config.labels
        what = labels if label.get("step") is None else labels.follow_up(label["step"])
        return {
            "structure": label["structure"],
            "flow": what.flow,
            "engine": what.engine,
            "engine_options": what.engine_options,
            "flow_options": what.flow_options,
        }

    def _outputs(self, uuids: list[str]) -> list[dict[str, Any]]:
        """Return what jobs gave, and the large data beside it."""
        return [
            *self.store.query("jobs", {"uuid": {"$in": uuids}}),
            *self.store.query("data", {"job_uuid": {"$in": uuids}}),
        ]

    def _job(self, action: RunJob, state: CampaignState) -> dict[str, Any]:
        from flows.stored_outputs import gathered

        flow = self.store.get("flows", action.label) or {"jobs": []}
        record = next(
            job for job in flow["jobs"] if job["uuid"] == action.job and job["index"] == action.index
        )
        attempts = (self.store.get("labels", action.label) or {}).get("attempts", [])
        labels = self.config.labels
        causes, policies = causes_of(attempts, action.job, action.index), labels.policies()
        hours = allowance(labels.job_hours, Cure.MORE_TIME, causes, policies, labels.max_job_hours)
        memory_gb = allowance(
            labels.job_memory_gb, Cure.MORE_MEMORY, causes, policies, labels.max_job_memory_gb
        )
        tries = sum((one["job"], one["index"]) == (action.job, action.index) for one in attempts)
        return {
            "job": record["job"],
            "upstream": gathered(record["parents"], self._outputs),
            "work_dir": str(self._job_folder(action)),
            "cures": [cure.value for cure in cures_for(causes, policies)],
            "seconds": hours and hours * 3600,
            "memory_gb": memory_gb,
            "about": self._about(action, record["name"], tries + 1, state),
        }

    def _job_folder(self, action: RunJob) -> Path:
        return self.folder.work / action.label / f"{action.job}-{action.index}"

    def lost_job(self, action: RunJob, waited_s: float) -> dict[str, Any]:
        """Return what is known of a job whose worker came to an end: where it ran, and what it took and left.

        Not all of the time since it was submitted: it may have waited in a queue of blocks, and never begun.
        """
        from flows.job_files import left_geometry_since, lock_state

        folder = self._job_folder(action)
        begun, _ = lock_state(folder)
        ran_s = 0.0 if begun is None else max(0.0, time.time() - begun)
        seconds = ran_s if ran_s <= waited_s else 0.0  # an earlier try began it, not this one
        return {
            "folder": str(folder),
            "geometries": int(left_geometry_since(folder, time.time() - waited_s)),
            "ended": now(),
            "wall_seconds": seconds,
            "core_hours": seconds * self.cores_per_job / 3600,
        }

    def _about(self, action: RunJob, name: str, attempt: int, state: CampaignState) -> dict[str, Any]:
        """Return what a pool that outlives the driver has to know of a job: whose it is, which try, how urgent."""
        label = state.labels[action.label]
        return {
            "campaign": self.config.name,
            "launched": (self.store.get("campaigns", self.config.name) or {}).get("created", ""),
            "label": label.id,
            "candidate": label.candidate_id,
            "formula": label.formula,
            "purpose": label.purpose,
            "round": label.round,
            "rank": label.rank,
            "begun": label.state == LabelStatus.RUNNING,
            "job": action.job,
            "index": action.index,
            "name": name,
            "attempt": attempt,
        }

    def _train(self, action: Train, state: CampaignState) -> dict[str, Any]:
        role, learn = self.roles[action.model], self.config.learn
        parent = self.spec.parent(state, action.model, action.term)
        held = self.spec.quarantined(state, action.term)
        labelled = self._labelled(action.term, state)
        return {
            "role": role.role,
            "kind": role.kind,
            "options": dict(role.options),
            "given": str(role.checkpoint) if role.checkpoint else None,
            "parent": parent.checkpoint if parent else None,
            "reference": self.reference,
            "exclude": list(self.config.reference.exclude),
            "labelled": [
                one | {"fresh": parent is None or unknown_to(one["round"], parent)}
                for one in labelled
                if one["round"] not in held
            ],
            "quarantined": sorted(held),
            "conditions": self.config.chemistry.conditions(),
            "holdout_fraction": learn.holdout_fraction,
            "stable_ev_per_atom": learn.stable_ev_per_atom,
            "max_reference": learn.max_reference,
            "gate_tolerance": learn.gate_tolerance,
            "split_seed": derive_seed(
                self.config.seed if learn.split_seed is None else learn.split_seed, "split"
            ),
            "seed": derive_seed(self.config.seed, "train", action.model, action.term),
            "folder": str(self.folder.models / f"{action.model}-t{action.term:04d}"),
        }

    def _with_frames(self, action: Train, order: dict[str, Any]) -> dict[str, Any]:
        """Return the order with what the surrogate's training has beside other models'."""
        if order["role"] != "surrogate":
            return order
        from campaign.surrogate_orders import surrogate_order

        return order | surrogate_order(self.store, self.config, action.term, order["labelled"])

    def _labelled(self, term: int, state: CampaignState) -> list[dict[str, Any]]:
        """Return the labels of the rounds before `term`, in order of choice; of those that climbed, the verdict."""
        chosen = [
            state.by_candidate[candidate]
            for index in range(term)
            for candidate in (state.rounds[index].selected or ())
            if candidate in state.by_candidate
        ]
        found = self.store.query(
            "labels",
            {"_id": {"$in": chosen}, "state": "done", "result.e_above_hull": {"$ne": None}},
            fields=[
                "_id",
                "candidate_id",
                "round",
                "rank",
                "result.structure",
                "result.formation_energy_per_atom",
                "result.e_above_hull",
            ],
        )
        wanted = ("structure", "formation_energy_per_atom", "e_above_hull")
        higher = climbed_results(self.store, self.spec, term, wanted)
        return [
            {
                "id": one["_id"],
                "candidate_id": one["candidate_id"],
                "round": one["round"],
                **{name: higher.get(one["_id"], one["result"])[name] for name in wanted},
            }
            for one in sorted(found, key=lambda one: (one["round"], one["rank"], one["_id"]))
        ]

    def _candidates(self, ids: Iterable[str], fields: list[str]) -> list[dict[str, Any]]:
        """Return the candidates in the order of `ids`."""
        wanted = list(ids)
        found = {
            one["_id"]: one
            for one in self.store.query("candidates", {"_id": {"$in": wanted}}, fields=["_id", *fields])
        }
        return [found[name] for name in wanted if name in found]


def unknown_to(index: int, version: ModelState) -> bool:
    """Return whether a version has not seen the labels of a round: they are newer, or were in quarantine."""
    return index >= version.term or index in version.quarantined


def current_structure(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Return a candidate's structure after the screens so far."""
    structure: dict[str, Any] = candidate.get("screened_structure") or candidate["structure"]
    return structure
