"""Which jobs of labels run next."""

from __future__ import annotations

from dataclasses import replace

from test_plan import label, spec_with

from campaign.actions import RunJob
from campaign.documents import LabelStatus
from campaign.label_plan import runnable
from campaign.plan import plan
from campaign.state import CampaignState, JobState


def test_a_job_waits_for_its_parents_and_replaced_jobs_for_their_last_index():
    done, queued = LabelStatus.DONE, LabelStatus.QUEUED
    jobs = (
        JobState("a", 1, "first", (), done),
        JobState("a", 2, "replacement", (), queued),
        JobState("b", 1, "child", ("a",), queued),
    )
    waiting = replace(label("x", "candidate", 0, 0), jobs=jobs)
    assert [(job.uuid, job.index) for job in runnable(waiting)] == [("a", 2)]


def test_a_job_that_ran_out_of_memory_has_the_pool_to_itself_where_that_is_one_machine():
    jobs = {name: JobState(name, 1, name, (), LabelStatus.QUEUED, alone=name == "b") for name in "abc"}
    labels = [
        replace(label(name, "candidate", 0, rank), jobs=(jobs[name],)) for rank, name in enumerate("abc")
    ]
    state, spec = CampaignState(references_known=True).with_labels(labels), spec_with()

    def started(running: set[str], free: int) -> list[str]:
        actions = plan(state, spec, {"dft": free}, running)
        return [action.key for action in actions if isinstance(action, RunJob)]

    a, b, c = "job/label-a/a/1", "job/label-b/b/1/alone", "job/label-c/c/1"
    on_nodes = plan(state, replace(spec, one_machine=False), {"dft": 3}, set())
    assert [one.key for one in on_nodes] == [a, b.removesuffix("/alone"), c], (
        "other nodes' memory is of no use"
    )
    assert started(set(), 2) == [a], "what comes after the one that must be alone waits with it"
    assert started({a}, 1) == []
    state = state.with_labels([replace(labels[0], state=LabelStatus.DONE, judged=True)])
    assert started(set(), 2) == [b]
    assert started({b}, 1) == [], "while it runs nothing else does"
    state = state.with_labels([replace(labels[1], state=LabelStatus.DONE, judged=True)])
    assert started(set(), 2) == [c]
