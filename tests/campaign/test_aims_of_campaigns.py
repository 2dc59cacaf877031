"""Whole small campaigns whose choices weigh gain, cost and windows, and look at what is pending."""

from __future__ import annotations

import pytest
from test_driver import labels_of, quiet, small_campaign

from campaign.acquisition.config import AcquisitionConfig
from campaign.acquisition.policies import ChoiceContext
from campaign.acquisition.ranking import rank
from campaign.acquisition.reading import AcquisitionReader
from campaign.components import spec_of
from campaign.errors import ComponentError
from campaign.launch import launch
from campaign.recovery import project

WINDOW = {"property": "formation_energy_per_atom", "window": [-0.4, None]}


def test_a_campaign_chooses_by_gain_per_cost_within_a_window(tmp_path):
    acquisition = {
        "policy": "expected_improvement",
        "cost_exponent": 1.0,
        "diversity": "determinantal",
        "objectives": [WINDOW],
    }
    file = small_campaign(tmp_path, acquisition=acquisition)
    outcome = launch(file, run_dir=None, pools="threads", progress=quiet())
    assert outcome.status == "finished", outcome.reason
    assert len(labels_of(outcome.folder)) == 6
    config = outcome.folder.config()
    with outcome.folder.store() as store:
        state = project(store, store.get("campaigns", config.name))
        reader = AcquisitionReader(store, config, spec_of(config))
        left = reader.competing(1, state, 0.06)
        scores = {one["_id"]: one["score"] for one in store.query("candidates", fields=["score"])}
        pending = reader.pending(1, state, 0.06)
    assert set(pending.ids) == set(state.rounds[0].selected)
    assert not set(left.ids) & {name for one in state.rounds.values() for name in one.selected}
    assert (left.core_seconds > 2).all(), "the engine's own estimate"
    ranking = rank(left, AcquisitionConfig(**acquisition), ChoiceContext(0))
    stored = [scores[name] for name in ranking.candidates.ids]
    assert stored == pytest.approx(ranking.scores.tolist()), "what is left was scored in the same way"


def test_a_window_of_what_no_head_predicts_is_refused_before_anything_is_written(tmp_path):
    objectives = [{"property": "band_gap", "window": [1.0, 1.8]}]
    file = small_campaign(tmp_path, acquisition={"objectives": objectives, "combine": "pareto"})
    with pytest.raises(
        ComponentError, match=r"got 'band_gap'; allowed: formation_energy_per_atom; cure: name"
    ):
        launch(file, run_dir=None, pools="threads", progress=quiet())
    assert not (tmp_path / "small").exists()
