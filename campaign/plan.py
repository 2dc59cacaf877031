"""plan(state, spec, free, running) -> the next actions. Pure: no store, no clock, no pools, no randomness.

What is chosen depends on the seed and on numbered decisions, never on which task came back first: a round is
sampled, screened and scored as a whole, its choice uses the model versions of its term, and with
`lookahead_rounds` of at least one the next rounds are prepared while labels run, so that the slots stay filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from campaign.actions import (
    Action,
    AddReferences,
    Finish,
    FixScoring,
    FollowUp,
    Inspect,
    Judge,
    OpenRound,
    Sample,
    Score,
    Screen,
    Select,
    Train,
)
from campaign.climbing_plan import climbed, next_step
from campaign.collapse import fallen
from campaign.config import CampaignConfig
from campaign.documents import derive_seed
from campaign.fitting import fitting
from campaign.label_plan import label_tasks, to_follow, to_judge
from campaign.state import CampaignState, ModelState, RoundState
from campaign.usage import SPENDING, Budget, budgets


@dataclass(frozen=True)
class Segment:
    """A run of screens that one task applies."""

    screens: tuple[tuple[str, Mapping[str, object]], ...]
    campaign_scope: bool
    """True where candidates are compared with one another: one task for the whole round, rounds in order."""
    pool: str
    needs_judges: bool = False
    """True where a screen asks the heads or discriminators: those of the round's term must be decided first."""
    needs_surrogate: bool = False
    """True where a screen asks the surrogate: if it learns, the version of the round's term must be decided first."""


@dataclass(frozen=True)
class Spec:
    """The configuration as `plan` needs it."""

    config: CampaignConfig
    segments: tuple[Segment, ...]
    generators: tuple[str, ...]
    """Model keys of the generators, in the order of the configuration."""
    judges: tuple[str, ...]
    """Model keys of heads and discriminators."""
    one_machine: bool = True
    """Labels' jobs share the memory of one machine: one that lacked it has the pool to itself."""
    surrogates: tuple[str, ...] = ()
    """Model key of the surrogate if it learns."""

    def term(self, index: int) -> int:
        """Return the term of round `index`: it may know the labels of the rounds before."""
        return max(0, index - self.config.acquisition.lookahead_rounds)

    def generator_term(self, index: int) -> int:
        """Return the term of the generators that sample round `index`: the first one if they do not learn."""
        return self.term(index) if self.generators_learn else 0

    def judge_term(self, index: int) -> int:
        """Return the term of the models that judge round `index`: the first one if they do not learn."""
        return self.term(index) if self.config.learn.retrain else 0

    @property
    def generators_learn(self) -> bool:
        """Whether labels teach the generators."""
        return self.config.learn.retrain and self.config.learn.generators

    def sampler(self, state: CampaignState, key: str, index: int) -> ModelState | None:
        """Return the version of a generator that samples round `index`: the newest one that did not collapse before."""
        return state.version(key, self.generator_term(index), fallen(state, key, index))

    def parent(self, state: CampaignState, key: str, term: int) -> ModelState | None:
        """Return the version that the one of `term` is trained from, None for the first."""
        return state.version(key, term - 1, fallen(state, key, term)) if term > 0 else None

    def quarantined(self, state: CampaignState, term: int) -> frozenset[int]:
        """Return the rounds whose labels nobody may learn from, as the rounds before `term` say."""
        return frozenset() if self.config.learn.trust_alarmed else state.quarantined(term)

    def stable_found(self, state: CampaignState) -> int:
        """Return how many candidates are stable by labels in which nothing is suspect."""
        return state.stable_found(self.quarantined(state, len(state.rounds)))

    def surrogate_version(self, state: CampaignState, index: int) -> ModelState | None:
        """Return the surrogate's version that screens round `index`; None if it does not learn."""
        return state.version(self.surrogates[0], self.term(index)) if self.surrogates else None

    def surrogate_checkpoint(self, state: CampaignState, index: int) -> str | None:
        """Return the checkpoint of that version; None for the packaged weights."""
        version = self.surrogate_version(state, index)
        return version.checkpoint if version else None

    def pending(self, index: int) -> range:
        """Return the rounds whose choices round `index` knows, and whose labels it may not know."""
        return range(self.term(index), index)

    def climbed(self, term: int) -> int:
        """Return the round before whose place what climbed the ladder is known in term `term`."""
        return max(0, term - self.config.labels.ladder_lag_rounds)

    def adapts_shares(self, index: int) -> bool:
        """Return whether round `index` opens with shares from labels, which must be known then."""
        return self.config.acquisition.shares == "adaptive" and self.term(index) > 0

    def batches(self, current: RoundState) -> list[tuple[str, int, int, int]]:
        """Return (batch name, generator number, crystals asked, seed) of every sampling task of a round."""
        config, index = self.config, current.index
        sampled = config.acquisition.sampled_rounds
        if sampled is not None and index >= sampled:
            return []
        shares = current.shares or tuple(generator.share for generator in config.generators)
        asked, total, result, done = config.acquisition.candidates_per_round, sum(shares), [], 0.0
        for number, share in enumerate(shares):
            first = round(asked * done / total)
            done += share
            left, batch = round(asked * done / total) - first, 0
            while left > 0:
                size = min(left, config.batching.sample)
                name = f"{number}-{batch}"
                result.append((name, number, size, derive_seed(config.seed, "sample", index, name)))
                left, batch = left - size, batch + 1
        return result

    def chunks(self, ids: Sequence[str]) -> list[tuple[str, ...]]:
        """Cut ids into screening tasks."""
        size = self.config.batching.screen
        return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]


def plan(
    state: CampaignState, spec: Spec, free: Mapping[str, int], running: AbstractSet[str]
) -> list[Action]:
    """Return the next actions, most urgent first.

    Args:
        state: What the store says.
        spec: The configuration.
        free: Tasks that each pool can take now.
        running: Keys of the tasks that are under way.

    Returns:
        Actions of the driver itself alone, if there are any (they change the state, so plan again after them);
        else as many tasks as the pools can take; else `Finish` when nothing is under way either.
    """
    reason = stop_reason(state, spec)
    own = list(_own_actions(state, spec, reason))
    if own:
        return own
    tasks = fitting(_tasks(state, spec, reason), free, running)
    if tasks or running:
        return tasks
    return [Finish("finish", None, reason or "every round is complete")]


def stop_reason(state: CampaignState, spec: Spec) -> str:
    """Return why no new work may begin, or an empty string."""
    if state.stop_requested:
        return "stop requested"
    failed = [label for label in state.references() if label.is_lost_element]
    if failed:
        where = f" on the rung {failed[0].step}" if failed[0].step else ""
        return (
            f"the element {failed[0].formula} could not be computed{where} (label {failed[0].id}): mend the cause, "
            "then resume with --retry-failed"
        )
    for budget in _used_up(state, spec):
        return f"budget used up: {budget.name} {budget.used:.3g} of {budget.limit:g}"
    return ""


def _used_up(state: CampaignState, spec: Spec) -> list[Budget]:
    stable = spec.stable_found(state)
    return [one for one in budgets(spec.config.stop, state.usage, stable=stable) if one.share >= 1]


def _nothing_more(state: CampaignState, spec: Spec) -> bool:
    """Return whether not even begun labels may go on: a stop was asked for, or a hard budget is used up."""
    spent = spec.config.stop.hard and any(one.name in SPENDING for one in _used_up(state, spec))
    return bool(state.stop_requested) or spent


def _own_actions(state: CampaignState, spec: Spec, reason: str) -> Iterator[Action]:
    """Yield what the driver does itself: short decisions whose outcome is written at once."""
    unjudged = to_judge(state)
    if unjudged:
        yield Judge("judge", None, tuple(unjudged))
    for index in _to_inspect(state):  # before anything learns from them
        yield Inspect(f"inspect/{index}", None, index)
    if reason:
        return
    undecided = to_follow(state) if spec.config.labels.then else []
    if undecided:
        yield FollowUp("follow", None, tuple(undecided))
    if not state.references_known:
        yield AddReferences("references")
    following = len(state.rounds)
    if _may_open(state, spec, following):
        yield OpenRound(f"open/{following}", None, following)
    for current in _open_rounds(state):
        if current.to_score is None and _screened(current, spec) and _predecessor_chose(state, current):
            yield FixScoring(f"fix/{current.index}", None, current.index)
        elif _scored(current) and _labels_ready(state, spec, spec.term(current.index)):
            yield Select(
                f"select/{current.index}", None, current.index, _allotted(state, spec, current.index)
            )
    yield from _climbing(state, spec)


def _tasks(state: CampaignState, spec: Spec, reason: str) -> Iterator[Action]:
    """Yield every task that could run now, most urgent first."""
    if _nothing_more(state, spec):
        return  # what runs may end, nothing else begins
    yield from label_tasks(state, begin=not reason, one_machine=spec.one_machine)
    if reason:
        return
    yield from _training(state, spec, spec.generators, learn=spec.generators_learn)
    yield from _training(state, spec, spec.surrogates, learn=True)
    for current in _open_rounds(state):
        yield from _sampling(current, spec)
        yield from _screening(current, state, spec)
        yield from _scoring(current, state, spec)
    yield from _training(state, spec, spec.judges, learn=spec.config.learn.retrain)


def _to_inspect(state: CampaignState) -> list[int]:
    """Return the rounds whose labels are all known and were not inspected, in order: earlier ones are the yardstick."""
    waiting = [index for index in sorted(state.rounds) if state.rounds[index].alarm is None]
    return [index for index in waiting if _first_ready(state, index + 1)]


def _open_rounds(state: CampaignState) -> list[RoundState]:
    return [state.rounds[index] for index in sorted(state.rounds) if state.rounds[index].selected is None]


def _scored(current: RoundState) -> bool:
    return current.to_score is not None and len(current.scored) == len(current.to_score)


def _predecessor_chose(state: CampaignState, current: RoundState) -> bool:
    earlier = state.rounds.get(current.index - 1)
    return earlier is None or earlier.selected is not None


def _sampled(current: RoundState, spec: Spec) -> bool:
    return len(current.batches) == len(spec.batches(current))


def _screened(current: RoundState, spec: Spec) -> bool:
    last = len(spec.segments) - 1
    return _sampled(current, spec) and not current.waiting(last)


def _allotted(state: CampaignState, spec: Spec, index: int) -> int:
    """Return how many labels round `index` may choose within the budget of labels."""
    per_round, budget = spec.config.acquisition.labels_per_round, spec.config.stop.labels
    if budget is None:
        return per_round
    used = sum(
        per_round if earlier.selected is None else len(earlier.selected)
        for earlier in state.rounds.values()
        if earlier.index < index
    )
    return max(0, min(per_round, budget - used))


def _may_open(state: CampaignState, spec: Spec, index: int) -> bool:
    if index >= spec.config.stop.rounds or _allotted(state, spec, index) == 0:
        return False
    if index > 0 and not _sampled(state.rounds[index - 1], spec) and state.rounds[index - 1].selected is None:
        return False
    if spec.adapts_shares(index) and not _labels_ready(state, spec, spec.term(index)):
        return False
    # A round far ahead would only pile up candidates: it opens when its models are decided.
    return all(spec.sampler(state, key, index) is not None for key in spec.generators)


def _sampling(current: RoundState, spec: Spec) -> Iterator[Action]:
    for name, number, size, seed in spec.batches(current):
        if name not in current.batches:
            yield Sample(f"sample/{current.index}/{name}", "gpu", current.index, name, number, size, seed)


def _screening(current: RoundState, state: CampaignState, spec: Spec) -> Iterator[Action]:
    if not _sampled(current, spec):
        return
    for number, segment in enumerate(spec.segments):
        entering = current.entering(number)
        ids = [member.id for member in entering]
        done = {member.id for member in entering if member.segment > number or member.rejected}
        if len(done) < len(ids):
            if segment.campaign_scope and not _compared_before(state, current.index, number):
                return
            if segment.needs_judges and not _judges_decided(state, spec, current.index):
                return
            if segment.needs_surrogate and not _decided(state, spec.surrogates, spec.term(current.index)):
                return
            chunks = [tuple(ids)] if segment.campaign_scope else spec.chunks(ids)
            for place, chunk in enumerate(chunks):
                if not done.issuperset(chunk):
                    key = f"screen/{current.index}/{number}/{place}"
                    yield Screen(key, segment.pool, current.index, number, chunk)
            return


def _compared_before(state: CampaignState, index: int, segment: int) -> bool:
    """Return whether all earlier rounds have passed a campaign-scope segment: they come first in it."""
    return all(not earlier.waiting(segment) for earlier in state.rounds.values() if earlier.index < index)


def _judges_decided(state: CampaignState, spec: Spec, index: int) -> bool:
    return _decided(state, spec.judges, spec.judge_term(index))


def _decided(state: CampaignState, keys: Sequence[str], term: int) -> bool:
    return all(state.decided(key, term) for key in keys)


def _scoring(current: RoundState, state: CampaignState, spec: Spec) -> Iterator[Action]:
    if current.to_score is None:
        return
    if not _judges_decided(state, spec, current.index):
        return
    for place, ids in enumerate(current.to_score):
        if place not in current.scored:
            yield Score(f"score/{current.index}/{place}", "gpu", current.index, place, ids)


def _training(state: CampaignState, spec: Spec, keys: Sequence[str], *, learn: bool) -> Iterator[Action]:
    for key in keys:
        term = next(term for term in range(len(state.rounds) + 2) if (key, term) not in state.models)
        if term > 0 and not (learn and _labels_ready(state, spec, term)):
            continue
        yield Train(f"train/{key}/{term}", "gpu", key, term)


def _climbing(state: CampaignState, spec: Spec) -> Iterator[Action]:
    """Yield the next step of the ladder."""
    if spec.config.labels.ladder:
        more = len(state.rounds) < spec.config.stop.rounds and _allotted(state, spec, len(state.rounds)) > 0
        step = next_step(state, more_rounds=more)
        if step is not None and (step.last or _labels_ready(state, spec, spec.term(step.round))):
            yield step


def _labels_ready(state: CampaignState, spec: Spec, term: int) -> bool:
    """Return whether all labels chosen before round `term` are known, and those that climbed the lag earlier."""
    return _first_ready(state, term) and (not spec.config.labels.ladder or climbed(state, spec.climbed(term)))


def _first_ready(state: CampaignState, term: int) -> bool:
    """Return whether every label chosen before round `term` is final and judged."""
    for index in range(term):
        current = state.rounds.get(index)
        if current is None or current.selected is None:
            return False
        for candidate in current.selected:
            label = state.labels.get(state.by_candidate.get(candidate, ""))
            if label is None or not label.final or not label.judged:
                return False
    return True
