"""What a dead driver left behind: read it, decide what is done about it, write that. `decide` is pure.

Every step may itself be cut off and is repeated at the next start. `campaign recover --dry-run` reads and decides,
and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from campaign.actions import RunJob
from campaign.blocks import Remains, ended_with_driver, last_seen
from campaign.documents import FINAL_LABEL, CandidateStatus, LabelStatus
from campaign.failures import DRIVER
from campaign.recording import attempt_of
from campaign.store import CampaignStore

Document = dict[str, Any]
Update = tuple[str, Document]
"""`_id` and the fields to set."""

JOB_LOST = "node_lost"
"""Cause of a try that ended with its driver; it is forgiven."""

CANDIDATE_OF = {
    LabelStatus.QUEUED: CandidateStatus.SELECTED,
    LabelStatus.RUNNING: CandidateStatus.SELECTED,  # it is queued again
    LabelStatus.DONE: CandidateStatus.LABELLED,
    LabelStatus.FAILED: CandidateStatus.FAILED,
}
"""State of the candidate that a label belongs to, once running labels were set back."""


@dataclass(frozen=True)
class Trace:
    """What a job that is not done has left in its folder."""

    folder: str
    result: bool = False
    """A whole result lies there: it will be adopted, and not computed again."""
    begun: float | None = None
    """When a worker last began it [s since 1970]."""
    held: bool = False
    """A worker is still at it."""


@dataclass(frozen=True)
class Left:
    """What was found; documents as they lie in the store."""

    labels: Sequence[Document] = ()
    """Open labels that have jobs, and failed ones that had further jobs running."""
    traces: Mapping[tuple[str, str, int], Trace] = field(default_factory=dict)
    """(label, job, index) -> trace."""
    unsettled: Mapping[str, str] = field(default_factory=dict)
    """Chosen candidates whose state is not final -> state."""
    owned: Sequence[Document] = ()
    """Their labels: `_id`, `candidate_id`, `state`."""
    blocks: Sequence[Document] = ()
    remains: Mapping[str, Remains] = field(default_factory=dict)
    """`_id` of a block that did not end -> what is known of it."""


@dataclass(frozen=True)
class Sweep:
    """What is to be written."""

    labels: Sequence[Update] = ()
    candidates: Sequence[Update] = ()
    blocks: Sequence[Document] = ()
    adopted: Sequence[tuple[str, str]] = ()
    """(label, folder) of jobs whose result lies there; for reports."""

    def counts(self) -> dict[str, int]:
        """Return how much there is of each."""
        return {
            "labels": len(self.labels),
            "candidates": len(self.candidates),
            "blocks": len(self.blocks),
            "results": len(self.adopted),
        }


def read_left(store: CampaignStore, work: Path, remains: Mapping[str, Remains]) -> Left:
    """Read what a dead driver left.

    Args:
        store: The campaign's store.
        work: Folder of the jobs' folders.
        remains: See `Left`.
    """
    open_ones = {"state": {"$in": [LabelStatus.QUEUED.value, LabelStatus.RUNNING.value]}}
    failed_ones = {"state": LabelStatus.FAILED.value, "jobs.state": LabelStatus.RUNNING.value}
    fields = [
        "_id",
        "state",
        "formula",
        "candidate_id",
        "purpose",
        "jobs",
        "attempts",
        "core_hours",
        "structure",
    ]
    labels = [
        one
        for which in (open_ones, failed_ones)
        for one in store.query("labels", which, fields=fields)
        if one.get("jobs")
    ]
    unsettled = _unsettled(store)
    owned = store.query(
        "labels",
        {"candidate_id": {"$in": sorted(unsettled)}, "purpose": {"$ne": "follow_up"}, "step": None},
        fields=["_id", "candidate_id", "state"],
    )
    return Left(
        labels=labels,
        traces={
            (label["_id"], job["uuid"], job["index"]): _trace(work, label, job)
            for label, job in _open_jobs(labels)
        },
        unsettled=unsettled,
        owned=list(owned),
        blocks=list(store.query("blocks")),
        remains=remains,
    )


def decide(left: Left, *, cores: int | None, current: float) -> Sweep:
    """Say what a start sets right. Pure.

    Running labels and jobs are queued again; so are running jobs of a label that has failed by another job of it, which
    would else count as running for ever once the label is tried again. What a cut-off try has cost is known from when
    its worker began it and when its driver was last seen; it becomes an attempt that is forgiven. Candidates get the
    state of their label, where a crash fell between the two writes. Blocks of dead drivers have ended.

    Args:
        left: What was found.
        cores: Cores of a job; None where jobs outlive their driver, so that none was cut off.
        current: Seconds since 1970.
    """
    seen = [moment for moment in last_seen(left.blocks).values() if moment]
    ended = datetime.fromisoformat(max(seen)).timestamp() if seen and cores else None
    labels = []
    for label in left.labels:
        running = [job for job in label["jobs"] if job["state"] == LabelStatus.RUNNING]
        if not running and label["state"] != LabelStatus.RUNNING:
            continue
        tries = [
            _cut_off(label, job, left.traces[label["_id"], job["uuid"], job["index"]], ended, cores)
            for job in running
            if cores and ended
        ]
        lost = [one for one in tries if one is not None]
        labels.append((label["_id"], _set_back(label, lost)))
    failed = {label["_id"] for label in left.labels if label["state"] == LabelStatus.FAILED}
    return Sweep(
        labels=labels,
        candidates=_mended(left),
        blocks=ended_with_driver(left.blocks, left.remains, current),
        adopted=[
            (label, trace.folder)
            for (label, *_), trace in left.traces.items()
            if trace.result and label not in failed
        ],
    )


def write(store: CampaignStore, sweep: Sweep) -> None:
    """Write a sweep: each document in one step, so that being cut off between any two does no harm."""
    if sweep.labels:
        store.set_fields_many("labels", sweep.labels)
    if sweep.candidates:
        store.set_fields_many("candidates", sweep.candidates)
    for document in sweep.blocks:
        store.put("blocks", document)
    if any(sweep.counts().values()):
        store.log_event("swept", f"set back {len(sweep.labels)} running labels", **sweep.counts())


def _unsettled(store: CampaignStore) -> dict[str, str]:
    """Return the state of chosen candidates that is not final.

    Those that were chosen and do not know it yet matter most: in the backlog they would be chosen again.
    """
    chosen = [
        name for one in store.query("rounds", fields=["selected"]) for name in one.get("selected") or ()
    ]
    unsettled = [CandidateStatus.SCREENED, CandidateStatus.SELECTED, CandidateStatus.LABELLING]
    found = store.query(
        "candidates", {"_id": {"$in": chosen}, "state": {"$in": [state.value for state in unsettled]}},
        fields=["_id", "state"],
    )  # fmt: skip
    return {one["_id"]: one["state"] for one in found}


def _open_jobs(labels: Sequence[Document]) -> Iterator[tuple[Document, Document]]:
    for label in labels:
        for job in label["jobs"]:
            if LabelStatus(job["state"]) not in FINAL_LABEL:
                yield label, job


def _trace(work: Path, label: Document, job: Document) -> Trace:
    from flows.errors import JobFolderError
    from flows.job_files import lock_state, read_result

    folder = work / label["_id"] / f"{job['uuid']}-{job['index']}"
    if not folder.is_dir():
        return Trace(str(folder))
    try:
        result = read_result(folder, job["uuid"], job["index"]) is not None
    except JobFolderError:  # another job's: told when the job runs
        result = False
    begun, held = lock_state(folder)
    return Trace(str(folder), result, begun, held)


def _cut_off(label: Document, job: Document, trace: Trace, ended: float, cores: int) -> Document | None:
    """Return the try of a job that ended with its driver; None if none did, or its result or its worker is there."""
    earlier = [
        datetime.fromisoformat(one["ended"]).timestamp()
        for one in label["attempts"]
        if (one["job"], one["index"]) == (job["uuid"], job["index"]) and one.get("ended")
    ]
    if trace.result or trace.held or trace.begun is None or trace.begun <= max(earlier, default=0.0):
        return None
    seconds = max(0.0, ended - trace.begun)
    result = {
        "started": _iso(trace.begun),
        "ended": _iso(trace.begun + seconds),
        "wall_seconds": seconds,
        "core_hours": seconds * cores / 3600,
        "folder": trace.folder,
    }
    failure = {"cause": JOB_LOST, "message": "its driver ended"}
    action = RunJob("", None, label["_id"], job["uuid"], job["index"])
    return {**attempt_of(action, result, label, failure), "forgiven": DRIVER}


def _set_back(label: Document, lost: Sequence[Document]) -> Document:
    """Return the fields of a label whose jobs wait again, its cut-off tries noted; one that failed stays so."""
    jobs = [
        {**job, "state": LabelStatus.QUEUED.value} if job["state"] == LabelStatus.RUNNING else job
        for job in label["jobs"]
    ]
    failed = label["state"] == LabelStatus.FAILED
    fields: Document = {"jobs": jobs, "state": (LabelStatus.FAILED if failed else LabelStatus.QUEUED).value}
    if lost:
        fields["attempts"] = [*label["attempts"], *lost]
        fields["core_hours"] = label["core_hours"] + sum(one["core_hours"] for one in lost)
    return fields


def _mended(left: Left) -> list[Update]:
    updates: list[Update] = []
    for label in left.owned:
        name, state = label["candidate_id"], CANDIDATE_OF[LabelStatus(label["state"])].value
        if left.unsettled[name] != state:
            updates.append((name, {"state": state, "label_id": label["_id"]}))
    return updates


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def sweep(store: CampaignStore, work: Path, *, cores: int | None, remains: Mapping[str, Remains]) -> Sweep:
    """Read, decide and write; return what was written."""
    done = decide(read_left(store, work, remains), cores=cores, current=time.time())
    write(store, done)
    return done
