"""What a resumed driver reads from the store is what the dead one knew."""

from __future__ import annotations

from pathlib import Path

from test_driver import quiet, small_campaign

from campaign.launch import launch
from campaign.recovery import project

FOLLOWED = {"then": {"relax": {"flow_options": {"relax_cell": False}}}}


def test_further_labels_do_not_take_the_place_of_the_first_after_a_resume(tmp_path: Path) -> None:
    """Models learn from the first label: a further one has no energy above the hull."""
    run = launch(
        small_campaign(tmp_path, labels=FOLLOWED), run_dir=None, pools="threads", progress=quiet()
    ).folder
    with run.store() as store:
        state = project(store, store.get("campaigns", "small") or {})
    purposes = {label.purpose for label in state.labels.values()}
    assert purposes == {"candidate", "reference", "follow_up"}
    assert {state.labels[name].purpose for name in state.by_candidate.values()} == {"candidate", "reference"}
    assert len(state.by_candidate) == 6 + 3
