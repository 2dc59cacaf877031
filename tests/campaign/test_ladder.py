"""What climbs the ladder: chances, learned errors, prices and shares."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_plan import FREE, spec_with

from campaign.acquisition.ladder import (
    TOP_STD_EV_PER_ATOM,
    Account,
    Climb,
    Contender,
    RungError,
    choose_climbs,
    done_probability,
    learned_error,
    stable_probability,
)
from campaign.actions import Climb as ClimbAction
from campaign.actions import Judge
from campaign.climbing_plan import climbed, next_step
from campaign.components import check_ladder
from campaign.config import CampaignConfig, parse_config
from campaign.documents import LabelStatus
from campaign.errors import ComponentError, ConfigError
from campaign.plan import plan
from campaign.state import CampaignState, LabelState, RoundState, StepState

RICH = Account(fresh=1e9)
ENERGIES = st.floats(-0.5, 0.5)


def waits(root: str, gain: float, core_hours: float = 1.0, rung: str = "precise") -> Contender:
    return Contender(root, f"label-{root}", rung, gain, gain, core_hours)


def names(climbs: list[Climb]) -> list[str]:
    return [one.contender.candidate for one in climbs]


def choice(*contenders: Contender, account: Account = RICH, **said: float) -> list[str]:
    shares = {"price": 0.0, "floor": 0.1, "share": 0.5, **said}
    return names(choose_climbs(contenders, {}, account, **shares))


@given(ENERGIES, ENERGIES, st.floats(0.001, 0.2), st.floats(-0.05, 0.05))
def test_who_lies_lower_is_likelier_stable(one: float, other: float, std: float, bias: float) -> None:
    errors = [RungError(bias, std, 0)]
    low, high = sorted([one, other])
    assert stable_probability(low, errors, 0.0) >= stable_probability(high, errors, 0.0)


def test_the_chance_of_stability_is_the_normal_distributions() -> None:
    assert stable_probability(0.0, [], 0.0) == 0.5
    assert stable_probability(TOP_STD_EV_PER_ATOM, [], 0.0) == pytest.approx(0.158655, abs=1e-6)
    assert stable_probability(0.03, [RungError(-0.03, 0.02, 5)], 0.0) == pytest.approx(0.5)
    assert stable_probability(0.03, [], 0.05) > 0.5


def test_what_is_less_sure_is_nearer_to_a_toss_up() -> None:
    sure = stable_probability(-0.05, [RungError(0.0, 0.01, 9)], 0.0)
    unsure = stable_probability(-0.05, [RungError(0.0, 0.01, 9), RungError(0.0, 0.05, 0)], 0.0)
    believed = stable_probability(-0.05, [RungError(0.0, 0.01, 9)], 0.0, std=0.2)
    assert 0.5 < believed < unsure < sure


def test_before_any_pair_the_error_is_the_prior() -> None:
    found = learned_error([], 0.03)
    assert (found.bias, found.pairs) == (0.0, 0)
    assert found.std == pytest.approx(0.03 * math.sqrt(2))  # the bias is not known either


def test_bias_and_spread_are_learned_from_pairs() -> None:
    pairs = [(0.01 * n, 0.01 * n + 0.02 + 0.005 * (-1) ** n) for n in range(200)]
    found = learned_error(pairs, 0.1)
    assert found.bias == pytest.approx(0.02, abs=2e-4)
    assert found.std == pytest.approx(0.005, abs=0.01)
    assert learned_error(pairs, 0.1) == learned_error(pairs[::-1], 0.1)
    assert learned_error(pairs[:2], 0.1).std > found.std


def test_two_lucky_pairs_do_not_make_a_rung_exact() -> None:
    assert learned_error([(0.1, 0.1), (0.2, 0.2)], 0.03).std > 0.02


def test_a_learned_bias_changes_who_is_likely_stable() -> None:
    error = learned_error([(0.0, 0.1)] * 20, 0.03)
    assert stable_probability(-0.02, [error], 0.0) < 0.05 < stable_probability(-0.02, [], 0.0)


def test_labels_that_fail_are_worth_less() -> None:
    assert done_probability(0, 0) == 0.9
    assert done_probability(0, 10) < 0.5 < done_probability(10, 0)


def test_the_likeliest_climbs_first() -> None:
    assert choice(waits("a", 0.2), waits("b", 0.9), waits("c", 0.5)) == ["b", "c", "a"]


def test_what_costs_less_climbs_first() -> None:
    assert choice(waits("dear", 0.9, 10.0), waits("cheap", 0.3, 1.0)) == ["cheap", "dear"]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), max_size=12), st.randoms())
def test_the_order_of_contenders_does_not_matter(pairs: list[tuple[float, float]], dice) -> None:
    contenders = [waits(f"{n:02d}", *pair) for n, pair in enumerate(pairs)]
    shuffled = dice.sample(contenders, len(contenders))
    account = Account(fresh=20.0, climbed=3.0)
    assert choice(*contenders, account=account) == choice(*shuffled, account=account)


@given(st.floats(0.1, 0.9), st.lists(st.floats(0.1, 50), min_size=1, max_size=20))
def test_the_ladder_keeps_to_its_share_but_for_its_last(share: float, costs: list[float]) -> None:
    contenders = [waits(f"{n:02d}", 1.0, cost) for n, cost in enumerate(costs)]
    climbs = choose_climbs(contenders, {}, Account(30.0), price=0.0, floor=0.0, share=share)
    before_last = sum(one.core_hours for one in climbs[:-1])
    assert before_last <= share * (before_last + 30.0)


def test_what_was_overdrawn_is_paid_for_by_later_steps() -> None:
    phonon = waits("phonon", 1.0, 50.0)
    assert choice(phonon, account=Account(fresh=8.0)) == ["phonon"]
    assert choice(waits("b", 1.0), account=Account(fresh=40.0, climbed=50.0)) == []
    assert choice(waits("b", 1.0), account=Account(fresh=56.0, climbed=50.0)) == ["b"]


def test_what_is_pending_has_its_place_in_the_account() -> None:
    assert Account(10.0, climbed=0.0).room(0.5) == 10.0
    assert Account(10.0, climbed=4.0).room(0.5) == 6.0
    assert choice(waits("a", 1.0), account=Account(10.0, climbed=10.0)) == []


def test_beyond_its_floor_the_ladder_must_be_worth_more_than_fresh_candidates() -> None:
    contenders = [waits("good", 0.9), waits("poor", 0.1), waits("poorer", 0.05)]
    assert choice(*contenders, account=Account(5.0), price=0.5) == ["good"]
    assert choice(*contenders, account=Account(5.0), price=0.05) == ["good", "poor", "poorer"]
    # a tenth of all core-hours is the ladder's, whatever fresh candidates promise
    assert choice(*contenders, account=Account(5.0), price=9.0) == ["good"]
    assert choice(*contenders, account=Account(10.0), price=9.0) == ["good", "poor"]


def test_when_no_round_is_left_everything_climbs_in_order() -> None:
    contenders = [waits("a", 0.0), waits("b", 0.1, 1e6), waits("c", 0.9)]
    assert choice(*contenders, account=Account(0.0), share=1.0) == ["c", "b", "a"]


def test_references_of_a_rung_are_shared_by_those_that_wait_and_paid_by_the_first() -> None:
    many = [waits(f"many-{n}", 0.9, 1.0, "precise") for n in range(4)]
    alone = waits("alone", 0.9, 1.0, "other")
    opening = {"precise": 4.0, "other": 4.0}
    climbs = choose_climbs([*many, alone], opening, RICH, price=0.0, floor=0.1, share=0.5)
    assert names(climbs) == ["many-0", "many-1", "many-2", "many-3", "alone"]
    assert [one.core_hours for one in climbs] == [5.0, 1.0, 1.0, 1.0, 5.0]
    assert climbs[0].value == pytest.approx(0.45)


def parsed(**labels: Any) -> CampaignConfig:
    chemistry = {"elements": ["Ca", "Si"], "n_elements": 2}
    return parse_config({"name": "small", "chemistry": chemistry, "labels": labels}, "campaign.yaml")


def rung(name: str, **said: Any) -> dict[str, Any]:
    return {"name": name, "flow": "static", **said}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"ladder": [rung("precise", when="e_above_hul < 0.1")]}, "did you mean 'e_above_hull'"),
        ({"ladder": [rung("a", when="b.stable"), rung("b")]}, "no label has a field 'b.stable'"),
        ({"ladder": [rung("a"), rung("a")]}, "two rungs are named 'a'"),
        ({"ladder": [rung("energy")]}, "cannot name a further label"),
        ({"ladder": [rung("a")], "then": {"a": {}}}, "is a rung of the ladder already"),
        ({"ladder": [rung("a", when="b.stable")], "then": {"b": {}}}, "no label has a field 'b.stable'"),
        ({"ladder": [rung("a")], "ladder_floor": 0.6}, "ladder_share 0.5"),
        ({"ladder": [{"flow": "static"}]}, "name is missing"),
        ({"ladder": [rung("a", jugde=True)]}, "did you mean 'judge'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(labels: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parsed(**labels)


def test_further_labels_may_ask_for_rungs_and_rungs_for_those_below() -> None:
    ladder = [rung("a", when="stable"), rung("b", when="a.e_above_hull < 0 and e_above_hull < 0.1")]
    labels = parsed(ladder=ladder, then={"electronic": {"when": "b.stable"}}).labels
    assert list(labels.further) == ["electronic", "a", "b"]
    assert labels.follow_up("b").flow == "static"


def test_a_rung_needs_settings_of_its_own() -> None:
    same = {"flow": "static", "engine": "mlip", "engine_options": {"calculator": "emt"}}
    with pytest.raises(ComponentError, match="settings of the first labels"):
        check_ladder(parsed(**same, ladder=[rung("again")]))
    other = rung("other", engine_options={"calculator": "lj"})
    with pytest.raises(ComponentError, match="settings of the rung other"):
        check_ladder(parsed(**same, ladder=[other, {**other, "name": "again"}]))
    check_ladder(parsed(**same, ladder=[other]))


def label(name: str, state: LabelStatus = LabelStatus.DONE, **fields: Any) -> LabelState:
    said = {
        "candidate_id": f"of-{name}",
        "purpose": "candidate",
        "round": 0,
        "rank": 0,
        "judged": True,
        **fields,
    }
    return LabelState(id=name, state=state, **said)


def step(index: int, round_: int, *labels: str, last: bool = False, done_seen: int = 0) -> StepState:
    return StepState(index, round_, last, labels, done_seen, made=True)


def at(*steps: StepState, rounds: int, labels: list[LabelState]) -> CampaignState:
    chosen = {index: RoundState(index, selected=("of-a",)) for index in range(rounds)}
    return CampaignState(rounds=chosen, steps={one.index: one for one in steps}).with_labels(labels)


def test_every_round_that_has_chosen_has_a_step_and_the_last_ones_wait_for_everything() -> None:
    known, running = [label("a")], [label("a"), label("b", LabelStatus.RUNNING, purpose="follow_up", rung=1)]
    assert next_step(at(rounds=1, labels=known), more_rounds=True) == ClimbAction("climb/0", None, 0, 0)
    assert next_step(at(step(0, 0), rounds=1, labels=known), more_rounds=True) is None
    assert next_step(at(step(0, 0), rounds=1, labels=known), more_rounds=False) == ClimbAction(
        "climb/1", None, 1, 0, last=True
    )
    assert next_step(at(step(0, 0, "b"), rounds=1, labels=running), more_rounds=False) is None
    asked = step(1, 0, last=True, done_seen=1)
    assert next_step(at(step(0, 0), asked, rounds=1, labels=known), more_rounds=False) is None
    more = [*known, label("b", purpose="follow_up", rung=1)]
    assert next_step(at(step(0, 0), asked, rounds=1, labels=more), more_rounds=False) is not None
    # a raised budget of rounds: their steps go on where they were
    assert next_step(at(step(0, 0), asked, rounds=2, labels=known), more_rounds=False) == ClimbAction(
        "climb/2", None, 2, 1
    )


def test_what_climbed_is_known_when_all_of_it_is_judged() -> None:
    on = label("b", purpose="follow_up", rung=1)
    assert climbed(at(rounds=1, labels=[]), 0)
    assert not climbed(at(rounds=1, labels=[]), 1)
    assert climbed(at(step(0, 0, "b"), rounds=1, labels=[on]), 1)
    assert not climbed(at(step(0, 0, "b"), rounds=1, labels=[replace(on, judged=False)]), 1)
    assert not climbed(at(step(0, 0, "b"), rounds=1, labels=[]), 1)


def test_a_candidate_is_stable_by_its_highest_judged_rung() -> None:
    first = label("a", stable=True, has_verdict=True)
    of_a = {"candidate_id": "of-a", "purpose": "follow_up"}
    fallen = label("a-1", **of_a, rung=1, step="precise", stable=False, has_verdict=True)
    phonon = label("a-2", **of_a, rung=2, step="phonon")
    element = label("ca", purpose="reference", step="precise", stable=False, has_verdict=True)
    assert CampaignState().with_labels([first, phonon]).stable_found() == 1
    assert CampaignState().with_labels([first, phonon, fallen, element]).stable_found() == 0
    assert CampaignState().with_labels([first, element]).by_candidate == {"of-a": "a"}


def test_nobody_is_judged_before_the_references_of_its_own_rung() -> None:
    element = label("ca", LabelStatus.RUNNING, purpose="reference", step="precise", rank=0)
    on = label("b", purpose="follow_up", rung=1, step="precise", judged=False)
    first = label("a", judged=False)
    state = replace(at(rounds=0, labels=[element, on, first]), references_known=True)
    (judge,) = [one for one in plan(state, spec_with(), FREE, set()) if isinstance(one, Judge)]
    assert judge.labels == ("a",)
    done = state.with_labels([replace(element, state=LabelStatus.DONE)])
    (judge,) = [one for one in plan(done, spec_with(), FREE, set()) if isinstance(one, Judge)]
    assert set(judge.labels) == {"a", "b"}


def confirmed(n_steps: int, seed: int, *, by_value: bool) -> float:
    """Return the share of the truly stable that were confirmed for a tenth of what it would cost to confirm everybody.

    First labels lie 0.04 eV/atom too low, with errors of 0.03 eV/atom; a rung costs three times as much, or thirty.
    """
    dice, found, account = random.Random(seed), 0, Account(0.0)
    truth, cost, low, waiting = dict[str, float](), dict[str, float](), dict[str, float](), list[str]()
    pairs, number = list[tuple[float, float]](), 0
    for _ in range(n_steps):
        for _ in range(20):
            name, number = f"{number:04d}", number + 1
            truth[name], cost[name] = dice.gauss(0.05, 0.08), dice.choice([3.0, 30.0])
            low[name] = truth[name] - 0.04 + dice.gauss(0, 0.03)
            waiting.append(name)
        account = replace(account, fresh=0.1 * sum(cost.values()))
        error = learned_error(pairs, 0.03)
        chances = [stable_probability(low[name], [error], 0.0) if by_value else 1.0 for name in waiting]
        contenders = [
            Contender(name, name, "precise", chance, chance, cost[name] if by_value else 1.0)
            for name, chance in zip(waiting, chances, strict=True)
            if low[name] < 0.1
        ]
        spent = 0.0
        for one in choose_climbs(contenders, {}, Account(1e9), price=0.0, floor=0.0, share=0.5):
            name = one.contender.candidate
            if account.room(0.5) - spent <= 0:
                break
            spent += cost[name]
            found += truth[name] <= 0
            pairs.append((low[name], truth[name]))
            waiting.remove(name)
        account = replace(account, climbed=account.climbed + spent)
    return found / sum(one <= 0 for one in truth.values())


def test_the_same_core_hours_confirm_more_stable_crystals_than_in_the_order_of_coming() -> None:
    for seed in range(5):
        by_value, by_order = (confirmed(10, seed, by_value=how) for how in (True, False))
        assert by_value > by_order
