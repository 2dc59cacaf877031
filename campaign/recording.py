"""Writes what tasks brought back: small idempotent writes, ordered so that a crash between any two is harmless.

Each method writes documents and returns the state with exactly those documents projected again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from campaign.actions import BuildLabel, RunJob, Sample, Score, Screen, Train
from campaign.documents import (
    CandidateDocument,
    CandidateStatus,
    LabelStatus,
    ModelDocument,
    ModelStatus,
    now,
    round_id,
    version_id,
)
from campaign.failures import MACHINE, causes_of, cures_for, machine_cut, tries_of, try_again
from campaign.labels_config import LabelsConfig
from campaign.plan import Spec
from campaign.state import (
    MEMBER_FIELDS,
    CampaignState,
    Member,
    ModelState,
    RoundState,
    project_label,
    project_member,
    project_model,
    project_round,
)
from campaign.store import CampaignStore
from flows.cures import Cure
from flows.graph import key_of, with_new_jobs

BATCH_STRIDE = 100_000
"""Places that each sampling batch reserves in the order of its round."""


@dataclass(frozen=True)
class Recorder:
    """Writes results of one campaign."""

    store: CampaignStore
    campaign: str
    spec: Spec

    def sampled(self, action: Sample, result: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Add the new candidates of a batch, then tick the batch off; repeating it adds nothing."""
        place = [name for name, *_ in self.spec.batches(state.rounds[action.round])].index(action.batch)
        first = place * BATCH_STRIDE
        key = self.spec.generators[action.generator]
        version = self.spec.sampler(state, key, action.round)
        documents = [
            CandidateDocument(
                id=one["id"],
                campaign=self.campaign,
                round=action.round,
                order=first + number,
                formula=one["formula"],
                chemsys=one["chemsys"],
                n_atoms=one["n_atoms"],
                spacegroup=one["spacegroup"],
                generator=key,
                model_version=version.id if version else "",
                seed=action.seed,
                structure=one["structure"],
                bucket=one["bucket"],
                created=now(),
            ).doc()
            for number, one in enumerate(result["candidates"])
        ]
        if documents:
            self.store.insert_new("candidates", documents)
        range_of_batch = {"round": action.round, "order": {"$gte": first, "$lt": first + BATCH_STRIDE}}
        members = [
            project_member(document)
            for document in self.store.query("candidates", range_of_batch, fields=MEMBER_FIELDS)
        ]
        summary = {
            "asked": action.n,
            "returned": len(documents),
            "new": len(members),
            "generator": key,
            "version": version.id if version else "",
            "seconds": result.get("seconds", 0.0),
        }
        state = self._used([version], state)
        return self._round(
            action.round,
            {f"batches.{action.batch}": summary},
            state,
            {member.id: member for member in members},
        )

    def screened(self, action: Screen, result: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Write the outcome of a segment for each candidate."""
        last = action.segment == len(self.spec.segments) - 1
        version = self.spec.surrogate_version(state, action.round)
        members, updates = {}, []
        known = state.rounds[action.round].members
        for outcome in result["outcomes"]:
            name = outcome["candidate_id"]
            fields: dict[str, Any] = {f"predictions.{key}": value for key, value in outcome["values"].items()}
            if version is not None and "surrogate" in outcome["values"]:
                fields["predictions.surrogate_model"] = version.id
            if outcome.get("structure") is not None:
                fields["screened_structure"] = outcome["structure"]
            if outcome["passed"]:
                fields["segment"] = action.segment + 1
                if last:
                    fields["state"] = CandidateStatus.SCREENED.value
            else:
                fields |= {
                    "state": CandidateStatus.REJECTED.value,
                    "rejected_by": outcome["rejected_by"],
                    "reason": outcome["reason"],
                }
            updates.append((name, fields))
            segment = action.segment + int(outcome["passed"])
            members[name] = Member(name, known[name].order, segment, rejected=not outcome["passed"])
        self.store.set_fields_many("candidates", updates)
        current = state.rounds[action.round]
        return state.with_round(_with_members(current, members))

    def scored(self, action: Score, result: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Write what heads and discriminators said, then tick the chunk off."""
        term = self.spec.judge_term(action.round)
        versions = {key: state.version(key, term) for key in self.spec.judges}
        judged_by = {key: version.id for key, version in versions.items() if version is not None}
        updates = [
            (name, {f"predictions.{key}": value for key, value in values.items()} | {"judged_by": judged_by})
            for name, values in result["predictions"].items()
            if values  # nobody could judge it: the next round tries again
        ]
        self.store.set_fields_many("candidates", updates)
        if updates:
            state = self._used(versions.values(), state)
        return self._round(action.round, {f"scored.{action.chunk}": len(action.ids)}, state)

    def built(self, action: BuildLabel, result: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Persist a flow before any of its jobs runs: its uuids are what results are found by."""
        stored = self.store.get("flows", action.label)
        if stored is None:
            stored = {"_id": action.label, "jobs": result["jobs"], "output_uuid": result["output_uuid"]}
            self.store.put("flows", stored)
        jobs = [_job_summary(job) for job in stored["jobs"]]
        return self._label(action.label, {"jobs": jobs}, state)

    def job_started(self, action: RunJob, state: CampaignState) -> CampaignState:
        """Mark a job as given to a pool."""
        label = self._get("labels", action.label)
        jobs = _with_job_state(label["jobs"], action, LabelStatus.RUNNING)
        if label["purpose"] == "candidate" and label["state"] == LabelStatus.QUEUED:
            self.store.set_fields(
                "candidates", label["candidate_id"], {"state": CandidateStatus.LABELLING.value}
            )
        return self._label(action.label, {"jobs": jobs, "state": LabelStatus.RUNNING.value}, state)

    def job_done(self, action: RunJob, result: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Store a job's output, then the jobs it asked for, then the label's progress."""
        self.store.put_job_outputs(result["docs"], result.get("data") or [])
        flow = self._get("flows", action.label)
        if result.get("new_jobs"):
            flow = {**flow, "jobs": with_new_jobs(flow["jobs"], action.job, result["new_jobs"])}
            self.store.put("flows", flow)
        label = self._get("labels", action.label)
        done = _with_job_state(label["jobs"], action, LabelStatus.DONE)
        standing = {key_of(job): {"state": job["state"], "alone": bool(job.get("alone"))} for job in done}
        jobs = [_job_summary(job) | standing.get(key_of(job), {}) for job in flow["jobs"]]
        fields: dict[str, Any] = {
            "jobs": jobs,
            "attempts": [*label["attempts"], attempt_of(action, result, label, None)],
            "core_hours": label["core_hours"] + float(result.get("core_hours") or 0.0),
        }
        if all(job["state"] == LabelStatus.DONE for job in jobs):
            fields |= {
                "state": LabelStatus.DONE.value,
                "result": self._output(flow["output_uuid"]),
                "ended": now(),
            }
        elif result.get("stop_children") or result.get("stop_flow"):
            message = f"the job {action.job} stopped its flow"
            failure = {"cause": "unknown", "message": message, "detail": ""}
            fields |= {"state": LabelStatus.FAILED.value, "failure": failure, "ended": now()}
            return self._ended(label, action.label, fields, CandidateStatus.FAILED, state)
        given_up = label["state"] == LabelStatus.FAILED  # this job ran on when another one had failed
        outcome = CandidateStatus.FAILED if given_up else CandidateStatus.LABELLED
        return self._ended(label, action.label, fields, outcome, state)

    def job_failed(
        self, action: RunJob, result: Mapping[str, Any], labels: LabelsConfig, state: CampaignState
    ) -> CampaignState:
        """Note a failed try; queue the job again, or give the label up, as the policy for its cause says."""
        label = self._get("labels", action.label)
        failure = result["failure"]
        new = attempt_of(action, result, label, failure)
        if machine_cut(tries_of(label["attempts"], action.job, action.index), new):
            new["forgiven"] = MACHINE
        attempts = [*label["attempts"], new]
        causes, policies = causes_of(attempts, action.job, action.index), labels.policies()
        again = try_again(causes, policies, labels.max_attempts)
        outcome = LabelStatus.QUEUED if again else LabelStatus.FAILED
        alone = again and Cure.MORE_MEMORY in cures_for(causes, policies)
        fields: dict[str, Any] = {
            "jobs": _with_job_state(label["jobs"], action, outcome, alone=alone),
            "attempts": attempts,
        }
        spent = float(result.get("core_hours") or 0.0)
        fields["core_hours"] = label["core_hours"] + spent
        if not again:
            fields |= {"state": LabelStatus.FAILED.value, "failure": dict(failure), "ended": now()}
        self.store.log_event(
            "job_retried" if again else "label_failed",
            f"{label['formula']}: {failure['cause']}: {failure['message']}",
            label=action.label,
            cause=failure["cause"],
        )
        return self._ended(label, action.label, fields, CandidateStatus.FAILED, state)

    def label_failed(self, name: str, failure: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Give a label up whose flow cannot even be built."""
        label = self._get("labels", name)
        self.store.log_event("label_failed", f"{label['formula']}: {failure['message']}", label=name)
        fields = {"state": LabelStatus.FAILED.value, "failure": dict(failure), "ended": now()}
        return self._ended(label, name, fields, CandidateStatus.FAILED, state)

    def trained(self, action: Train, result: Mapping[str, Any], state: CampaignState) -> CampaignState:
        """Write a model version with its verdict; it is final."""
        parent = self.spec.parent(state, action.model, action.term)
        name = version_id(self.campaign, action.model, action.term)
        document = ModelDocument(
            id=name,
            campaign=self.campaign,
            key=action.model,
            term=action.term,
            state=ModelStatus.PROMOTED if result["promoted"] else ModelStatus.REJECTED,
            parent=parent.id if parent else None,
            labels=result["labels"],
            metrics_before=result["metrics_before"],
            metrics_after=result["metrics_after"],
            gate=result.get("gate") or {},
            verdict=result["verdict"],
            quarantined=sorted(self.spec.quarantined(state, action.term)),
            checkpoint=result["checkpoint"],
            sha256=result["sha256"],
            seconds=result.get("seconds", 0.0),
            trained=result.get("trained") or now(),
            retrained=self.store.get("models", name) is not None,
            created=now(),
        ).doc()
        self.store.put("models", document)
        self.store.log_event("model_" + document["state"], f"{document['_id']}: {document['verdict']}")
        if result.get("conflict"):
            words = f"{document['_id']}: new labels contradict what was trusted before: {document['verdict']}"
            self.store.log_event(
                "alarm", words, severity="warning", what="labels contradict", model=document["_id"]
            )
        return state.with_model(project_model(document))

    def _used(self, versions: Iterable[ModelState | None], state: CampaignState) -> CampaignState:
        """Note when versions were used for the first time."""
        for version in versions:
            if version is not None and not version.used:
                self.store.set_fields("models", version.id, {"first_used": now()})
                state = state.with_model(replace(version, used=True))
        return state

    def _ended(
        self,
        label: Mapping[str, Any],
        name: str,
        fields: dict[str, Any],
        candidate_state: CandidateStatus,
        state: CampaignState,
    ) -> CampaignState:
        """Write a label, and its candidate's state if the label became final."""
        state = self._label(name, fields, state)
        if state.labels[name].final and label["purpose"] == "candidate":
            self.store.set_fields("candidates", label["candidate_id"], {"state": candidate_state.value})
        return state

    def _output(self, uuid: str) -> dict[str, Any]:
        newest = max(self.store.query("jobs", {"uuid": uuid}), key=lambda document: document["index"])
        output: dict[str, Any] = newest["output"]
        return output

    def _label(self, name: str, fields: dict[str, Any], state: CampaignState) -> CampaignState:
        self.store.set_fields("labels", name, fields)
        return state.with_labels([project_label(self._get("labels", name))])

    def _round(
        self,
        index: int,
        fields: dict[str, Any],
        state: CampaignState,
        members: Mapping[str, Member] | None = None,
    ) -> CampaignState:
        name = round_id(self.campaign, index)
        self.store.set_fields("rounds", name, fields)
        every = {**state.rounds[index].members, **(members or {})}
        return state.with_round(project_round(self._get("rounds", name), every.values()))

    def _get(self, collection: str, name: str) -> dict[str, Any]:
        document = self.store.get(collection, name)
        if document is None:
            raise KeyError(f"{collection} has no document {name}")
        return document


def _with_members(current: RoundState, members: Mapping[str, Member]) -> RoundState:
    return replace(current, members={**current.members, **members})


def _job_summary(job: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uuid": job["uuid"],
        "index": job["index"],
        "name": job["name"],
        "parents": list(job["parents"]),
        "runs_without": bool(job.get("runs_without")),
        "state": LabelStatus.QUEUED.value,
        "alone": False,
    }


def _with_job_state(
    jobs: list[dict[str, Any]], action: RunJob, state: LabelStatus, *, alone: bool | None = None
) -> list[dict[str, Any]]:
    """Return the jobs with one's state put in, and unless it is None whether that one must run alone."""
    changed: dict[str, Any] = {"state": state.value} | ({} if alone is None else {"alone": alone})
    return [
        {**job, **changed} if (job["uuid"], job["index"]) == (action.job, action.index) else job
        for job in jobs
    ]


def attempt_of(
    action: RunJob,
    result: Mapping[str, Any],
    label: Mapping[str, Any],
    failure: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the document of one try of a job."""
    names = {key_of(job): job["name"] for job in label["jobs"]}
    return {
        "job": action.job,
        "index": action.index,
        "name": names.get((action.job, action.index), ""),
        "n_atoms": len(label["structure"]["sites"]),
        "host": result.get("host"),
        "pid": result.get("pid"),
        "started": result.get("started"),
        "ended": result.get("ended"),
        "wall_seconds": result.get("wall_seconds"),
        "core_hours": float(result.get("core_hours") or 0.0),
        "folder": result.get("folder"),
        "cures": list(result.get("cures") or ()),
        "geometries": result.get("geometries"),
        "block_ended": bool(failure and failure.get("block_ended")),
        "reused": bool(result.get("reused")),
        "cause": failure["cause"] if failure else None,
        "message": failure["message"] if failure else None,
    }
