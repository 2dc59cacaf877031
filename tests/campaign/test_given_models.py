"""Campaigns that begin with trained models, that do not learn, that sample once, or that explore."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_line import campaign
from test_driver import quiet, small_campaign

from campaign.acquisition.batches import choose, explore
from campaign.acquisition.beliefs import Candidates
from campaign.acquisition.config import AcquisitionConfig
from campaign.acquisition.ranking import Ranking
from campaign.errors import ComponentError
from campaign.launch import launch
from campaign.run_folder import RunFolder
from models.checkpoint import folder_sha256


def head(**more: object) -> dict[str, object]:
    return {"heads": [{"kind": "components:ElementHead", **more}], "discriminators": []}


def run(file: Path) -> RunFolder:
    return launch(file, run_dir=None, pools="threads", progress=quiet()).folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a head that a campaign has left."""
    folder = tmp_path_factory.mktemp("trained")
    return next(run(small_campaign(folder)).models.glob("head-*-t0000"))


def test_the_first_version_is_the_checkpoint_that_was_given(trained: Path, tmp_path: Path) -> None:
    folder = run(small_campaign(tmp_path, learn={**head(checkpoint=str(trained)), "retrain": False}))
    with folder.store() as store:
        versions = list(store.query("models", {"key": {"$regex": "^head"}}))
    sha256 = folder_sha256(trained)
    assert [one["sha256"] for one in versions] == [sha256]
    assert versions[0]["verdict"] == f"first version, read from {trained} (sha256 {sha256})"


def test_a_checkpoint_may_be_named_relative_to_its_campaign(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").symlink_to(trained)
    folder = run(small_campaign(tmp_path, learn=head(checkpoint="weights")))
    assert folder.config().learn.heads[0].checkpoint == trained


@pytest.mark.parametrize(
    ("learn", "words"),
    [
        (head(checkpoint="nowhere"), "the checkpoint of the head components:ElementHead cannot be read"),
        ({**head(), "heads": [{"kind": "wyckoff", "checkpoint": "nowhere"}]}, "there is no checkpoint"),
    ],
)
def test_a_checkpoint_that_cannot_serve_is_refused_at_the_start(
    tmp_path: Path, learn: dict[str, object], words: str
) -> None:
    file = small_campaign(tmp_path, learn=learn)
    assert words in campaign("launch", file, "--pools", "threads").error
    assert not (tmp_path / "small").exists()


def test_options_that_a_checkpoint_was_not_made_with_are_refused(tmp_path: Path) -> None:
    from campaign.components import check_checkpoint
    from campaign.orders import ModelRole
    from models.data import LabelledStructure
    from models.generators.pool import PoolConfig, PoolGenerator
    from models.testing import reference_crystals

    pool = PoolGenerator(PoolConfig())
    crystals: list[LabelledStructure] = reference_crystals()
    pool.fit(crystals, 0)
    pool.save(tmp_path / "pool")
    fitting = ModelRole("generator-0-pool", "generator", "pool", {}, tmp_path / "pool")
    check_checkpoint(fitting, PoolGenerator)
    other = ModelRole("generator-0-pool", "generator", "pool", {"file": "/a.parquet"}, tmp_path / "pool")
    with pytest.raises(ComponentError, match="made with another file"):
        check_checkpoint(other, PoolGenerator)


def test_rounds_after_the_sampled_ones_choose_from_the_backlog(tmp_path: Path) -> None:
    folder = run(small_campaign(tmp_path, acquisition={"sampled_rounds": 1}, stop={"rounds": 3}))
    with folder.store() as store:
        assert {one["round"] for one in store.query("candidates")} == {0}
        assert [bool(one["batches"]) for one in store.query("rounds", sort=[("index", 1)])] == [
            True,
            False,
            False,
        ]
        labels = Counter(one["round"] for one in store.query("labels", {"purpose": "candidate"}))
    assert labels[0] == labels[1] == 3


def test_given_energies_need_an_engine_that_gives_them(tmp_path: Path) -> None:
    file = small_campaign(tmp_path, labels={"hull": "given"})
    assert "needs an engine whose energies are formation energies" in campaign("validate", file).error


def test_the_oracle_refuses_to_work_outside_of_a_benchmark(tmp_path: Path) -> None:
    labels = {"engine": "campaign.benchmarking.engine:OracleEngine", "engine_options": {}, "hull": "given"}
    folder = run(small_campaign(tmp_path, labels=labels))
    with folder.store() as store:
        causes = {one["failure"]["message"] for one in store.query("labels", {"purpose": "candidate"})}
    assert all("the oracle answers in benchmarks alone" in one for one in causes)
    assert causes


def test_a_store_that_need_not_be_durable_holds_the_same(tmp_path: Path) -> None:
    folder = run(small_campaign(tmp_path, store={"durable": False}))
    with folder.store() as store:
        assert store.count("labels", {"state": "done", "purpose": "candidate"}) == 6


def ranking(n: int) -> Ranking:
    scores = -np.arange(n, dtype=float)
    nothing = np.full(n, np.nan)
    ids = tuple(f"c{place:03d}" for place in range(n))
    formulas = tuple(f"F{place // 4}" for place in range(n))
    ones = np.ones(n)
    found = Candidates(ids, formulas, -scores, ones, nothing, nothing, np.zeros((n, 1)), ones, {})
    return Ranking(found, scores, scores, 0.0)


def test_explored_candidates_are_others_than_the_chosen_ones_and_follow_from_the_seed() -> None:
    config, ranked = AcquisitionConfig(diversity="none", max_per_formula=2), ranking(80)
    chosen = choose(ranked, 5, config)
    drawn = explore(ranked, 5, chosen, config, seed=7)
    assert len(set(chosen) | set(drawn)) == 10
    assert drawn == explore(ranked, 5, chosen, config, seed=7) != explore(ranked, 5, chosen, config, seed=8)
    formulas = dict(zip(ranked.candidates.ids, ranked.candidates.formulas, strict=True))
    assert max(Counter(formulas[name] for name in [*chosen, *drawn]).values()) <= 2


def test_exploring_draws_from_the_whole_backlog_alike() -> None:
    config, ranked = AcquisitionConfig(diversity="none", max_per_formula=4), ranking(80)
    places = [int(name[1:]) for seed in range(60) for name in explore(ranked, 5, [], config, seed)]
    assert 33 < np.mean(places) < 46
