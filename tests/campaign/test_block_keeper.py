"""What is remembered of blocks that have ended, without a batch system: only what Parsl would tell is made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from parsl.jobs.states import JobState, JobStatus

from campaign.parallel import blocks
from campaign.parallel.blocks import BlockKeeper
from campaign.site_pools import PoolConfig
from campaign.site_sizes import PoolSize


@pytest.mark.parametrize(("late_s", "known_s"), [(0.0, "no such module"), (60.0, "no message")])
def test_the_log_of_a_block_that_did_not_start_is_read_until_it_must_be_there_and_never_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late_s: float, known_s: str
):
    monkeypatch.setattr(blocks, "_LATE_S", late_s)
    log = tmp_path / "block.stderr"
    log.write_text("no such module\n")
    told = {"0": JobStatus(JobState.FAILED, stderr_path=str(log))}
    executor = SimpleNamespace(
        provider=SimpleNamespace(), status_facade=told, blocks_to_job_id={"0": "401"}, _simulated_status={},
        scale_out_facade=lambda _: ["0"], connected_managers=list, connected_blocks=list,
    )  # fmt: skip
    keeper = BlockKeeper(
        "dft", PoolConfig(provider="pbs"), PoolSize(workers=1, cores_per_worker=1), executor, "m"
    )
    assert keeper._submit()
    [view] = keeper._look()
    assert view.failed == "block 0 (job 401): no such module"
    log.unlink()
    [view] = keeper._look()
    assert view.failed == f"block 0 (job 401): {known_s}"
    assert [block.state for block in keeper.blocks()] == ["ended"]
