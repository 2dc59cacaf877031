"""Shares of the generators that follow their yield, and what a choice counts as pending; in whole small campaigns."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_driver import Died, labels_of, quiet, small_campaign

from campaign.acquisition.reading import AcquisitionReader
from campaign.acquisition.shares import Yielded, adapted
from campaign.components import spec_of
from campaign.errors import ConfigError
from campaign.launch import launch, resume
from campaign.recovery import project
from campaign.run_folder import RunFolder
from campaign.store import CampaignStore

PER_ROUND = 20
FLOOR = 0.1

yields = st.integers(0, 500).flatmap(
    lambda asked: st.builds(Yielded, st.just(asked), st.integers(0, min(asked, 40)))
)


@settings(deadline=None)
@given(st.lists(yields, min_size=1, max_size=4), st.floats(0, 0.25))
def test_shares_are_a_whole_and_nobody_falls_below_the_floor(yielded, floor):
    shares = adapted(yielded, floor)
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert min(shares) >= floor - 1e-6
    assert adapted(yielded[::-1], floor) == pytest.approx(shares[::-1], abs=2e-6)


@settings(deadline=None)
@given(yields, yields, st.integers(1, 5))
def test_a_generator_that_finds_more_gets_more(one, other, more):
    # One that was hardly asked is believed to be like all generators, so that it gains with the other.
    assume(other.asked >= 10)
    before = adapted([one, other], 0)[0]
    richer = Yielded(one.asked + more, one.stable + more)
    assert adapted([richer, other], 0)[0] >= before - 1e-3
    assert adapted([one, one], 0) == pytest.approx((0.5, 0.5), abs=1e-3)


def test_what_is_rare_is_told_apart_where_a_uniform_prior_would_not():
    """The floor gave the second one few crystals; that it found nothing in them must not look like promise."""
    first, second = adapted([Yielded(180, 6), Yielded(20, 0)], FLOOR)
    assert first > 0.6
    assert second < 0.4
    first, second = adapted([Yielded(1800, 60), Yielded(200, 0)], FLOOR)
    assert second == pytest.approx(FLOOR, abs=0.01)


def two_generators(folder: Path, crippled: str = "LooseGenerator", **blocks) -> Path:
    acquisition = {
        "candidates_per_round": PER_ROUND,
        "labels_per_round": 6,
        "max_per_formula": 6,
        "lookahead_rounds": 0,
        "shares": "adaptive",
        "share_floor": FLOOR,
    }
    return small_campaign(
        folder,
        generators=[{"kind": "components:BinaryGenerator"}, {"kind": f"components:{crippled}"}],
        acquisition=acquisition | blocks.pop("acquisition", {}),
        batching={"sample": PER_ROUND, "screen": 2 * PER_ROUND},
        **{"stop": {"rounds": 3}} | blocks,
    )


def ran(folder: Path, crippled: str) -> RunFolder:
    outcome = launch(two_generators(folder, crippled), run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    return outcome.folder


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory) -> RunFolder:
    """One generator makes crystals that are never stable."""
    return ran(tmp_path_factory.mktemp("adaptive"), "LooseGenerator")


def rounds_of(run: RunFolder) -> list[dict]:
    with run.store() as store:
        return list(store.query("rounds", sort=[("index", 1)]))


def asked_of_each(one: dict) -> list[int]:
    return [
        sum(batch["asked"] for name, batch in one["batches"].items() if name.startswith(f"{number}-"))
        for number in range(2)
    ]


def test_a_generator_of_unstable_crystals_loses_its_share_within_two_rounds_and_keeps_the_floor(adaptive):
    check_that_the_second_lost(rounds_of(adaptive))


@pytest.mark.slow
def test_a_generator_of_duplicates_loses_its_share_within_two_rounds_and_keeps_the_floor(tmp_path):
    check_that_the_second_lost(rounds_of(ran(tmp_path, "RepeatingGenerator")))


def check_that_the_second_lost(rounds: list[dict]) -> None:
    assert rounds[0]["shares"] is None
    assert asked_of_each(rounds[0]) == [PER_ROUND // 2, PER_ROUND // 2]
    good, crippled = rounds[2]["shares"]
    assert good > 0.75
    assert FLOOR <= crippled < 0.25
    assert asked_of_each(rounds[2])[1] >= FLOOR * PER_ROUND
    assert sum(asked_of_each(rounds[2])) == PER_ROUND


def test_shares_come_from_the_labels_of_earlier_rounds_alone(adaptive):
    """What is known now says the same about round 1 as what was known when it opened."""
    with adaptive.store() as store:
        config = adaptive.config()
        reader = AcquisitionReader(store, config, spec_of(config))
        for one in rounds_of(adaptive)[1:]:
            assert list(adapted(reader.yielded(one["index"]), FLOOR)) == one["shares"]
        assert [each.asked for each in reader.yielded(1)] == [PER_ROUND // 2] * 2


def test_dying_when_a_round_has_opened_changes_neither_shares_nor_labels(adaptive, tmp_path, monkeypatch):
    original, dead = CampaignStore.insert_new, []

    def write(store, collection, documents):
        if dead and collection != "meta":
            raise Died
        written = original(store, collection, documents)
        if collection == "rounds" and documents[0]["index"] == 2:
            dead.append(True)
        return written

    monkeypatch.setattr(CampaignStore, "insert_new", write)
    file = two_generators(tmp_path)
    with pytest.raises(Died):
        launch(file, run_dir=None, pools="threads", progress=quiet())
    monkeypatch.undo()
    outcome = resume(file, config_file=None, pools="threads", progress=quiet())
    assert [one["shares"] for one in rounds_of(outcome.folder)] == [
        one["shares"] for one in rounds_of(adaptive)
    ]
    assert labels_of(outcome.folder) == labels_of(adaptive)


def test_pending_are_the_labels_of_rounds_that_a_choice_may_not_know_even_if_they_are_done(adaptive):
    config = adaptive.config()
    ahead = config.model_copy(
        update={"acquisition": config.acquisition.model_copy(update={"lookahead_rounds": 2})}
    )
    with adaptive.store() as store:
        state = project(store, store.get("campaigns", config.name))
        assert all(label.final for label in state.labels.values())
        selected = [set(state.rounds[index].selected) for index in range(3)]
        for how, pending in ((config, set()), (ahead, selected[0] | selected[1])):
            reader = AcquisitionReader(store, how, spec_of(how))
            assert set(reader.pending(2, state, 0.06).ids) == pending


def test_a_floor_that_does_not_fit_is_refused(tmp_path):
    file = two_generators(tmp_path, acquisition={"share_floor": 0.6})
    with pytest.raises(ConfigError, match=r"share_floor 0\.6 for each of 2 generators.*at most 0\.5"):
        launch(file, run_dir=None, pools="threads", progress=quiet())
