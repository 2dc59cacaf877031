"""Generators that repeat themselves: refused by the gate, or rolled back when their samples show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_driver import quiet, small_campaign

from campaign.collapse import LEAST_ASKED, collapsed, fallen
from campaign.launch import launch
from campaign.state import CampaignState, ModelState, RoundState
from campaign.store import CampaignStore

KEY = "generator-0-g"


def campaign_of(*made: dict[int, tuple[int, int]], parents: dict[int, int]) -> CampaignState:
    """Return a campaign whose rounds were sampled by versions, given by their terms, with (asked, new)."""
    state = CampaignState()
    for term in range(len(parents) + 1):
        parent = None if term == 0 else f"t{parents[term]}"
        state = state.with_model(ModelState(f"t{term}", KEY, term, True, "folder", parent))
    for index, of_round in enumerate(made):
        by_version = {f"t{term}": numbers for term, numbers in of_round.items()}
        state = state.with_round(RoundState(index, made=by_version))
    return state


def test_a_version_whose_crystals_are_known_falls_with_its_descendants_and_the_next_round_goes_back_behind_it():
    state = campaign_of(
        {0: (100, 95)}, {1: (100, 90)}, {2: (100, 8)}, {1: (100, 85)}, parents={1: 0, 2: 1, 3: 2, 4: 1}
    )
    assert fallen(state, KEY, 2) == frozenset()
    assert fallen(state, KEY, 3) == {"t2", "t3"}
    assert state.version(KEY, 3, fallen(state, KEY, 3)).id == "t1"
    assert state.version(KEY, 4, fallen(state, KEY, 4)).id == "t4", (
        "what descends from the good one gets its chance"
    )


def test_a_chemistry_that_is_used_up_slowly_makes_nobody_fall():
    state = campaign_of(
        *({term: (100, round(90 * 0.7**term))} for term in range(6)),
        parents={term: term - 1 for term in range(1, 6)},
    )
    assert fallen(state, KEY, 6) == frozenset()


def test_the_first_version_never_falls():
    state = campaign_of({0: (100, 95)}, {0: (100, 0)}, parents={})
    assert fallen(state, KEY, 2) == frozenset()


@given(st.integers(0, LEAST_ASKED - 1), st.integers(0, 30), st.floats(0, 1))
def test_few_crystals_say_nothing(asked, new, before):
    assert not collapsed((asked, min(asked, new)), before)


@given(st.integers(LEAST_ASKED, 500), st.floats(0.3, 1))
def test_a_version_that_does_as_its_ancestor_stands_and_one_that_gives_nothing_new_falls(asked, before):
    assert not collapsed((asked, round(asked * before)), before)
    assert collapsed((max(asked, 100), 0), before)


def events(store: CampaignStore, kind: str) -> list[dict[str, Any]]:
    return list(store.query("events", {"kind": kind}))


def ran(folder: Path, kind: str):
    file = small_campaign(
        folder,
        generators=[{"kind": f"components:{kind}"}],
        acquisition={"candidates_per_round": 24, "labels_per_round": 3, "lookahead_rounds": 0},
        batching={"sample": 24, "screen": 24},
        stop={"rounds": 4},
    )
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    return outcome.folder


@pytest.mark.slow
def test_a_generator_that_fine_tuning_narrows_to_one_formula_stays_as_it_was(tmp_path):
    with ran(tmp_path, "NarrowingGenerator").store() as store:
        versions = {one["term"]: one for one in store.query("models", {"key": {"$regex": "^generator"}})}
        made_by = {one["model_version"] for one in store.query("candidates")}
    assert versions[0]["state"] == "promoted"
    assert {one["state"] for term, one in versions.items() if term} == {"rejected"}
    assert "collapsed: too few" in versions[1]["verdict"]
    assert "formulas" in versions[1]["verdict"]
    assert made_by == {versions[0]["_id"]}


@pytest.mark.slow
def test_a_generator_that_says_the_same_in_every_round_is_rolled_back_to_its_last_good_version(tmp_path):
    """Each call gives different crystals, so the gate lets it pass; but every call gives the same ones."""
    with ran(tmp_path, "StuckGenerator").store() as store:
        versions = {one["term"]: one for one in store.query("models", {"key": {"$regex": "^generator"}})}
        rounds = list(store.query("rounds", sort=[("index", 1)]))
        told = events(store, "generator_rolled_back")
    assert versions[1]["state"] == "promoted"
    samplers = [one["batches"]["0-0"]["version"] for one in rounds]
    new = [one["batches"]["0-0"]["new"] for one in rounds]
    assert samplers[:3] == [versions[term]["_id"] for term in range(3)]
    assert new[2] == 0
    assert told[0]["data"]["round"] == 2
    assert versions[2]["_id"] in told[0]["message"]
    assert samplers[3] == versions[1]["_id"]
