"""CampaignState: what the store says, projected to what `plan` needs, and nothing else.

Every object here is frozen. The driver holds one `CampaignState`, replaces the parts whose documents it has
just written, and could at any moment throw it away and `project` the store again: resuming does exactly that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

from campaign.documents import FINAL_LABEL, CandidateStatus, LabelStatus, ModelStatus
from campaign.quarantine import quarantined


@dataclass(frozen=True)
class Member:
    """A candidate as its round sees it."""

    id: str
    order: int
    """Place within the round."""
    segment: int
    """Screening segments passed."""
    rejected: bool = False
    """Stopped in the segment numbered `segment`."""


@dataclass(frozen=True)
class RoundState:
    """A round; `selected is None` until its choice was made."""

    index: int
    batches: frozenset[str] = frozenset()
    members: Mapping[str, Member] = field(default_factory=dict)
    """Candidates by id; emptied once the choice was made."""
    to_score: tuple[tuple[str, ...], ...] | None = None
    scored: frozenset[int] = frozenset()
    selected: tuple[str, ...] | None = None
    shares: tuple[float, ...] | None = None
    """Share of the samples of each generator; None: as configured."""
    alarm: str | None = None
    """What is wrong with its labels (`campaign.alarms`), '' if nothing is; None before they were inspected."""
    made: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Version of a generator -> crystals asked of it, and those of them that were new."""

    def entering(self, segment: int) -> list[Member]:
        """Return the members that reached `segment`, whether they passed it since or not, in order."""
        return sorted((m for m in self.members.values() if m.segment >= segment), key=lambda m: m.order)

    def waiting(self, segment: int) -> bool:
        """Return whether any member still has to pass `segment` or one before it."""
        return any(not m.rejected and m.segment <= segment for m in self.members.values())

    def survivors(self, segments: int) -> list[str]:
        """Return the ids of the members that passed all `segments`, in order."""
        passed = (m for m in self.members.values() if not m.rejected and m.segment >= segments)
        return [m.id for m in sorted(passed, key=lambda m: m.order)]


@dataclass(frozen=True)
class JobState:
    """One job of a label's flow."""

    uuid: str
    index: int
    name: str
    parents: tuple[str, ...]
    state: LabelStatus
    runs_without: bool = False
    """It runs although a parent failed."""
    alone: bool = False
    """It ran out of memory, and has the pool to itself from now on."""

    def record(self) -> dict[str, object]:
        """Return the record that `flows.graph` reads."""
        return {
            "uuid": self.uuid,
            "index": self.index,
            "name": self.name,
            "parents": self.parents,
            "runs_without": self.runs_without,
        }


@dataclass(frozen=True)
class LabelState:
    """A label, and how far its jobs are."""

    id: str
    candidate_id: str
    purpose: str
    round: int
    rank: int
    state: LabelStatus
    formula: str = ""
    jobs: tuple[JobState, ...] = ()
    judged: bool = False
    """Formation energy and e_above_hull are known (or never will be: the label failed)."""
    stable: bool = False
    core_hours: float = 0.0
    followed: bool = False
    """Its outcome has been asked whether further labels are wanted."""
    step: str | None = None
    rung: int = 0
    has_verdict: bool = False
    """Its e_above_hull is known."""

    @property
    def final(self) -> bool:
        """Whether nothing will be computed for it any more."""
        return self.state in FINAL_LABEL

    @property
    def is_first(self) -> bool:
        """Whether it is the label that a crystal is known by: no further one, and no reference of a rung."""
        return self.purpose != "follow_up" and self.step is None

    @property
    def is_lost_element(self) -> bool:
        """Whether it is an element that could not be computed, without which nothing is judged."""
        return self.purpose == "reference" and self.state == LabelStatus.FAILED and self.rank == 0

    @property
    def on_ladder(self) -> bool:
        """Whether it is a first label, or one of a rung of the ladder."""
        return self.rung > 0 or self.is_first

    @property
    def begun(self) -> bool:
        """Whether a job of it runs, or ran: after a crash its label is queued again, and begun all the same."""
        done = any(job.state == LabelStatus.DONE for job in self.jobs)
        return not self.final and (self.state == LabelStatus.RUNNING or done)


@dataclass(frozen=True)
class StepState:
    """A step of the ladder that was decided."""

    index: int
    round: int
    last: bool
    labels: tuple[str, ...]
    done_seen: int
    made: bool


@dataclass(frozen=True)
class ModelState:
    """A decided model version."""

    id: str
    key: str
    term: int
    promoted: bool
    checkpoint: str | None
    parent: str | None = None
    """Version that it was fine-tuned from."""
    quarantined: tuple[int, ...] = ()
    """Rounds whose labels were kept from it."""
    used: bool = False
    """It has made or judged a candidate."""
    retrained: bool = False
    """Its checkpoint was lost once: what bears its name may be judged by the lost one."""


@dataclass(frozen=True)
class CampaignState:
    """All that `plan` may look at."""

    rounds: Mapping[int, RoundState] = field(default_factory=dict)
    labels: Mapping[str, LabelState] = field(default_factory=dict)
    by_candidate: Mapping[str, str] = field(default_factory=dict)
    """Candidate id -> label id."""
    models: Mapping[tuple[str, int], ModelState] = field(default_factory=dict)
    """(key, term) -> version; a pair that is absent is not decided yet."""
    steps: Mapping[int, StepState] = field(default_factory=dict)
    """Steps of the ladder by their number."""
    references_known: bool = False
    """The reference labels of this campaign have been written."""
    stop_requested: str | None = None
    usage: Mapping[str, float] = field(default_factory=dict)

    def with_round(self, round_state: RoundState) -> CampaignState:
        """Return the state with this round put in."""
        return replace(self, rounds={**self.rounds, round_state.index: round_state})

    def with_labels(self, labels: Iterable[LabelState]) -> CampaignState:
        """Return the state with these labels put in."""
        new = {label.id: label for label in labels}
        owners = {label.candidate_id: label.id for label in new.values() if label.is_first}
        return replace(self, labels={**self.labels, **new}, by_candidate={**self.by_candidate, **owners})

    def with_step(self, step: StepState) -> CampaignState:
        """Return the state with this step of the ladder put in."""
        return replace(self, steps={**self.steps, step.index: step})

    def with_model(self, model: ModelState) -> CampaignState:
        """Return the state with this version decided."""
        return replace(self, models={**self.models, (model.key, model.term): model})

    def without_models(self, models: Iterable[ModelState]) -> CampaignState:
        """Return the state with these versions undecided."""
        lost = {(model.key, model.term) for model in models}
        return replace(self, models={key: model for key, model in self.models.items() if key not in lost})

    def decided(self, key: str, term: int) -> bool:
        """Return whether every version of `key` up to `term` was promoted or refused."""
        return all((key, earlier) in self.models for earlier in range(term + 1))

    def version(self, key: str, term: int, without: AbstractSet[str] = frozenset()) -> ModelState | None:
        """Return the newest promoted version of `key` up to `term` that is not in `without`.

        None while one is still undecided, and where none was ever good enough.
        """
        found = None
        for earlier in range(term + 1):
            model = self.models.get((key, earlier))
            if model is None:
                return None
            if model.promoted and model.id not in without:
                found = model
        return found

    def quarantined(self, term: int) -> frozenset[int]:
        """Return the rounds whose labels are in quarantine, as the rounds before `term` say."""
        return quarantined({index: one.alarm or "" for index, one in self.rounds.items()}, term)

    def references(self) -> list[LabelState]:
        """Return the labels of elements and hull phases, those of rungs among them."""
        return [label for label in self.labels.values() if label.purpose == "reference"]

    def stable_found(self, held: AbstractSet[int] = frozenset()) -> int:
        """Return how many candidates are stable by the highest judged rung that is done, without the rounds `held`."""
        best: dict[str, LabelState] = {}
        for label in self.labels.values():
            if label.has_verdict and label.purpose != "reference":
                known = best.get(label.candidate_id)
                if known is None or label.rung > known.rung:
                    best[label.candidate_id] = label
        return sum(label.stable and label.round not in held for label in best.values())


def project_member(document: Mapping[str, Any]) -> Member:
    """Project a candidate document."""
    return Member(
        id=document["_id"],
        order=document["order"],
        segment=document["segment"],
        rejected=document["state"] == CandidateStatus.REJECTED,
    )


MEMBER_FIELDS = ["_id", "round", "order", "segment", "state"]
"""Fields of a candidate that `project_member` reads."""


def project_round(document: Mapping[str, Any], members: Iterable[Member]) -> RoundState:
    """Project a round document; members only matter until the choice was made."""
    chosen = document.get("selected")
    to_score = document.get("to_score")
    return RoundState(
        index=document["index"],
        batches=frozenset(document.get("batches", {})),
        members={member.id: member for member in members} if chosen is None else {},
        to_score=None if to_score is None else tuple(tuple(chunk) for chunk in to_score),
        scored=frozenset(int(chunk) for chunk in document.get("scored", {})),
        selected=None if chosen is None else tuple(chosen),
        shares=tuple(document["shares"]) if document.get("shares") else None,
        alarm=alarm_of(document),
        made=_made(document),
    )


def alarm_of(document: Mapping[str, Any]) -> str | None:
    """Return the kind of alarm of a round's document, '' for none; None before its labels were inspected."""
    found = document.get("inspection")
    if found is None:
        return None
    return str(found["alarm"]) if found["suspect"] else ""


def _made(document: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return version -> (crystals asked, new ones) of the batches that are in."""
    made: dict[str, tuple[int, int]] = {}
    for batch in document.get("batches", {}).values():
        asked, new = made.get(batch.get("version", ""), (0, 0))
        made[batch.get("version", "")] = (asked + batch["asked"], new + batch["new"])
    return made


def project_label(document: Mapping[str, Any]) -> LabelState:
    """Project a label document."""
    result = document.get("result") or {}
    state = LabelStatus(document["state"])
    return LabelState(
        id=document["_id"],
        candidate_id=document["candidate_id"],
        purpose=document["purpose"],
        round=document["round"],
        rank=document["rank"],
        state=state,
        formula=document["formula"],
        jobs=tuple(
            JobState(
                job["uuid"],
                job["index"],
                job["name"],
                tuple(job["parents"]),
                LabelStatus(job["state"]),
                bool(job.get("runs_without")),
                bool(job.get("alone")),
            )
            for job in document.get("jobs", [])
        ),
        judged=state == LabelStatus.FAILED or bool(document.get("judged")),
        stable=bool(result.get("stable")),
        core_hours=float(document.get("core_hours", 0.0)),
        followed=bool(document.get("followed")),
        step=document.get("step"),
        rung=int(document.get("rung") or 0),
        has_verdict=result.get("e_above_hull") is not None,
    )


LABEL_FIELDS = [
    "_id", "candidate_id", "purpose", "round", "rank", "state", "formula", "jobs", "core_hours", "judged",
    "result.stable", "result.e_above_hull", "followed", "step", "rung",
]  # fmt: skip
"""Fields of a label that `project_label` reads."""


def project_step(document: Mapping[str, Any]) -> StepState:
    """Project a step of the ladder."""
    return StepState(
        index=document["index"],
        round=document["round"],
        last=document["last"],
        labels=tuple(one["label"] for one in document["climbs"]),
        done_seen=document["done_seen"],
        made=document["made"],
    )


def project_model(document: Mapping[str, Any]) -> ModelState:
    """Project a model version."""
    return ModelState(
        id=document["_id"],
        key=document["key"],
        term=document["term"],
        promoted=document["state"] == ModelStatus.PROMOTED,
        checkpoint=document.get("checkpoint"),
        parent=document.get("parent"),
        quarantined=tuple(document.get("quarantined") or ()),
        used=bool(document.get("first_used")),
        retrained=bool(document.get("retrained")),
    )


MODEL_FIELDS = [
    "_id", "key", "term", "state", "checkpoint", "parent", "quarantined", "first_used",
    "retrained",
]  # fmt: skip
"""Fields of a version that `project_model` reads."""
