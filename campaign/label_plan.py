"""What runs next of the labels that are chosen, and which ones are to be judged; part of `campaign.plan`."""

from __future__ import annotations

from collections.abc import Iterator

from campaign.actions import Action, BuildLabel, RunJob
from campaign.documents import LabelStatus
from campaign.fitting import ALONE, JOB_KEY, JOB_POOL
from campaign.state import CampaignState, JobState, LabelState
from flows.graph import runnable as runnable_records


def label_tasks(state: CampaignState, *, begin: bool, one_machine: bool) -> Iterator[Action]:
    """Yield builds and jobs of labels: references first, then by round and rank; begun ones go on after a stop."""
    open_labels = [label for label in state.labels.values() if not label.final]
    open_labels.sort(key=lambda label: (label.purpose != "reference", label.round, label.rank, label.id))
    begun = [label for label in open_labels if label.begun]
    rest = [label for label in open_labels if not label.begun] if begin else []
    for label in begun + rest:
        if label.jobs:
            for job in runnable(label):
                alone = job.alone and one_machine  # nodes share no memory: emptying a whole pool frees none
                key = f"{JOB_KEY}{label.id}/{job.uuid}/{job.index}" + (ALONE if alone else "")
                yield RunJob(key, JOB_POOL, label.id, job.uuid, job.index, alone)
        else:
            yield BuildLabel(f"build/{label.id}", "cpu", label.id)


def runnable(label: LabelState) -> list[JobState]:
    """Return the jobs that are queued and whose parents are all done."""
    known = {(job.uuid, job.index): job for job in label.jobs}
    done = {key for key, job in known.items() if job.state == LabelStatus.DONE}
    busy = {key for key, job in known.items() if job.state not in (LabelStatus.DONE, LabelStatus.QUEUED)}
    return [known[key] for key in runnable_records([job.record() for job in label.jobs], done, busy)]


def to_judge(state: CampaignState) -> list[str]:
    """Return the labels whose references are all final: those of first labels, or of their rung.

    Without an element nothing can be judged: those labels wait until it was tried again.
    """
    awaited = {label.step for label in state.references() if not label.final or label.is_lost_element}
    if not state.references_known:
        awaited.add(None)
    return [
        label.id
        for label in state.labels.values()
        if label.state == LabelStatus.DONE and not label.judged and label.step not in awaited
    ]


def to_follow(state: CampaignState) -> list[str]:
    """Return the labels of candidates that are decided and were not asked yet what follows."""
    return [
        label.id
        for label in state.labels.values()
        if label.purpose != "reference" and label.final and label.judged and not label.followed
    ]
