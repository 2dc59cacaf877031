"""plan() is pure, and what it chooses does not depend on which task came back first."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.actions import (
    AddReferences,
    BuildLabel,
    Finish,
    FixScoring,
    Inspect,
    Judge,
    OpenRound,
    RunJob,
    Sample,
    Score,
    Screen,
    Select,
    Train,
)
from campaign.config import parse_config
from campaign.documents import LabelStatus
from campaign.plan import Segment, Spec, plan, stop_reason
from campaign.state import CampaignState, JobState, LabelState, Member, ModelState, RoundState

FREE = {"gpu": 3, "cpu": 3, "dft": 2}


def spec_with(*, needs_judges: bool = False, surrogates: tuple[str, ...] = (), **blocks) -> Spec:
    document = {
        "name": "plan",
        "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2},
        "acquisition": {"candidates_per_round": 10, "labels_per_round": 3, "lookahead_rounds": 1},
        "batching": {"sample": 4, "screen": 3},
        "stop": {"rounds": 3},
    }
    document |= {key: {**document.get(key, {}), **value} for key, value in blocks.items()}
    return Spec(
        parse_config(document, "test"),
        segments=(
            Segment((("geometry", {}),), False, "cpu"),
            Segment((("duplicates", {}),), True, "cpu"),
            Segment((("relax", {}),), False, "gpu", needs_judges, needs_surrogate=bool(surrogates)),
        ),
        generators=("generator-0-g",),
        judges=("head-0-h",),
        surrogates=surrogates,
    )


class World:
    """Does what actions ask for, in a shuffled order, and keeps what was chosen. No clock, no store."""

    def __init__(self, spec: Spec, seed: int) -> None:
        self.spec, self.state = spec, CampaignState()
        self.order = random.Random(seed)
        self.running: dict[str, object] = {}
        self.held: dict[str, Sample] = {}
        self.chosen: dict[int, tuple[str, ...]] = {}
        self.screened_before_judges: list[str] = []
        self.screened_with: dict[tuple[int, int], list[tuple[str, ...]]] = {}
        self.most_dft = 0
        self.jobs_run: list[str] = []

    def run(self) -> str:
        for _ in range(5000):
            busy = [action.pool for action in self.running.values()]
            free = {pool: slots - busy.count(pool) for pool, slots in FREE.items()}
            before = self.state
            actions = plan(self.state, self.spec, free, self.running.keys() | self.held.keys())
            assert self.state is before
            own = [action for action in actions if action.pool is None]
            for action in own:
                if isinstance(action, Finish):
                    return action.reason
                self.do(action)
            if own:
                continue
            for action in actions:
                assert action.key not in self.running
                self.running[action.key] = action
                if isinstance(action, RunJob):
                    self.set_job(action, LabelStatus.RUNNING)
                asks = isinstance(action, Screen) and self.spec.segments[action.segment].needs_judges
                if asks and not self.state.decided("head-0-h", self.spec.term(action.round)):
                    self.screened_before_judges.append(action.key)
            self.most_dft = max(self.most_dft, sum(a.pool == "dft" for a in self.running.values()))
            key = self.order.choice(sorted(self.running))
            self.finish(self.running.pop(key))
        raise AssertionError("the campaign never ends")

    def do(self, action) -> None:
        match action:
            case OpenRound():
                self.state = self.state.with_round(RoundState(action.round))
            case AddReferences():
                labels = [label(f"ref{n}", "reference", -1, 0) for n in range(2)]
                self.state = replace(self.state.with_labels(labels), references_known=True)
            case Inspect():
                current = self.state.rounds[action.round]
                self.state = self.state.with_round(replace(current, alarm=""))
            case FixScoring():
                current = self.state.rounds[action.round]
                chunks = self.spec.chunks(current.survivors(3))
                self.state = self.state.with_round(replace(current, to_score=tuple(chunks)))
            case Select():
                current = self.state.rounds[action.round]
                ids = tuple(sorted(name for chunk in current.to_score for name in chunk))[: action.n]
                self.chosen[action.round] = ids
                labels = [label(name, "candidate", action.round, rank) for rank, name in enumerate(ids)]
                self.state = self.state.with_round(replace(current, selected=ids, members={})).with_labels(
                    labels
                )
            case Judge():
                labels = [replace(self.state.labels[name], judged=True) for name in action.labels]
                self.state = self.state.with_labels(labels)

    def finish(self, action) -> None:
        match action:
            case Train():
                name = f"{action.model}-{action.term}"
                self.state = self.state.with_model(ModelState(name, action.model, action.term, True, name))
            case Sample():
                self.held[action.key] = action
                for name, *_ in self.spec.batches(self.state.rounds[action.round]):
                    current = self.state.rounds[action.round]
                    if name in current.batches:
                        continue
                    held = self.held.pop(f"sample/{action.round}/{name}", None)
                    if held is None:
                        break
                    first = len(current.members)
                    new = {
                        f"r{held.round}-{name}-{n}": Member(f"r{held.round}-{name}-{n}", first + n, 0)
                        for n in range(held.n)
                    }
                    members = {**current.members, **new}
                    self.state = self.state.with_round(
                        replace(current, batches=current.batches | {name}, members=members)
                    )
            case Screen():
                self.screened_with.setdefault((action.round, action.segment), []).append(action.ids)
                current = self.state.rounds[action.round]
                changed = {
                    name: replace(current.members[name], rejected=True)
                    if (current.members[name].order + action.segment) % 5 == 4
                    else replace(current.members[name], segment=action.segment + 1)
                    for name in action.ids
                }
                self.state = self.state.with_round(replace(current, members={**current.members, **changed}))
            case Score():
                current = self.state.rounds[action.round]
                self.state = self.state.with_round(replace(current, scored=current.scored | {action.chunk}))
            case BuildLabel():
                jobs = (
                    JobState("a", 1, "relax", (), LabelStatus.QUEUED),
                    JobState("b", 1, "static", ("a",), LabelStatus.QUEUED),
                )
                self.state = self.state.with_labels([replace(self.state.labels[action.label], jobs=jobs)])
            case RunJob():
                self.jobs_run.append(f"{action.label}/{action.job}")
                self.set_job(action, LabelStatus.DONE)

    def set_job(self, action: RunJob, state: LabelStatus) -> None:
        old = self.state.labels[action.label]
        jobs = tuple(replace(job, state=state) if job.uuid == action.job else job for job in old.jobs)
        done = all(job.state == LabelStatus.DONE for job in jobs)
        label_state = LabelStatus.DONE if done else LabelStatus.RUNNING
        self.state = self.state.with_labels([replace(old, jobs=jobs, state=label_state)])


def label(name: str, purpose: str, index: int, rank: int) -> LabelState:
    return LabelState(f"label-{name}", name, purpose, index, rank, LabelStatus.QUEUED, formula=name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 2), st.booleans())
def test_choices_do_not_depend_on_the_order_of_results(seed, lookahead, needs_judges):
    spec = spec_with(
        needs_judges=needs_judges,
        acquisition={"candidates_per_round": 10, "labels_per_round": 3, "lookahead_rounds": lookahead},
    )
    first, other = World(spec, 0), World(spec, seed)
    assert first.run() == other.run() == "every round is complete"
    assert first.chosen == other.chosen
    assert first.screened_before_judges == other.screened_before_judges == []
    assert {key: sorted(value) for key, value in first.screened_with.items()} == {
        key: sorted(value) for key, value in other.screened_with.items()
    }
    assert sorted(other.jobs_run) == sorted(set(other.jobs_run))
    assert len(other.jobs_run) == 2 * (2 + sum(map(len, other.chosen.values())))
    assert other.most_dft <= FREE["dft"]


def test_every_round_is_screened_chosen_and_learned_from():
    world = World(spec_with(), 1)
    world.run()
    assert sorted(world.chosen) == [0, 1, 2]
    assert all(len(ids) == 3 for ids in world.chosen.values())
    assert set(world.state.models) == {
        (key, term) for key in ("generator-0-g", "head-0-h") for term in range(4)
    }


def test_with_lookahead_the_next_choice_is_ready_before_the_labels_are_done():
    world = World(spec_with(), 3)

    def hangs(action) -> bool:
        return isinstance(action, RunJob) and "ref" not in action.label

    for _ in range(400):
        busy = [action.pool for action in world.running.values()]
        free = {pool: slots - busy.count(pool) for pool, slots in FREE.items()}
        actions = plan(world.state, world.spec, free, world.running.keys() | world.held.keys())
        for action in actions:
            if action.pool is None:
                world.do(action)
            else:
                world.running[action.key] = action
                if isinstance(action, RunJob):
                    world.set_job(action, LabelStatus.RUNNING)
        ending = [key for key, action in world.running.items() if not hangs(action)]
        if ending:
            world.finish(world.running.pop(ending[0]))
        elif not actions:
            break
    assert sorted(world.chosen) == [0, 1], "round 1 is chosen while every label of round 0 still runs"
    assert sum(isinstance(action, RunJob) for action in world.running.values()) == FREE["dft"]


@pytest.mark.parametrize("judges", [(), ("head-0-h",)])
def test_a_choice_waits_for_the_labels_that_it_may_know_even_if_nobody_judges(judges):
    spec = replace(spec_with(acquisition={"lookahead_rounds": 0}), judges=judges)
    models = [ModelState("g", "generator-0-g", term, True, "g") for term in range(2)]
    models += [ModelState("h", "head-0-h", term, True, "h") for term in range(2)]
    rounds = [RoundState(0, selected=("a",)), RoundState(1, to_score=(("b",),), scored=frozenset({0}))]
    begun = replace(label("a", "candidate", 0, 0), state=LabelStatus.RUNNING)
    state = CampaignState(references_known=True).with_labels([begun])
    for one in models:
        state = state.with_model(one)
    for one in rounds:
        state = state.with_round(one)
    assert not [action for action in plan(state, spec, FREE, set()) if isinstance(action, Select)]
    state = state.with_labels([replace(begun, state=LabelStatus.DONE, judged=True)])
    assert [action.round for action in plan(state, spec, FREE, set()) if isinstance(action, Select)] == [1]


@pytest.mark.parametrize("shares", ["fixed", "adaptive"])
def test_a_round_with_adaptive_shares_opens_when_the_labels_that_it_may_know_are_known(shares):
    """The generator does not learn, so that nothing else would wait."""
    spec = spec_with(
        acquisition={"lookahead_rounds": 0, "shares": shares}, learn={"generators": False}, stop={"rounds": 2}
    )
    begun = replace(label("a", "candidate", 0, 0), state=LabelStatus.RUNNING)
    state = CampaignState(references_known=True).with_labels([begun])
    state = state.with_model(ModelState("g", "generator-0-g", 0, True, "g"))
    state = state.with_round(RoundState(0, selected=("a",)))
    opened = [action for action in plan(state, spec, FREE, set()) if isinstance(action, OpenRound)]
    assert bool(opened) == (shares == "fixed")
    state = state.with_labels([replace(begun, state=LabelStatus.DONE, judged=True)])
    opened = [action for action in plan(state, spec, FREE, set()) if isinstance(action, OpenRound)]
    assert [action.round for action in opened] == [1]


def test_label_budget_is_never_exceeded():
    world = World(spec_with(stop={"rounds": 5, "labels": 7}), 2)
    world.run()
    assert sum(map(len, world.chosen.values())) == 7


@pytest.mark.parametrize(
    ("stop", "usage", "words"),
    [
        ({"core_hours": 1.0}, {"core_hours": 1.5}, "core_hours 1.5 of 1"),
        ({"node_hours": 2.0}, {"node_hours": 2.0}, "node_hours"),
        ({"wall_time_hours": 1.0}, {"wall_seconds": 3700.0}, "wall_time_hours"),
    ],
)
def test_budgets_stop_new_work_and_let_begun_labels_end(stop, usage, words):
    spec = spec_with(stop={"rounds": 3, **stop})
    begun = replace(
        label("a", "candidate", 0, 0),
        state=LabelStatus.RUNNING,
        jobs=(JobState("a", 1, "relax", (), LabelStatus.QUEUED),),
    )
    state = CampaignState(usage=usage, references_known=True).with_labels(
        [begun, label("b", "candidate", 0, 1)]
    )
    assert words in stop_reason(state, spec)
    actions = plan(state, spec, FREE, set())
    assert [type(action) for action in actions] == [RunJob]
    assert isinstance(plan(state, spec, FREE, {"job/label-a/a/1"}), list)


@pytest.mark.parametrize(("usage", "goes_on"), [({"core_hours": 0.9}, True), ({"core_hours": 1.0}, False)])
def test_a_hard_budget_lets_only_running_jobs_end(usage, goes_on):
    spec = spec_with(stop={"rounds": 3, "core_hours": 1.0, "hard": True})
    jobs = (
        JobState("a", 1, "relax", (), LabelStatus.RUNNING),
        JobState("b", 1, "relax", (), LabelStatus.QUEUED),
    )
    begun = replace(label("a", "candidate", 0, 0), state=LabelStatus.RUNNING, jobs=jobs)
    state = CampaignState(usage=usage, references_known=True).with_labels([begun])
    wanted = [action for action in plan(state, spec, FREE, {"job/label-a/a/1"}) if isinstance(action, RunJob)]
    assert bool(wanted) == goes_on
    if not goes_on:
        assert "budget used up" in plan(state, spec, FREE, set())[0].reason


def test_a_label_that_was_begun_before_a_crash_is_finished_after_its_budget():
    spec = spec_with(stop={"rounds": 3, "core_hours": 1.0})
    jobs = (
        JobState("a", 1, "relax", (), LabelStatus.DONE),
        JobState("b", 1, "static", (), LabelStatus.QUEUED),
    )
    swept = replace(label("a", "candidate", 0, 0), state=LabelStatus.QUEUED, jobs=jobs)
    state = CampaignState(usage={"core_hours": 2.0}, references_known=True).with_labels(
        [swept, label("b", "candidate", 0, 1)]
    )
    assert [action.job for action in plan(state, spec, FREE, set())] == ["b"]


def test_stable_candidates_end_the_campaign():
    spec = spec_with(stop={"rounds": 3, "stable_found": 1})
    found = replace(label("a", "candidate", 0, 0), state=LabelStatus.DONE, judged=True, stable=True)
    found = replace(found, has_verdict=True)
    actions = plan(CampaignState(references_known=True).with_labels([found]), spec, FREE, set())
    assert isinstance(actions[0], Finish)
    assert "stable_found 1 of 1" in actions[0].reason


def test_a_drain_begins_nothing():
    state = CampaignState(stop_requested="drain", references_known=True).with_labels(
        [label("a", "candidate", 0, 0)]
    )
    assert plan(state, spec_with(), FREE, {"job/x"}) == []
    assert isinstance(plan(state, spec_with(), FREE, set())[0], Finish)


def test_failed_element_reference_ends_the_campaign():
    failed = replace(label("Ca", "reference", -1, 0), state=LabelStatus.FAILED, judged=True)
    reason = plan(CampaignState(references_known=True).with_labels([failed]), spec_with(), FREE, set())[
        0
    ].reason
    assert "could not be computed" in reason


def test_shares_and_batches_add_up():
    spec = spec_with()
    config = spec.config.model_copy(
        update={
            "generators": tuple(
                spec.config.generators[0].model_copy(update={"share": s}) for s in (1, 2, 0.5)
            )
        }
    )
    three = Spec(config, spec.segments, ("a", "b", "c"), ())
    batches = three.batches(RoundState(0))
    assert sum(size for _, _, size, _ in batches) == 10
    assert len({seed for *_, seed in batches}) == len(batches)
    adapted = three.batches(RoundState(0, shares=(0.1, 0.1, 0.8)))
    sizes = [sum(size for _, number, size, _ in adapted if number == each) for each in range(3)]
    assert sizes == [1, 1, 8]
