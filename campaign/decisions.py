"""What the driver decides and writes itself: rounds, choices, references and the judgement of labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from campaign.acquisition.batches import choose
from campaign.acquisition.beliefs import surrogate_errors
from campaign.acquisition.ranking import rank
from campaign.acquisition.reading import AcquisitionReader
from campaign.acquisition.shares import adapted
from campaign.actions import Action, AddReferences, FixScoring, FollowUp, Judge, OpenRound, Select
from campaign.config import CampaignConfig
from campaign.documents import (
    CandidateStatus,
    LabelDocument,
    LabelStatus,
    RoundDocument,
    label_id,
    now,
    round_id,
)
from campaign.errors import ReferenceDataError
from campaign.follow_ups import called_for
from campaign.orders import current_structure
from campaign.plan import Spec
from campaign.references.fingerprint import candidate_id
from campaign.references.hull import ReferenceHull
from campaign.references.hull_of_labels import EngineHull
from campaign.state import CampaignState, LabelState, project_label, project_round
from campaign.store import CampaignStore

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceEntry, ReferenceSet


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
    """Settings of further labels by their names in `labels.then`."""

    def do(self, action: Action, state: CampaignState) -> CampaignState:
        """Carry out one action; repeating it changes nothing."""
        match action:
            case OpenRound():
                return self._open_round(action.round, state)
            case FixScoring():
                return self._fix_scoring(action.round, state)
            case Select():
                return self._select(action, state)
            case AddReferences():
                return self._add_references(state)
            case Judge():
                return self._judge(action.labels, state)
            case FollowUp():
                return self._follow_up(action.labels, state)
        raise TypeError(f"the driver does not do {action!r} itself")

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
        return state.with_round(project_round(document, ()))

    def _fix_scoring(self, index: int, state: CampaignState) -> CampaignState:
        """Let this round's survivors compete with the best of the backlog."""
        fresh = state.rounds[index].survivors(len(self.spec.segments))
        backlog = self.store.query(
            "candidates",
            {"state": CandidateStatus.SCREENED.value, "round": {"$lt": index}},
            fields=["_id", "score"],
        )
        best = sorted(backlog, key=lambda one: (-_score(one), one["_id"]))
        ids = fresh + [one["_id"] for one in best[: self.config.acquisition.backlog]]
        chunks = [list(chunk) for chunk in self.spec.chunks(ids)]
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
        chosen = choose(ranking, action.n, config, pending)
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
        from pymatgen.core import Composition

        references = list(
            self.store.query(
                "labels",
                {"purpose": "reference", "state": "done", "settings_hash": self.settings_hash},
                fields=["_id", "formula", "result.energy_per_atom", "result.mp_correction_per_atom"],
            )
        )
        kind = self.config.labels.hull
        phases = []
        if kind != "engine":
            within = self.reference.within(self.config.chemistry.elements)
            phases = [entry for entry in within.hull_entries if len(entry.elements) > 1]
        hull = EngineHull(references, phases, corrected=kind == "materials_project")
        limit = self.config.labels.stable_ev_per_atom
        projected = []
        for name in labels:
            label = self.store.get("labels", name) or {}
            found = hull.judge(Composition(label["formula"]), label["result"])
            above = found.e_above_hull
            fields = {
                "result.formation_energy_per_atom": found.formation_energy_per_atom,
                "result.e_above_hull": above,
                "result.stable": label["purpose"] == "candidate" and above is not None and above <= limit,
                "judged": True,
                "judged_on": {"hull": kind, "settings_hash": self.settings_hash},
            }
            self.store.set_fields("labels", name, fields)
            projected.append(project_label(self.store.get("labels", name) or {}))
            if label["purpose"] == "candidate" and above is not None:
                self.store.log_event(
                    "labelled", f"{label['formula']}: e_above_hull {above:+.3f} eV/atom", label=name
                )
        return state.with_labels(projected)

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


def _score(candidate: Mapping[str, Any]) -> float:
    """Return a candidate's last score; one that never had any comes last."""
    score = candidate.get("score")
    return float("-inf") if score is None else float(score)


def candidate_state(label: LabelState) -> str:
    """Return the state of the candidate that a label belongs to."""
    by_label = {
        LabelStatus.QUEUED: CandidateStatus.SELECTED,
        LabelStatus.RUNNING: CandidateStatus.LABELLING,
        LabelStatus.DONE: CandidateStatus.LABELLED,
        LabelStatus.FAILED: CandidateStatus.FAILED,
    }
    return by_label[label.state].value


def reference_phases(config: CampaignConfig, reference: ReferenceSet) -> list[ReferenceEntry]:
    """Return the phases whose labels put e_above_hull on the engine's scale: elements first.

    A hull source may hold energies only; then the crystal comes from the crystals of the same formula, the lowest.

    Raises:
        ReferenceDataError: A terminal element, or a phase that the hull needs, has no crystal to compute.
    """
    elements = config.chemistry.elements
    within = reference.within(elements)
    needed = ReferenceHull(within.hull_entries).vertices(elements)
    if config.labels.hull != "engine":
        needed = [entry for entry in needed if len(entry.elements) == 1]
    crystals = _lowest_crystals(within)
    missing = [entry.formula for entry in needed if entry.raw is None and entry.formula not in crystals]
    if missing:
        raise ReferenceDataError(
            f"hull phases have an energy but no crystal to compute with the engine ({', '.join(missing[:8])})",
            cure="add their crystals to reference.crystals"
            + ("" if config.labels.hull != "engine" else ", or set labels.hull: reference"),
        )
    return [entry if entry.raw is not None else crystals[entry.formula] for entry in needed]


def _lowest_crystals(reference: ReferenceSet) -> dict[str, ReferenceEntry]:
    """Return formula -> the crystal with the lowest known energy; one without is taken only for want of another."""

    def height(entry: ReferenceEntry) -> tuple[float, float, str]:
        above, energy = entry.e_above_hull, entry.formation_energy_per_atom
        return (math.inf if above is None else above, math.inf if energy is None else energy, entry.entry_id)

    found: dict[str, ReferenceEntry] = {}
    for entry in reference.with_structure:
        known = found.get(entry.formula)
        if known is None or height(entry) < height(known):
            found[entry.formula] = entry
    return found
