"""After a promotion: who competes, who is scored again, how soon, and what a large backlog costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alloys import alloy_campaign
from pymatgen.core import Lattice, Structure
from test_driver import quiet

from campaign.acquisition.reading import DRAWN_AGAIN, AcquisitionReader
from campaign.actions import FixScoring, Select
from campaign.components import spec_of
from campaign.config import CampaignConfig, parse_config
from campaign.decisions import Decider
from campaign.documents import CandidateDocument, RoundDocument, now, round_id
from campaign.launch import launch
from campaign.references.entries import ReferenceSet
from campaign.state import CampaignState, Member, project_round
from campaign.store import CampaignStore, StoreConfig

FORMULAS = [f"Ca{a}Mg{b}Si{c}O{o}" for a in (1, 2, 3) for b in (1, 2, 5) for c in (1, 3) for o in (1, 4, 6)]


@pytest.mark.slow
def test_a_promoted_model_scores_the_whole_backlog_again_within_seconds_and_labels_in_flight_stay(tmp_path):
    acquisition = {"labels_per_round": 5, "lookahead_rounds": 0, "policy": "ucb"}
    file = alloy_campaign(tmp_path, acquisition=acquisition, stop={"rounds": 2})
    with launch(file, run_dir=None, pools="threads", progress=quiet()).folder.store() as store:
        versions = {one["term"]: one for one in store.query("models", {"key": {"$regex": "^head"}})}
        candidates = list(store.query("candidates", {"state": {"$in": ["screened", "labelled"]}}))
        chosen = next(iter(store.query("rounds", {"index": 0})))["selected"]
    assert versions[1]["state"] == "promoted", versions[1]["verdict"]
    judged_by = {one["_id"]: set(one["judged_by"].values()) for one in candidates}
    assert {name for name, by in judged_by.items() if by == {versions[0]["_id"]}} == set(chosen)
    assert any(one["round"] == 0 and one["_id"] not in chosen for one in candidates), "there is a backlog"
    for version in (versions[0], versions[1]):
        waited = datetime.fromisoformat(version["first_used"]) - datetime.fromisoformat(version["trained"])
        assert 0 <= waited.total_seconds() < 60
    assert versions[2]["first_used"] is None


def filled(folder: Path, n: int) -> CampaignStore:
    """Return a store with a backlog of n screened candidates of round 0, and a few of round 1."""
    store = CampaignStore.open(StoreConfig(), folder)
    rng = np.random.default_rng(0)
    sites = ["Ca", "Mg", "Si", "O", "O", "O"]
    structure = Structure(Lattice.cubic(6), sites, rng.random((6, 3))).as_dict()

    def document(number: int, index: int) -> dict[str, Any]:
        above = float(rng.normal(0.2, 0.1))
        head = {"mean": above + 0.01, "std": 0.05}
        return CandidateDocument(
            id=f"{number:032d}",
            campaign="big",
            state="screened",
            round=index,
            order=number,
            formula=FORMULAS[number % len(FORMULAS)],
            chemsys="Ca-Mg-O-Si",
            n_atoms=6,
            spacegroup=int(rng.integers(1, 231)),
            generator="g",
            model_version="v",
            seed=1,
            structure=structure,
            screened_structure=structure,
            bucket=f"b{number % 5000}",
            segment=3,
            predictions={"e_above_hull": above, "head_e_above_hull": head, "stable_probability": 0.3},
            judged_by={"head": "h1"},
            score=-above,
            created=now(),
        ).doc()

    for start in range(0, n, 5000):
        store.insert_new("candidates", [document(number, 0) for number in range(start, min(n, start + 5000))])
    store.insert_new("candidates", [document(number, 1) for number in range(n, n + 20)])
    first = RoundDocument(id=round_id("big", 0), campaign="big", index=0, selected=[], created=now()).doc()
    store.insert_new(
        "rounds", [first, RoundDocument(id=round_id("big", 1), campaign="big", index=1, created=now()).doc()]
    )
    return store


def config_with(**acquisition: Any) -> CampaignConfig:
    chemistry = {"elements": ["Ca", "Mg", "Si", "O"]}
    block = {"lookahead_rounds": 0, **acquisition}
    return parse_config({"name": "big", "chemistry": chemistry, "acquisition": block}, "test")


@pytest.fixture
def small_store(tmp_path: Path) -> Iterator[CampaignStore]:
    with filled(tmp_path, 100) as store:
        yield store


def test_up_to_the_bound_everybody_competes_again_and_beyond_it_the_best_and_some_drawn(small_store):
    config = config_with()
    assert len(AcquisitionReader(small_store, config, spec_of(config)).backlog(1, 7)) == 100
    config = config_with(backlog=40)
    reader = AcquisitionReader(small_store, config, spec_of(config))
    found = reader.backlog(1, 7)
    scores = {one["_id"]: one["score"] for one in small_store.query("candidates", {"round": 0})}
    best = sorted(scores, key=lambda name: -scores[name])
    n_best = round(40 * (1 - DRAWN_AGAIN))
    assert found[:n_best] == best[:n_best]
    assert len(found) == len(set(found)) == 40
    assert set(found[n_best:]) <= set(best[n_best:])
    assert reader.backlog(1, 7) == found
    assert reader.backlog(1, 8) != found, "another round looks at others"


@pytest.mark.slow
@pytest.mark.long
def test_a_backlog_of_a_hundred_thousand_in_the_store_is_read_ranked_and_written_in_bounded_time(tmp_path):
    config = config_with()
    with filled(tmp_path, 100_000) as store:
        spec = spec_of(config)
        decider = Decider(store, config, spec, ReferenceSet(()), {"flow": "static"}, "hash")
        fresh = [
            Member(one["_id"], one["order"], len(spec.segments))
            for one in store.query("candidates", {"round": 1}, fields=["order"])
        ]
        rounds = [store.get("rounds", round_id("big", index)) or {} for index in (0, 1)]
        state = CampaignState(rounds={0: project_round(rounds[0], ()), 1: project_round(rounds[1], fresh)})
        begin = time.process_time()
        state = decider.do(FixScoring("fix/1", None, 1), state)
        fixed = time.process_time() - begin
        state = decider.do(Select("select/1", None, 1, 8), state)
        chosen = time.process_time() - begin - fixed
    assert sum(map(len, state.rounds[1].to_score)) == config.acquisition.backlog + 20
    assert len(state.rounds[1].selected) == 8
    assert fixed < 10, f"{fixed:.1f} s to fix what is scored"
    assert chosen < 10, f"{chosen:.1f} s to rank, choose and write"
