"""The documents of a campaign, as they lie in the store: one frozen model each, one docstring per field.

A document is created from its model once and afterwards changed by small field updates (`store.set_fields`).
Times are UTC in ISO 8601. Structures are pymatgen dictionaries. Large objects never go into a document.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class CampaignStatus(StrEnum):
    """State of a campaign."""

    RUNNING = "running"
    """A driver holds, or held when it died, the lease."""
    STOPPED = "stopped"
    """Drained on request; `campaign resume` carries on."""
    FINISHED = "finished"
    """A budget was used up or nothing was left to do."""
    FAILED = "failed"
    """It cannot go on without help; `reason` says why."""


class CandidateStatus(StrEnum):
    """State of a candidate."""

    SAMPLED = "sampled"
    """Made by a generator; its screening has not ended."""
    SCREENED = "screened"
    """Passed every screen: in the backlog that selection ranks."""
    REJECTED = "rejected"
    """Stopped by a screen (`rejected_by`, `reason`). Final."""
    SELECTED = "selected"
    """Chosen for a label that waits for a slot."""
    LABELLING = "labelling"
    """Its label runs."""
    LABELLED = "labelled"
    """Its label is done. Final."""
    FAILED = "failed"
    """Its label failed for good. Final."""


class LabelStatus(StrEnum):
    """State of a label, and of each of its jobs."""

    QUEUED = "queued"
    """Waits for a slot, or for an earlier job."""
    RUNNING = "running"
    """Given to a pool; after a crash resume sets it back to queued."""
    DONE = "done"
    """Its result is durable. Final."""
    FAILED = "failed"
    """Given up after its attempts (`failure`). Final."""


class ModelStatus(StrEnum):
    """State of a model version."""

    PROMOTED = "promoted"
    """Passed the gate: judges and samples from now on."""
    REJECTED = "rejected"
    """Did not pass the gate; kept with its figures."""
    LOST = "lost"
    """Its checkpoint is damaged; it is trained again."""


FINAL_LABEL = frozenset({LabelStatus.DONE, LabelStatus.FAILED})


class Document(BaseModel):
    """A document of the store; `id` is stored as `_id`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_enum_values=True)

    id: str = Field(alias="_id")

    def doc(self) -> dict[str, Any]:
        """Return the plain document."""
        return self.model_dump(mode="json", by_alias=True)


class CampaignDocument(Document):
    """One per campaign: what it is, how far it is, what it used."""

    name: str
    state: CampaignStatus = CampaignStatus.RUNNING
    reason: str = ""
    """Why it stopped, finished or failed."""
    config: dict[str, Any]
    """campaign.yaml with every default filled in."""
    config_hash: str
    """Hash of the part that decides which labels are computed."""
    seed: int
    run_dir: str
    """Absolute folder of checkpoints, logs and work."""
    versions: dict[str, str] = {}
    """Package versions of the driver."""
    reference: dict[str, Any] = {}
    """Prepared reference file: path, sha256, counts, what was set aside."""
    settings_hash: str = ""
    """Hash of the label settings (flow, engine, options)."""
    rung_hashes: dict[str, str] = {}
    """The same of each rung of the ladder."""
    epoch: int = 0
    """Number of the lease under which a driver last began to work, its pools being there."""
    usage: dict[str, float] = {}
    """Used so far: `core_hours`, `node_hours`, `wall_seconds`, worked out from labels and blocks (`campaign.usage`);
    and sums over tasks: number and seconds per kind, core-hours of those that are no label's jobs."""
    warned: dict[str, float] = {}
    """Budgets whose near end was told: name -> limit."""
    durations: dict[str, Any] = {}
    """What tasks that are no labels' jobs took, as sums by kind; see `campaign.durations`."""
    created: str
    stop_requested: str | None = None
    """`drain` or `now`, set by `campaign stop`."""


class RoundDocument(Document):
    """One per round: which batches are in, what was chosen."""

    campaign: str
    index: int
    batches: dict[str, dict[str, Any]] = {}
    """Sampling batch -> {asked, returned, new, generator, version, seconds}."""
    scored: dict[str, int] = {}
    """Scoring chunks that are complete -> candidates scored."""
    to_score: list[list[str]] | None = None
    """Chunks of candidate ids to score, fixed when screening has ended."""
    selected: list[str] | None = None
    """Candidate ids chosen for labels, best first; None until the choice was made."""
    shares: list[float] | None = None
    """Share of each generator in the samples, in their order, where shares adapt; None: as configured."""
    inspection: dict[str, Any] | None = None
    """Its labels against what was believed of them, see `campaign.alarms.Inspection`; None before they are known."""
    created: str


class LadderDocument(Document):
    """One per step of the ladder: who climbed, and what that was decided by; see `campaign.acquisition.ladder`."""

    campaign: str
    index: int
    round: int
    """The round whose place in the campaign it has."""
    last: bool = False
    """Whether no round was left, so that nothing competed."""
    climbs: list[dict[str, Any]] = []
    """The best first: root (the candidate's first label), rung, label, rank, stable_probability, value (stable crystals
    per core-hour) and core_hours expected."""
    opened: list[str] = []
    """Judged rungs that somebody climbed for the first time: their references are made in this step."""
    fresh_core_hours: float = 0.0
    """Expected of the first labels of its round."""
    price: float = 0.0
    """Value of the least fresh candidate of its round."""
    errors: dict[str, dict[str, float]] = {}
    """What was known of each judged rung: {bias, std} [eV/atom] and pairs."""
    done_seen: int = 0
    """Labels that were done; in a last step, all of them."""
    made: bool = False
    """All of its labels are in the store."""
    created: str


class CandidateDocument(Document):
    """One per unique structure; `_id` is the content hash of the reduced, standardised structure."""

    campaign: str
    state: CandidateStatus = CandidateStatus.SAMPLED
    round: int
    order: int
    """Place among the candidates of its round: the order in which ties are broken."""
    formula: str
    chemsys: str
    n_atoms: int
    spacegroup: int
    generator: str
    model_version: str
    """Version of the generator that made it."""
    seed: int
    """Seed of the batch that made it."""
    structure: dict[str, Any]
    """As sampled."""
    screened_structure: dict[str, Any] | None = None
    """After the screens, for example relaxed with the surrogate."""
    bucket: str
    """Coarse fingerprint; duplicates share it."""
    segment: int = 0
    """Screening segments passed."""
    rejected_by: str | None = None
    reason: str | None = None
    predictions: dict[str, Any] = {}
    """What the screens, the surrogate, heads and discriminators said: {name: value or {mean, std}}."""
    judged_by: dict[str, str] = {}
    """Model key -> version that made the predictions."""
    score: float | None = None
    """Acquisition score at the last selection; higher is better."""
    label_id: str | None = None
    created: str


class LabelDocument(Document):
    """One per structure and engine settings; `_id` is the hash of those, so it is never paid for twice."""

    campaign: str
    candidate_id: str
    purpose: str = "candidate"
    """`candidate`; `reference` for elements and hull phases; `follow_up` for further labels of a candidate."""
    parent: str | None = None
    """Of a further label: the candidate's first one."""
    step: str | None = None
    """Of a further label: its name in `labels.then` or its rung in `labels.ladder`; of references, the rung they are
    for."""
    rung: int = 0
    """Place of its rung in `labels.ladder`, from 1; 0 for other labels."""
    followed: bool = False
    """Its outcome has been asked whether further labels are wanted."""
    round: int
    """Round of the selection, or of the step of the ladder; -1 for references."""
    rank: int
    """Place in its selection; 0 is the best. Who climbs stands where its value would among the fresh candidates."""
    state: LabelStatus = LabelStatus.QUEUED
    flow: str
    engine: str
    settings: dict[str, Any]
    settings_hash: str
    formula: str
    chemsys: str
    structure: dict[str, Any]
    """What the engine starts from."""
    predicted: dict[str, Any] = {}
    """Predictions at selection, kept for judging the models."""
    models: dict[str, str] = {}
    """Model key -> version at selection."""
    jobs: list[dict[str, Any]] = []
    """Jobs of the flow in order: {uuid, index, name, parents, state, alone}."""
    attempts: list[dict[str, Any]] = []
    """Every try of a job: job, index, name, n_atoms of the label, cause and message (None on success), host, pid,
    started, ended, wall_seconds, core_hours, the folder with its logs, its cures, how many geometries further it took a
    relaxation (of a lost one: 1 if it left any), whether its block_ended, and whether it is forgiven: `machine` where
    the machine cut it, true where a person asked for the label again."""
    result: dict[str, Any] | None = None
    """LabelDoc of the engine plus formation_energy_per_atom, e_above_hull [eV/atom] and stable."""
    failure: dict[str, Any] | None = None
    """{cause, message, detail} of the last attempt when the label failed for good."""
    judged: bool = False
    """Its formation energy and distance to the hull have been worked out, as far as they can be."""
    judged_on: dict[str, str] = {}
    """What these are relative to: {hull, settings_hash} of `labels.hull` and of the reference labels."""
    verdict: dict[str, Any] | None = None
    """Of a first label, in a campaign with a ladder: e_above_hull, formation_energy_per_atom, stable, rung, step and
    label of the highest judged rung that is done."""
    core_hours: float = 0.0
    created: str
    ended: str | None = None


class ModelDocument(Document):
    """One per model version, promoted or not."""

    campaign: str
    key: str
    """Role and kind, for example `head-0-cgcnn`."""
    term: int
    """0: fitted on the reference; t: fine-tuned on the labels of the rounds before round t."""
    state: ModelStatus
    parent: str | None = None
    labels: list[str] = []
    """Ids of the labels it was trained on."""
    metrics_before: dict[str, Any] = {}
    metrics_after: dict[str, Any] = {}
    gate: dict[str, Any] = {}
    """What the gate looked at, see `campaign.gating`: group of held-out crystals, or property of samples -> figures."""
    verdict: str = ""
    quarantined: list[int] = []
    """Rounds whose labels were kept from it, see `campaign.quarantine`."""
    checkpoint: str | None = None
    """Absolute folder of the weights."""
    sha256: str | None = None
    seconds: float = 0.0
    trained: str = ""
    """When its training ended, by the worker's clock."""
    retrained: bool = False
    """Its checkpoint was lost once: what was judged by the lost one may differ in the last digits."""
    first_used: str | None = None
    """When the first candidate that it made or judged was recorded."""
    created: str


class BlockDocument(Document):
    """One per block of a pool: workers that were started together; and one per driver (pool `driver`)."""

    campaign: str
    epoch: int
    """Number of the lease of the driver that started it."""
    pool: str
    block_id: str
    """Number within the pool."""
    job_id: str
    """Of the batch system's job, or of a local process."""
    provider: str
    """What started it: `local`, `slurm`, ...; `driver`."""
    host: str
    """The driver's; where local blocks run."""
    marker: str
    """What its processes carry in their environment, see `campaign.parallel.processes`."""
    nodes: int
    """Nodes that it holds by itself; local blocks share the driver's, which holds one while there are any."""
    cores_per_node: int | None = None
    state: str
    """`queued`, `running` or `ended`."""
    submitted: str | None = None
    started: str | None = None
    ended: str | None = None
    seen: str | None = None
    """Of a driver: when it last wrote that it is there."""
    message: str = ""
    """Why it ended, where that is known."""


def now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def derive_seed(seed: int, *parts: object) -> int:
    """Return the seed of one task from the campaign's seed and the task's name, in [0, 2**32)."""
    digest = hashlib.sha256(json.dumps([seed, *map(str, parts)]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def label_id(candidate_id: str, settings_hash: str) -> str:
    """Return the `_id` of the label of a structure under given settings."""
    return hashlib.sha256(f"{candidate_id}|{settings_hash}".encode()).hexdigest()[:32]


def round_id(campaign: str, index: int) -> str:
    """Return the `_id` of a round."""
    return f"{campaign}-{index:05d}"


def step_id(campaign: str, index: int) -> str:
    """Return the `_id` of a step of the ladder."""
    return f"{campaign}-{index:05d}"


def version_id(campaign: str, key: str, term: int) -> str:
    """Return the `_id` of a model version."""
    return f"{campaign}-{key}-t{term:04d}"
