"""How long the driver's tasks take: what it expects of each before it is placed, and what it learns when it ended.

The estimate itself is `campaign.durations`. Times of labels' jobs are learned from the attempts of the labels, on
resume as well; those of other tasks are kept as sums in the campaign's document (`durations`). They say where a task
may be placed, and never what is computed or chosen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.actions import Action, BuildLabel, RunJob, Sample, Score, Screen, Train
from campaign.config import CampaignConfig
from campaign.durations import Durations, Observation, Prior
from campaign.failures import tries_of
from campaign.store import CampaignStore
from flows.schemas import FailureCause

LONGER = 1.5
"""What a job is given at least after a block that it used up in vain, in times of what it had there."""

FIRST_LABELS = "first"
"""Stands where further labels have their name in `labels.then` or `labels.ladder`."""


@dataclass(frozen=True)
class TaskTimes:
    """Expected and measured times of one campaign's tasks."""

    store: CampaignStore
    durations: Durations

    @classmethod
    def of(
        cls, store: CampaignStore, config: CampaignConfig, campaign: Mapping[str, Any], cores_per_job: int = 1
    ) -> TaskTimes:
        """Return what the store's past says.

        Args:
            store: The store.
            config: The campaign's configuration.
            campaign: Its document.
            cores_per_job: Cores that a worker of the pool `dft` holds.
        """
        durations = Durations(priors(config, cores_per_job))
        durations.read(campaign.get("durations") or {})
        for label in store.query("labels", fields=["_id", "step", "attempts"]):
            for one in observations(label):
                durations.learn(one)
        return cls(store, durations)

    def expected_s(self, action: Action) -> float:
        """Return the time within which a task is expected to end [s]."""
        if not isinstance(action, RunJob):
            return self.durations.expected_s(*kind_and_size(action))
        label = self.store.get("labels", action.label) or {}
        name = next(
            job["name"] for job in label["jobs"] if (job["uuid"], job["index"]) == (action.job, action.index)
        )
        estimate = self.durations.expected_s(job_kind(label, name), len(label["structure"]["sites"]))
        return max(estimate, LONGER * used_in_vain_s(tries_of(label["attempts"], action.job, action.index)))

    def ended(self, action: Action, result: Mapping[str, Any]) -> None:
        """Learn from a task whose result has been recorded."""
        if isinstance(action, RunJob):
            label = self.store.get("labels", action.label) or {}
            tries = tries_of(label.get("attempts", ()), action.job, action.index)
            found = observation_of(label, tries)
        else:
            found = _measured(*kind_and_size(action), result)
        if found is not None:
            self.durations.learn(found)

    def document(self) -> dict[str, Any]:
        """Return what the labels do not tell, for the campaign's document."""
        return self.durations.document(kind for kind in self.durations.kinds() if not kind.startswith("job/"))


def priors(config: CampaignConfig, cores_per_job: int) -> dict[str, Prior]:
    """Return what is expected of tasks before any has ended: guesses, and the engines' own estimates of jobs.

    Those are of a relaxation with its static; other jobs may take less, which is soon learned.
    """
    from flows.registry import ENGINES, build

    labels, elements = config.labels, config.chemistry.elements
    found = {
        "sample": Prior(60.0, config.batching.sample),
        "screen": Prior(60.0, config.batching.screen),
        "score": Prior(60.0, config.batching.screen),
        "train": Prior(600.0),
        "build": Prior(5.0),
    }
    entries = {name: labels.follow_up(name) for name in labels.further}
    engines = {FIRST_LABELS: (labels.engine, labels.engine_options)}
    engines |= {name: (str(one.engine), one.engine_options or {}) for name, one in entries.items()}
    for name, (kind, options) in engines.items():
        engine = build(kind, ENGINES, "engine", options)
        atom, eight = (engine.expected_core_seconds(n, elements) / cores_per_job for n in (1, 8))
        found[f"job/{name}"] = Prior(eight, 8.0, max(0.0, math.log(eight / atom) / math.log(8)))
    return found


def kind_and_size(action: Action) -> tuple[str, float]:
    """Return the kind of a task that is no label's job, and its number of crystals."""
    match action:
        case Sample():
            return f"sample/{action.generator}", action.n
        case Screen():
            return f"screen/{action.segment}", len(action.ids)
        case Score():
            return "score", len(action.ids)
        case Train():  # the first fit takes the reference, later ones a few labels
            return f"train/{action.model}/{'later' if action.term else 'first'}", 1
        case BuildLabel():
            return "build", 1
    raise TypeError(f"no worker does {action!r}")


def job_kind(label: Mapping[str, Any], name: str) -> str:
    """Return the kind of a label's job: flows number their jobs, as in «relax 1/2» or «volume 0.94»."""
    plain = re.sub(r"[-\s\d/.]+$", "", name)
    return f"job/{label.get('step') or FIRST_LABELS}/{plain or name}"


def observations(label: Mapping[str, Any]) -> list[Observation]:
    """Return what all attempts of a label tell."""
    attempts = label.get("attempts", ())
    found = (
        observation_of(label, tries_of(attempts[: place + 1], one["job"], one["index"]))
        for place, one in enumerate(attempts)
    )
    return [one for one in found if one is not None]


def observation_of(label: Mapping[str, Any], tries: Sequence[Mapping[str, Any]]) -> Observation | None:
    """Return what the last try of a job tells of the time of such jobs; None if nothing.

    A relaxation that went on from the geometry of earlier tries took their time as well.

    Args:
        label: The label.
        tries: All tries of the job so far.
    """
    last = tries[-1] if tries else {}
    if not last.get("wall_seconds") or not last.get("n_atoms") or last.get("reused"):
        return None
    kind, seconds = job_kind(label, last["name"]), float(last["wall_seconds"])
    if last["cause"] is None:
        seconds += sum(float(one["wall_seconds"]) for one in tries[:-1] if _went_on_from(one))
        return Observation(kind, last["n_atoms"], seconds)
    if last["cause"] == FailureCause.WALLTIME:
        return Observation(kind, last["n_atoms"], seconds, whole=False)
    return None


def _went_on_from(one: Mapping[str, Any]) -> bool:
    """Return whether later tries went on from this one; of a lost one nobody measured how long it ran."""
    return bool(one.get("geometries")) and one["cause"] != FailureCause.NODE_LOST


def used_in_vain_s(tries: Sequence[Mapping[str, Any]]) -> float:
    """Return the longest time that a block gave a job which got nowhere in it [s]."""
    vain = [one for one in tries if one.get("block_ended") and not one.get("geometries")]
    return max((float(one["wall_seconds"] or 0.0) for one in vain), default=0.0)


def _measured(kind: str, size: float, result: Mapping[str, Any]) -> Observation | None:
    """Return what a task that is no label's job tells."""
    seconds = result.get("seconds")
    if not seconds:
        return None
    if result.get("ok", True):
        return Observation(kind, size, seconds)
    return Observation(kind, size, seconds, whole=False) if result["failure"].get("block_ended") else None
