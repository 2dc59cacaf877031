"""What must hold of a campaign's documents and folder: `violations` names whatever does not.

Every check is a generator of sentences. `always` holds at any moment a driver may die; `at_the_end` holds beside it
once a campaign has finished.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from campaign.components import spec_of
from campaign.config import CampaignConfig
from campaign.documents import label_id, round_id, version_id
from campaign.plan import Spec
from campaign.run_folder import RunFolder
from campaign.state import project_round
from campaign.storage.schema import META
from campaign.store import CampaignStore
from flows.job_files import read_result

FINAL = {"done", "failed"}
WITH_LABEL = {"selected", "labelling", "labelled", "failed"}
"""States of a candidate that has a label."""
OF_LABEL = {"queued": "selected", "running": "labelling", "done": "labelled", "failed": "failed"}
"""State of a label -> state of its candidate."""

Documents = dict[str, dict[str, Any]]


class Campaign:
    """Everything that a store holds, read once."""

    def __init__(self, store: CampaignStore, folder: RunFolder) -> None:
        self.folder = folder
        self.config: CampaignConfig = folder.config()
        self.spec: Spec = spec_of(self.config)
        self.own = store.get("campaigns", self.config.name)
        self.count = store.count("campaigns")
        self.rounds = sorted(store.query("rounds"), key=lambda one: one["index"])
        self.candidates = by_id(store, "candidates")
        self.labels = by_id(store, "labels")
        self.flows = by_id(store, "flows")
        self.models = by_id(store, "models")
        self.blocks = list(store.query("blocks"))
        self.events = by_id(store, "events")
        self.outputs = list(store.query("jobs", fields=["uuid", "index"]))
        self.meta = by_id(store, META)
        self.steps = sorted(store.query("ladder"), key=lambda one: one["index"])
        self.climbed = {climb["label"] for step in self.steps for climb in step["climbs"]}
        self.chosen = {
            name: (one["index"], rank)
            for one in self.rounds
            for rank, name in enumerate(one["selected"] or ())
        }

    def owned(self, purpose: str) -> Documents:
        return {name: one for name, one in self.labels.items() if one["purpose"] == purpose}


def by_id(store: CampaignStore, collection: str) -> Documents:
    return {one["_id"]: one for one in store.query(collection)}


def violations(store: CampaignStore, folder: RunFolder, *, ended: bool = True) -> list[str]:
    """Return what is wrong with a campaign, one sentence each.

    Args:
        store: Its store.
        folder: Its run folder.
        ended: It has finished; else its driver may have died at any moment.
    """
    campaign = Campaign(store, folder)
    if campaign.own is None:
        others = ("rounds", "candidates", "labels", "flows", "models", "outputs")
        return [f"{name} without a campaign" for name in others if getattr(campaign, name)]
    return [*always(campaign), *(at_the_end(campaign) if ended else ())]


def always(campaign: Campaign) -> Iterator[str]:
    yield from _house_keeping(campaign)
    yield from _rounds(campaign)
    yield from _ladder(campaign)
    for candidate in campaign.candidates.values():
        yield from _candidate(candidate, campaign)
    for label in campaign.labels.values():
        yield from _label(label, campaign)
        yield from _jobs(label, campaign)
        yield from _attempts(label)
    yield from _outputs(campaign)
    yield from _models(campaign)


def at_the_end(campaign: Campaign) -> Iterator[str]:
    own = campaign.own or {}
    if own["state"] != "finished":
        yield f"the campaign is {own['state']}: {own['reason']}"
    for one in campaign.blocks:
        if one["state"] != "ended":
            yield f"block {one['_id']} is {one['state']}"
    held = campaign.meta[f"lease:{campaign.config.name}"]["owner"]
    if held:
        yield f"the lease is held by {held}"
    for one in campaign.rounds:
        if one["selected"] is None:
            yield f"round {one['index']} has made no choice"
        elif one["inspection"] is None:
            yield f"the labels of round {one['index']} were not inspected"
    yield from _ended_labels(campaign)
    if campaign.config.labels.ladder and not (campaign.steps[-1]["last"] and campaign.steps[-1]["made"]):
        yield "the ladder has had no last step"
    waiting = [name for name, one in campaign.candidates.items() if one["state"] == "sampled"]
    if waiting:
        yield f"{len(waiting)} candidates were never screened, such as {waiting[0]}"
    yield from _usage(campaign)
    yield from _folder(campaign)


def _ended_labels(campaign: Campaign) -> Iterator[str]:
    owners = Counter(one["candidate_id"] for one in campaign.owned("candidate").values())
    if owners != Counter(dict.fromkeys(campaign.chosen, 1)):
        yield "labels of candidates are not one for each choice"
    for name, label in campaign.labels.items():
        if label["state"] not in FINAL:
            yield f"label {name} is {label['state']} after the end"
        if label["state"] == "done" and not label["judged"]:
            yield f"label {name} was not judged"
        if campaign.config.labels.then and label["purpose"] != "reference" and not label["followed"]:
            yield f"nobody asked what follows label {name}"
        if label["purpose"] == "candidate":
            found = campaign.candidates[label["candidate_id"]]["state"]
            if found != OF_LABEL[label["state"]]:
                yield f"candidate {label['candidate_id']} is {found}, its label {label['state']}"


def _house_keeping(campaign: Campaign) -> Iterator[str]:
    if campaign.count != 1:
        yield f"{campaign.count} campaigns in one store"
    odd = set(campaign.meta) - {"store", "campaign", f"lease:{campaign.config.name}"}
    if odd:
        yield f"odd documents in {META}: {sorted(odd)}"
    for name, event in campaign.events.items():
        if not event["kind"] or not event["message"] or not name.startswith(event["time"]):
            yield f"event {name} says nothing, or is filed under another time"


def _rounds(campaign: Campaign) -> Iterator[str]:
    if [one["index"] for one in campaign.rounds] != list(range(len(campaign.rounds))):
        yield "rounds are missing"
    last = len(campaign.spec.segments)
    for one in campaign.rounds:
        index, to_score = one["index"], one["to_score"]
        if one["_id"] != round_id(campaign.config.name, index):
            yield f"round {index} has the id {one['_id']}"
        batches = {name for name, *_ in campaign.spec.batches(project_round(one, ()))}
        if not set(one["batches"]) <= batches:
            yield f"round {index} has batches that nobody asked for"
        members = [each for each in campaign.candidates.values() if each["round"] == index]
        new = sum(batch["new"] for batch in one["batches"].values())
        if set(one["batches"]) == batches and new != len(members):
            yield f"round {index} counts {new} candidates and has {len(members)}"
        if to_score is not None:
            screened = set(one["batches"]) == batches and not any(
                each["state"] == "sampled" or (each["state"] != "rejected" and each["segment"] < last)
                for each in members
            )
            yield from _choice(one, screened, campaign)
        elif one["scored"] or one["selected"] is not None:
            yield f"round {index} scored or chose before it was fixed what to score"


def _choice(one: Mapping[str, Any], screened: bool, campaign: Campaign) -> Iterator[str]:
    index, to_score, selected = one["index"], one["to_score"], one["selected"]
    if not screened:
        yield f"round {index} began to score before all was screened"
    if not set(map(int, one["scored"])) <= set(range(len(to_score))):
        yield f"round {index} has scored chunks that it has not"
    if selected is None:
        return
    competing = {name for chunk in to_score for name in chunk}
    if len(one["scored"]) != len(to_score):
        yield f"round {index} chose before all was scored"
    if len(set(selected)) != len(selected) or not set(selected) <= competing:
        yield f"round {index} chose somebody twice, or somebody who did not compete"
    if len(selected) > campaign.config.acquisition.labels_per_round:
        yield f"round {index} chose too many"


def _ladder(campaign: Campaign) -> Iterator[str]:
    """Steps are in order, one per round but for the last ones; nobody climbs a rung twice, or leaves one out."""
    steps = campaign.steps
    if [one["index"] for one in steps] != list(range(len(steps))):
        yield "steps of the ladder are missing"
    if [one["round"] for one in steps if not one["last"]] != list(
        range(sum(not one["last"] for one in steps))
    ):
        yield "steps of the ladder are not one per round"
    names = [rung.name for rung in campaign.config.labels.ladder]
    places: dict[str, int] = {}
    for step in steps:
        for climb in step["climbs"]:
            if names.index(climb["rung"]) != places.get(climb["root"], 0):
                yield f"{climb['root']} climbed to {climb['rung']} from rung {places.get(climb['root'], 0)}"
            places[climb["root"]] = names.index(climb["rung"]) + 1
            if step["made"] and climb["label"] not in campaign.labels:
                yield f"step {step['index']} of the ladder has a label that was not made"
        if not step["made"] and step is not steps[-1]:
            yield f"step {step['index']} of the ladder was left unmade"
    opened = [rung for step in steps for rung in step["opened"]]
    if len(set(opened)) != len(opened):
        yield f"references of a rung were asked for twice: {opened}"


def _candidate(one: Mapping[str, Any], campaign: Campaign) -> Iterator[str]:
    name, last = one["_id"], len(campaign.spec.segments)
    if one["round"] not in {each["index"] for each in campaign.rounds}:
        yield f"candidate {name} belongs to no round"
    rejected = one["state"] == "rejected"
    if rejected != (one["rejected_by"] is not None):
        yield f"candidate {name} is {one['state']}, rejected by {one['rejected_by']}"
    if (one["state"] == "sampled" or rejected) != (one["segment"] < last):
        yield f"candidate {name} is {one['state']} after {one['segment']} of {last} segments"
    if (one["state"] in WITH_LABEL) != (one["label_id"] is not None):
        yield f"candidate {name} is {one['state']} with the label {one['label_id']}"
    if one["label_id"] is not None:
        label = campaign.labels.get(one["label_id"])
        if label is None or label["candidate_id"] != name or label["purpose"] != "candidate":
            yield f"candidate {name} names a label that is not its own"
        if name not in campaign.chosen:
            yield f"candidate {name} has a label and was not chosen"


def _label(label: Mapping[str, Any], campaign: Campaign) -> Iterator[str]:
    name, purpose = label["_id"], label["purpose"]
    if name != label_id(label["candidate_id"], label["settings_hash"]):
        yield f"label {name} has another's id"
    if purpose == "candidate":
        if campaign.chosen.get(label["candidate_id"]) != (label["round"], label["rank"]):
            yield f"label {name} does not stand where its candidate was chosen"
        if label["candidate_id"] not in campaign.candidates:
            yield f"label {name} is of no candidate"
    elif purpose == "follow_up":
        parent = campaign.labels.get(label["parent"])
        if parent is None or parent["state"] != "done" or parent["candidate_id"] != label["candidate_id"]:
            yield f"label {name} follows a label that is not done, or not its candidate's"
        if label["step"] not in campaign.config.labels.further:
            yield f"label {name} is a step that nobody asked for"
        if (label["rung"] > 0) != (name in campaign.climbed):
            yield f"label {name} is on rung {label['rung']}, and the ladder's steps say otherwise"
    elif label["round"] != -1:
        yield f"label {name} is a reference of round {label['round']}"
    yield from _outcome(label, campaign)


def _outcome(label: Mapping[str, Any], campaign: Campaign) -> Iterator[str]:
    name, purpose = label["_id"], label["purpose"]
    if (label["state"] == "done") != (label["result"] is not None and label["ended"] is not None):
        yield f"label {name} is {label['state']}, and its result says otherwise"
    if (label["state"] == "failed") != (label["failure"] is not None):
        yield f"label {name} is {label['state']}, its failure {label['failure']}"
    if label["judged"] and purpose != "follow_up":
        if label["state"] != "done" or "e_above_hull" not in label["result"]:
            yield f"label {name} was judged without a result"
        own = [one for one in campaign.owned("reference").values() if one["step"] == label["step"]]
        if any(one["state"] not in FINAL for one in own):
            yield f"label {name} was judged before the references were known"
    if label["followed"] and label["state"] not in FINAL:
        yield f"label {name} was followed before its end"


def _jobs(label: Mapping[str, Any], campaign: Campaign) -> Iterator[str]:
    name, states = label["_id"], Counter(job["state"] for job in label["jobs"])
    flow = campaign.flows.get(name)
    if label["jobs"] and flow is None:
        yield f"label {name} has jobs, and no flow"
    known = {(job["uuid"], job["index"]) for job in (flow or {"jobs": ()})["jobs"]}
    keys = [(job["uuid"], job["index"]) for job in label["jobs"]]
    if len(set(keys)) != len(keys) or not set(keys) <= known:
        yield f"label {name} has a job twice, or one that its flow has not"
    if label["state"] == "done" and (set(keys) != known or states["done"] != len(keys)):
        yield f"label {name} is done, its jobs are not: {dict(states)}"
    if label["state"] == "queued" and states["running"]:
        yield f"label {name} is queued, and {states['running']} of its jobs run"
    if label["state"] in FINAL and states["running"]:
        yield f"label {name} is {label['state']}, and {states['running']} of its jobs run"
    there = {(one["uuid"], one["index"]) for one in campaign.outputs}
    for job in label["jobs"]:
        key = (job["uuid"], job["index"])
        if job["state"] == "done" and key not in there:
            yield f"label {name}: the output of job {job['name']} is not in the store"
        folder = campaign.folder.work / name / f"{job['uuid']}-{job['index']}"
        if job["state"] == "done" and read_result(folder, *key) is None:
            yield f"label {name}: job {job['name']} is done without a result in its folder"


def _attempts(label: Mapping[str, Any]) -> Iterator[str]:
    """Each job that is done was so once; every failure is written down; what they took adds up."""
    name, tries = label["_id"], label["attempts"]
    successes = Counter((one["job"], one["index"]) for one in tries if one["cause"] is None)
    done = Counter((job["uuid"], job["index"]) for job in label["jobs"] if job["state"] == "done")
    if successes != done:
        yield f"label {name}: {sum(done.values())} jobs are done, by {sum(successes.values())} attempts"
    failed = {(job["uuid"], job["index"]) for job in label["jobs"] if job["state"] == "failed"}
    if not failed <= {(one["job"], one["index"]) for one in tries if one["cause"] is not None}:
        yield f"label {name}: a job failed without an attempt that says why"
    spent = sum(one["core_hours"] for one in tries)
    if not math.isclose(spent, label["core_hours"], rel_tol=1e-6, abs_tol=1e-12):
        yield f"label {name} cost {label['core_hours']} core-hours, its attempts {spent}"


def _outputs(campaign: Campaign) -> Iterator[str]:
    keys = [(one["uuid"], one["index"]) for one in campaign.outputs]
    if len(set(keys)) != len(keys):
        yield "an output is stored twice"
    asked = {(job["uuid"], job["index"]) for flow in campaign.flows.values() for job in flow["jobs"]}
    if not set(keys) <= asked:
        yield f"{len(set(keys) - asked)} outputs of jobs that no flow has"
    if not campaign.flows.keys() <= campaign.labels.keys():
        yield "flows of labels that are not there"


def _models(campaign: Campaign) -> Iterator[str]:
    terms: dict[str, list[int]] = {}
    for name, one in campaign.models.items():
        terms.setdefault(one["key"], []).append(one["term"])
        if name != version_id(campaign.config.name, one["key"], one["term"]):
            yield f"model {name} has another's id"
        if one["state"] == "promoted" and not (one["checkpoint"] and Path(one["checkpoint"]).is_dir()):
            yield f"model {name} was promoted without a checkpoint"
        parent = campaign.models.get(one["parent"]) if one["parent"] else None
        if one["parent"] and (parent is None or parent["state"] != "promoted"):
            yield f"model {name} descends from one that was not promoted"
        if any((campaign.labels.get(label) or {}).get("state") != "done" for label in one["labels"]):
            yield f"model {name} learned from labels that are not done"
        learned = {campaign.labels[label]["round"] for label in one["labels"] if label in campaign.labels}
        if learned & set(one["quarantined"]):
            yield f"model {name} learned from labels in quarantine"
    for key, found in terms.items():
        if sorted(found) != list(range(len(found))):
            yield f"versions of {key} are missing: {sorted(found)}"


def _usage(campaign: Campaign) -> Iterator[str]:
    """What labels cost is counted for the budget; nothing is negative or no number."""
    usage = (campaign.own or {}).get("usage") or {}
    for name, value in usage.items():
        if not math.isfinite(value) or value < 0:
            yield f"usage {name} is {value}"
    spent = sum(label["core_hours"] for label in campaign.labels.values())
    if usage.get("core_hours", 0.0) < 0.999 * spent:
        yield f"the budget counts {usage.get('core_hours')} core-hours, labels alone took {spent}"


def _folder(campaign: Campaign) -> Iterator[str]:
    """No working folder is anybody's but a label's; requests to stop are gone."""
    for label in campaign.folder.work.iterdir():
        known = {
            f"{job['uuid']}-{job['index']}" for job in campaign.flows.get(label.name, {"jobs": ()})["jobs"]
        }
        odd = {one.name for one in label.iterdir()} - known
        if label.name not in campaign.labels or odd:
            yield f"nobody's folder: {label} {sorted(odd)}"
    if campaign.folder.stop_file.exists():
        yield "a request to stop was left"
