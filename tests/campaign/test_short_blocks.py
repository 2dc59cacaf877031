"""Whole campaigns in blocks that end too early: what blocks cut uses up nothing, and goes on where it was."""

from __future__ import annotations

import pytest
from short_blocks import ShortBlocks, opener
from test_driver import executions, labels_of, quiet, small_campaign
from test_provoked_failures import causes, labelled, troubled

from campaign import tasks
from campaign.failures import FRUITLESS_BLOCKS, MACHINE
from campaign.launch import launch
from campaign.parallel import block_script
from flows import job_limits
from flows.job_limits import BLOCK_ENDS

AT_ONCE = {"walltime": {"tries": 1}, "node_lost": {"tries": 1}}
"""A single cut that counted would end the label."""


@pytest.mark.slow
def test_relaxations_cut_by_block_after_block_end_as_uncut_ones_do(tmp_path, monkeypatch):
    relaxed = {"flow": "relax", "max_attempts": 1, "on_failure": AT_ONCE, **troubled("Slow")}
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = labelled(tmp_path / "whole", **relaxed)
    opened: list[ShortBlocks] = []
    monkeypatch.setattr("campaign.launch.open_pools", opener(opened, dft=2.0))
    label = labelled(tmp_path / "cut", **relaxed)
    assert (whole["state"], label["state"]) == ("done", "done"), label["failure"]
    assert whole["candidate_id"] == label["candidate_id"], "what is chosen does not depend on time"
    cut = [one for one in label["attempts"] if one["cause"]]
    assert len(cut) >= 2
    assert {one["cause"] for one in cut} == {"walltime"}
    assert all(one["block_ended"] and one["forgiven"] == MACHINE for one in cut)
    assert sum(one["geometries"] > 0 for one in cut) >= 2, "each block took it further"
    energies = [one["result"]["energy_per_atom"] for one in (label, whole)]
    assert energies[0] == pytest.approx(energies[1], abs=2e-3)
    assert all(seconds and seconds > 0 for _, seconds in opened[0].expected), (
        "each task says how long it may take"
    )


@pytest.mark.slow
def test_a_job_that_no_block_is_long_enough_for_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr("campaign.launch.open_pools", opener([], dft=0.3))
    label = labelled(tmp_path, on_failure={"walltime": {"tries": 2}}, **troubled("Slow"))
    assert (label["state"], label["failure"]["cause"]) == ("failed", "walltime")
    assert label["failure"]["block_ended"]
    assert causes(label) == ["walltime"] * (FRUITLESS_BLOCKS + 2)
    assert [one.get("forgiven") for one in label["attempts"]] == [MACHINE] * FRUITLESS_BLOCKS + [None] * 2


@pytest.mark.slow
def test_blocks_that_end_early_do_not_change_what_a_campaign_finds(tmp_path, monkeypatch):
    """Screens and scores that a block cuts are done again, in its own time."""
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = launch(small_campaign(tmp_path / "whole"), run_dir=None, pools="processes", progress=quiet())
    lengths = iter([-1.0, -1.0] + [60.0] * 1000)

    class Unlucky(ShortBlocks):
        def submit(self, pool, function, /, *args, expected_s=None):
            self._lengths_s[pool] = next(lengths)
            return super().submit(pool, function, *args, expected_s=expected_s)

    monkeypatch.setattr("short_blocks.ShortBlocks", Unlucky)
    monkeypatch.setattr("campaign.launch.open_pools", opener([]))
    cut = launch(small_campaign(tmp_path / "cut"), run_dir=None, pools="processes", progress=quiet())
    assert labels_of(cut.folder) == labels_of(whole.folder)
    assert len(executions(tmp_path / "cut")) == len(executions(tmp_path / "whole"))
    with cut.folder.store() as store:
        failed = [one["message"] for one in store.query("events") if one["kind"] == "task_failed"]
    assert len(failed) == 2
    assert all("walltime" in message for message in failed)


def test_blocks_say_when_they_end_where_jobs_look_for_it():
    named = (block_script.BLOCK_ENDS, block_script.BLOCK_GRACE)
    assert named == (job_limits.BLOCK_ENDS, job_limits.BLOCK_GRACE)


def test_a_task_without_time_is_given_back(monkeypatch):
    monkeypatch.setattr(job_limits, "GIVE_BACK_S", 0.01)
    monkeypatch.setenv(BLOCK_ENDS, "1")
    result = tasks.sample({})
    assert (result["ok"], result["seconds"]) == (False, 0.0)
    assert (result["failure"]["cause"], result["failure"]["block_ended"]) == ("walltime", True)
