"""What the driver decides and writes itself: rounds, choices, references and the judgement of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from campaign.acquisition.batches import choose, explore
from campaign.acquisition.beliefs import surrogate_errors
from campaign.acquisition.ranking import rank
from campaign.acquisition.reading import AcquisitionReader
from campaign.acquisition.shares import adapted
from campaign.actions import (
    Action,
    AddReferences,
    Climb,
    FixScoring,
    FollowUp,
    Inspect,
    Judge,
    OpenRound,
    Select,
)
from campaign.climbing import Climber
from campaign.collapse import fallen
from campaign.config import CampaignConfig
from campaign.documents import (
    CandidateStatus,
    LabelDocument,
    LabelStatus,
    RoundDocument,
    derive_seed,
    label_id,
    now,
    round_id,
)
from campaign.follow_ups import called_for
from campaign.inspecting import Inspector
from campaign.orders import current_structure
from campaign.plan import Spec
from campaign.reference_phases import reference_phases
from campaign.references.fingerprint import candidate_id
from campaign.references.hull import hull_of
from campaign.references.hull_of_labels import EngineHull, GivenHull
from campaign.state import CampaignState, LabelState, project_label, project_round, project_step
from campaign.store import CampaignStore

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceSet


@dataclass(frozen=True)
class Decider:
    """Carries out the actions that need no worker."""

    store: CampaignStore
    config: CampaignConfig
    spec: Spec
    reference: ReferenceSet
    settings: Mapping[str, Any]
    """Label settings, as `flows` canonicalises them."""
    settings_hash: str
    further: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of further labels by their names in `labels.then` and `labels.ladder`."""

    def do(self, action: Action, state: CampaignState) -> CampaignState:
        """Carry out one action; repeating it changes nothing."""
        match action:
            case OpenRound():
                state = self._open_round(action.round, state)
            case FixScoring():
                state = self._fix_scoring(action.round, state)
            case Select():
                state = self._select(action, state)
            case AddReferences():
                state = self._add_references(state)
            case Judge():
                state = self._judge(action.labels, state)
            case Inspect():
                state = self._inspect(action.round, state)
            case FollowUp():
                state = self._follow_up(action.labels, state)
            case Climb():
                state = self._climb(action, state)
            case _:
                raise TypeError(f"the driver does not do {action!r} itself")
        return state

    def _open_round(self, index: int, state: CampaignState) -> CampaignState:
        name, shares = round_id(self.config.name, index), None
        if self.spec.adapts_shares(index):
            floor = self.config.acquisition.share_floor
            shares = list(adapted(self._reader.yielded(self.spec.term(index)), floor))
        document = RoundDocument(
            id=name, campaign=self.config.name, index=index, shares=shares, created=now()
        ).doc()
        self.store.insert_new("rounds", [document])
        self.store.log_event("round_opened", f"round {index} begins", round=index, shares=shares)
        self._tell_of_collapses(index, state)
        return state.with_round(project_round(document, ()))

    def _tell_of_collapses(self, index: int, state: CampaignState) -> None:
        """Log which versions of generators the last round has shown to repeat themselves."""
        for key in self.spec.generators:
            current = self.spec.sampler(state, key, index)
            for name in sorted(fallen(state, key, index) - fallen(state, key, index - 1)):
                asked, new = state.rounds[index - 1].made.get(name, (0, 0))
                words = f"{name}: {new} of {asked} crystals in round {index - 1} were new"
                words += f"; back to {current.id if current else 'none'}"
                self.store.log_event("generator_rolled_back", words, model=name, round=index - 1)

    def _fix_scoring(self, index: int, state: CampaignState) -> CampaignState:
        """Let this round's survivors compete with the backlog, scored again where its models are not the newest."""
        fresh = state.rounds[index].survivors(len(self.spec.segments))
        ids = fresh + self._reader.backlog(index, derive_seed(self.config.seed, "backlog", index))
        size = self.config.batching.score
        chunks = [ids[start : start + size] for start in range(0, len(ids), size)]
        fields: dict[str, Any] = {"to_score": chunks}
        if not self.spec.judges:  # nobody judges: what the screens found is all there is
            fields["scored"] = {str(place): len(chunk) for place, chunk in enumerate(chunks)}
        return self._round(index, fields, state)

    def _select(self, action: Select, state: CampaignState) -> CampaignState:
        """Rank what was scored, write the choice in one write, then make its labels."""
        reader, config = self._reader, self.config.acquisition
        surrogate_std = surrogate_errors(reader.surrogate_pairs(action.round))
        ranking = rank(
            reader.competing(action.round, state, surrogate_std), config, reader.context(action.round)
        )
        pending = reader.pending(action.round, state, surrogate_std)
        explored, seed = round(action.n * config.explore_fraction), reader.context(action.round).seed
        chosen = choose(ranking, action.n - explored, config, pending)
        chosen += explore(ranking, explored, chosen, config, seed)
        self.store.set_fields_many("candidates", ranking.updates())
        state = self._round(action.round, {"selected": chosen}, state)
        self.store.log_event(
            "selected",
            f"round {action.round}: {len(chosen)} of {len(ranking.scores)} candidates",
            round=action.round,
        )
        return self.make_labels(action.round, chosen, state)

    @property
    def _reader(self) -> AcquisitionReader:
        return AcquisitionReader(self.store, self.config, self.spec)

    def make_labels(self, index: int, chosen: Iterable[str], state: CampaignState) -> CampaignState:
        """Make the labels of a choice; those that exist are left as they are."""
        wanted = list(chosen)
        candidates = {one["_id"]: one for one in self.store.query("candidates", {"_id": {"$in": wanted}})}
        documents = [
            self._label(
                name,
                candidates[name]["formula"],
                current_structure(candidates[name]),
                round=index,
                rank=rank,
                predicted=candidates[name].get("predictions") or {},
                models={
                    **(candidates[name].get("judged_by") or {}),
                    **self._surrogate_of(candidates[name]),
                    candidates[name]["generator"]: candidates[name]["model_version"],
                },
            )
            for rank, name in enumerate(wanted)
            if name in candidates
        ]
        state = self._insert_labels(documents, state)
        self.store.set_fields_many(
            "candidates",
            [
                (
                    one["candidate_id"],
                    {"label_id": one["_id"], "state": candidate_state(state.labels[one["_id"]])},
                )
                for one in documents
            ],
        )
        return state

    def _surrogate_of(self, candidate: Mapping[str, Any]) -> dict[str, str]:
        """Return the surrogate's key and the version that relaxed a candidate; nothing if it does not learn."""
        version = (candidate.get("predictions") or {}).get("surrogate_model")
        return {key: version for key in self.spec.surrogates if version is not None}

    def _add_references(self, state: CampaignState) -> CampaignState:
        """Make the labels of the elements, and of the hull phases if the hull is the engine's."""
        documents = [
            self._label(
                candidate_id(structure),
                entry.formula,
                structure.as_dict(),
                round=-1,
                rank=0 if len(entry.elements) == 1 else 1,
                purpose="reference",
            )
            for entry in reference_phases(self.config, self.reference)
            if (structure := entry.structure) is not None
        ]
        state = self._insert_labels(documents, state)
        self.store.set_fields("campaigns", self.config.name, {"reference.labels_written": True})
        return replace(state, references_known=True)

    def _insert_labels(self, documents: list[dict[str, Any]], state: CampaignState) -> CampaignState:
        if documents:
            self.store.insert_new("labels", documents)
        ids = [document["_id"] for document in documents]
        stored = self.store.query("labels", {"_id": {"$in": ids}})
        return state.with_labels(project_label(document) for document in stored)

    def _judge(self, labels: tuple[str, ...], state: CampaignState) -> CampaignState:
        """Compare labels with the references of their own settings; a candidate's verdict is that of its highest."""
        from pymatgen.core import Composition

        hulls: dict[str, EngineHull | GivenHull] = {}
        limit = self.config.labels.stable_ev_per_atom
        projected = []
        for name in labels:
            label = self.store.get("labels", name) or {}
            mark = label["settings_hash"]
            if mark not in hulls:
                hulls[mark] = self._hull_of(mark)
            found = hulls[mark].judge(Composition(label["formula"]), label["result"])
            above = found.e_above_hull
            stable = label["purpose"] != "reference" and above is not None and above <= limit
            fields: dict[str, Any] = {
                "result.formation_energy_per_atom": found.formation_energy_per_atom,
                "result.e_above_hull": above,
                "result.stable": stable,
                "judged": True,
                "judged_on": {"hull": self.config.labels.hull, "settings_hash": mark},
            }
            if self.config.labels.ladder and label["purpose"] != "reference" and above is not None:
                verdict = {
                    "e_above_hull": above,
                    "formation_energy_per_atom": found.formation_energy_per_atom,
                    "stable": stable,
                    "rung": label["rung"],
                    "step": label["step"],
                    "label": name,
                }
                # before the label is judged: a driver that dies in between judges it again
                self.store.set_fields("labels", label["parent"] or name, {"verdict": verdict})
            self.store.set_fields("labels", name, fields)
            projected.append(project_label(self.store.get("labels", name) or {}))
            if label["purpose"] != "reference" and above is not None:
                on = f" on the rung {label['step']}" if label["step"] else ""
                self.store.log_event(
                    "labelled", f"{label['formula']}: e_above_hull {above:+.3f} eV/atom{on}", label=name
                )
        return state.with_labels(projected)

    def _hull_of(self, settings_hash: str) -> EngineHull | GivenHull:
        """Return the hull of the references that were computed with some settings, and with no others."""
        kind = self.config.labels.hull
        if kind == "given":
            return GivenHull(hull_of(self.reference))
        references = list(
            self.store.query(
                "labels",
                {"purpose": "reference", "state": "done", "settings_hash": settings_hash},
                fields=["_id", "formula", "result.energy_per_atom", "result.mp_correction_per_atom"],
            )
        )
        phases = []
        if kind != "engine":
            within = self.reference.within(self.config.chemistry.elements)
            phases = [entry for entry in within.hull_entries if len(entry.elements) > 1]
        return EngineHull(references, phases, corrected=kind == "materials_project")

    def _climb(self, action: Climb, state: CampaignState) -> CampaignState:
        """Choose who climbs, write the choice in one write, then make its labels."""
        step, odd = self._climber.decide(action, state)
        self.store.insert_new("ladder", [step])
        for rung, why in odd.items():
            self.store.log_event("condition_failed", f"the rung {rung}: {why}")
        return self.make_climbs(step["_id"], state)

    def make_climbs(self, name: str, state: CampaignState) -> CampaignState:
        """Make the labels of a step of the ladder, and the references that it needs; those that exist are left."""
        step = self.store.get("ladder", name) or {}
        climber = self._climber
        state = self._insert_labels(climber.references(step), state)  # nobody is judged without all of them
        state = self._insert_labels(climber.labels(step), state)
        self.store.set_fields("ladder", name, {"made": True})
        if step["climbs"]:
            counts = Counter(one["rung"] for one in step["climbs"])
            told = ", ".join(f"{rung} {number}" for rung, number in sorted(counts.items()))
            self.store.log_event("climbed", f"step {step['index']} of the ladder: {told}", step=step["index"])
        return state.with_step(project_step(step | {"made": True}))

    @property
    def _climber(self) -> Climber:
        return Climber(self.store, self.config, self.spec, self.further)

    def _inspect(self, index: int, state: CampaignState) -> CampaignState:
        """Hold the labels of a round against what was believed of them; the word comes before the deed."""
        inspector = Inspector(self.store, self.config.name, self.spec)
        found = inspector.inspect(index, state)
        alarm = found.alarm if found.suspect else ""
        seen = state.with_round(replace(state.rounds[index], alarm=alarm))
        inspector.tell(
            index, found, self.spec.quarantined(state, index), self.spec.quarantined(seen, index + 1)
        )
        return self._round(index, {"inspection": found.document()}, state)

    def _follow_up(self, labels: tuple[str, ...], state: CampaignState) -> CampaignState:
        """Make the further labels that outcomes call for, then note that they were asked."""
        asked = list(self.store.query("labels", {"_id": {"$in": list(labels)}}))
        roots = sorted({one.get("parent") or one["_id"] for one in asked})
        documents = []
        for root in self.store.query("labels", {"_id": {"$in": roots}, "state": "done"}):
            family = list(self.store.query("labels", {"parent": root["_id"]}))
            names, odd = called_for(self.config.labels.then, root, family)
            for name, why in odd.items():
                self.store.log_event(
                    "condition_failed", f"{root['formula']}: {name}: {why}", label=root["_id"]
                )
            documents += [self._further(name, root) for name in names]
        state = self._insert_labels(documents, state)
        self.store.set_fields_many("labels", [(name, {"followed": True}) for name in labels])
        for one in documents:
            self.store.log_event("follow_up", f"{one['formula']}: {one['step']}", label=one["_id"])
        return state.with_labels(
            project_label(one) for one in self.store.query("labels", {"_id": {"$in": list(labels)}})
        )

    def _further(self, name: str, root: Mapping[str, Any]) -> dict[str, Any]:
        """Return a further label of the relaxed structure of a candidate's first one."""
        from flows.run import settings_hash

        settings = dict(self.further[name])
        kept = {key: root[key] for key in ("campaign", "candidate_id", "round", "rank", "formula", "chemsys")}
        return LabelDocument(
            id=label_id(root["candidate_id"], settings_hash(settings)),
            purpose="follow_up",
            parent=root["_id"],
            step=name,
            flow=settings["flow"],
            engine=settings["engine"],
            settings=settings,
            settings_hash=settings_hash(settings),
            structure=root["result"]["structure"],
            judged=True,  # its energy is compared with no hull
            created=now(),
            **kept,
        ).doc()

    def _label(
        self, candidate: str, formula: str, structure: dict[str, Any], **fields: Any
    ) -> dict[str, Any]:
        from pymatgen.core import Composition

        return LabelDocument(
            id=label_id(candidate, self.settings_hash),
            campaign=self.config.name,
            candidate_id=candidate,
            flow=self.config.labels.flow,
            engine=self.config.labels.engine,
            settings=dict(self.settings),
            settings_hash=self.settings_hash,
            formula=formula,
            chemsys=Composition(formula).chemical_system,
            structure=structure,
            created=now(),
            **fields,
        ).doc()

    def _round(self, index: int, fields: dict[str, Any], state: CampaignState) -> CampaignState:
        name = round_id(self.config.name, index)
        self.store.set_fields("rounds", name, fields)
        document = self.store.get("rounds", name) or {}
        return state.with_round(project_round(document, state.rounds[index].members.values()))


def candidate_state(label: LabelState) -> str:
    """Return the state of the candidate that a label belongs to."""
    by_label = {
        LabelStatus.QUEUED: CandidateStatus.SELECTED,
        LabelStatus.RUNNING: CandidateStatus.LABELLING,
        LabelStatus.DONE: CandidateStatus.LABELLED,
        LabelStatus.FAILED: CandidateStatus.FAILED,
    }
    return by_label[label.state].value
