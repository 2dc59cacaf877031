"""`campaign retry`: failed labels are queued again, their attempts forgiven and kept.

Only a driver writes documents. A live one finds a request in the run folder's `control/` and acts on it within a
second; without one, the command takes the campaign's lease, writes, and gives it back.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from campaign.documents import CandidateStatus, LabelStatus
from campaign.errors import QueryError
from campaign.lease import holder, holding
from campaign.run_folder import RunFolder, find_run, private_files, remove, write_atomic
from campaign.store import CampaignStore
from flows.schemas import FailureCause

REQUESTS = "retry-*.json"
"""Requests to the driver, in the run folder's `control/`."""

SHOWN = 8
"""Most ids that an error lists."""


@dataclass(frozen=True)
class Which:
    """Failed labels: of any of these causes, and of these candidates or labels; all where nothing is named."""

    causes: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Everything that is named by its id."""
        return self.candidates + self.labels

    def filter(self) -> dict[str, Any]:
        """Return what finds them in the store."""
        found: dict[str, Any] = {"state": LabelStatus.FAILED.value}
        if self.causes:
            found["failure.cause"] = {"$in": list(self.causes)}
        named = [
            {field: {"$in": list(ids)}}
            for field, ids in (("candidate_id", self.candidates), ("_id", self.labels))
            if ids
        ]
        return {**found, "$or": named} if named else found

    @classmethod
    def of(cls, document: object) -> Which:
        """Return what `asdict` has made a document of.

        Raises:
            ValueError: It is none.
        """
        names = ("causes", "candidates", "labels")
        if not isinstance(document, Mapping) or not set(names) <= document.keys():
            raise ValueError("no request to retry labels")
        lists = {name: document[name] for name in names}
        if not all(isinstance(one, list) and all(isinstance(x, str) for x in one) for one in lists.values()):
            raise ValueError("no lists of texts")
        return cls(**{name: tuple(one) for name, one in lists.items()})


def which_of(failed: bool, causes: Iterable[str], candidates: Iterable[str], labels: Iterable[str]) -> Which:
    """Return what the command line names.

    Raises:
        QueryError: It names nothing.
    """
    which = Which(tuple(causes), tuple(candidates), tuple(labels))
    if which == Which() and not failed:
        raise QueryError(
            "nothing says which labels to try again",
            allowed="--failed for all, or --cause, --candidate, --label",
            cure="name some",
        )
    return which


def request_retry(run: Path, which: Which) -> str:
    """Queue failed labels again, or have the driver do it; return what to tell the user.

    Raises:
        RunNotFoundError: There is no campaign at `run`.
        QueryError: A cause or an id that no failed label has.
        LeaseError: Another process took the campaign in this moment.
    """
    folder = find_run(run)
    name = folder.config().name
    with folder.store() as store:
        number = len(_checked(store, which))
        driver = holder(store, name)
    if not number:
        return f"no label of {name} has failed: nothing to try again"
    if driver is not None and driver.is_live:
        file = f"retry-{time.time_ns()}-{os.getpid()}.json"
        write_atomic(folder.control / file, json.dumps(asdict(which)))
        return f"asked the driver of {name} to try {_labels(number)} again"
    with private_files(), folder.store(read_only=False) as store, holding(store, name):
        number = len(retry_failed(store, which))
    return f"{_labels(number)} {_wait(number)} again; `campaign resume {folder.path}` runs them"


def requested(folder: RunFolder) -> Iterator[tuple[Path, Which | None]]:
    """Yield the requests in a run folder, oldest first; None for one that is torn."""
    for path in sorted(folder.control.glob(REQUESTS)):
        try:
            yield path, Which.of(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            yield path, None


def act_on_requests(store: CampaignStore, folder: RunFolder) -> list[str]:
    """Carry out what was asked for, then remove the requests; return the ids of the labels that wait again."""
    labels = []
    for path, which in requested(folder):
        if which is None:
            store.log_event("request_ignored", f"{path.name} is torn; ask again with `campaign retry`")
        else:
            labels += retry_failed(store, which)
        remove(path)
    return labels


def retry_failed(store: CampaignStore, which: Which = Which()) -> list[str]:  # frozen
    """Queue labels again that were given up, with their attempts forgiven; return their ids.

    What their jobs finished before is kept; only the failed jobs run again.
    """
    labels = list(store.query("labels", which.filter()))
    for label in labels:
        if label["purpose"] == "candidate":
            state = {"state": CandidateStatus.SELECTED.value}
            store.set_fields("candidates", label["candidate_id"], state)
        store.set_fields("labels", label["_id"], queued_again(label))
    if labels:
        causes = Counter((label.get("failure") or {}).get("cause") for label in labels)
        words = ", ".join(f"{cause} {number}" for cause, number in sorted(causes.items(), key=str))
        store.log_event(
            "retried", f"{_labels(len(labels))} {_wait(len(labels))} again ({words})", **asdict(which)
        )
    return [label["_id"] for label in labels]


def queued_again(label: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a failed label that waits again. Pure."""
    jobs = [
        {**job, "state": LabelStatus.QUEUED.value} if job["state"] == LabelStatus.FAILED else job
        for job in label["jobs"]
    ]
    return {
        "jobs": jobs,
        "attempts": [{**attempt, "forgiven": True} for attempt in label["attempts"]],
        "state": LabelStatus.QUEUED.value,
        "failure": None,
        "ended": None,
        "followed": False,  # what it calls for is asked again once it is done
    }


def _checked(store: CampaignStore, which: Which) -> list[str]:
    """Return the ids of the failed labels that are meant.

    Raises:
        QueryError: A cause or an id that no failed label has; it lists what there is.
    """
    fields = ["_id", "candidate_id", "failure.cause"]
    failed = list(store.query("labels", {"state": LabelStatus.FAILED.value}, fields=fields))
    causes = Counter((one.get("failure") or {}).get("cause") for one in failed)
    if not failed and all(one in set(FailureCause) for one in which.causes) and not which.ids:
        return []
    told = [f"{cause} ({number})" for cause, number in sorted(causes.items(), key=str)]
    candidates, labels = {one["candidate_id"] for one in failed}, {one["_id"] for one in failed}
    _all_known("of this cause", which.causes, {str(cause) for cause in causes}, told)
    _all_known("of this candidate", which.candidates, candidates, _some(candidates))
    _all_known("with this id", which.labels, labels, _some(labels))
    return [one["_id"] for one in store.query("labels", which.filter(), fields=["_id"])]


def _all_known(what: str, names: Iterable[str], known: Collection[str], told: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise QueryError(
                f"no label {what} has failed", value=name, allowed=told or "none, for no label has failed",
                cure="`campaign query RUN labels '{\"state\": \"failed\"}'` shows them",
            )  # fmt: skip


def _some(ids: Iterable[str]) -> list[str]:
    every = sorted(set(ids))
    return every[:SHOWN] + ([f"and {len(every) - SHOWN} more"] if len(every) > SHOWN else [])


def _labels(number: int) -> str:
    return f"{number} failed label" + ("s" if number != 1 else "")


def _wait(number: int) -> str:
    return "wait" if number != 1 else "waits"
