"""With 100,000 candidates stored, `campaign resume` hands out its first task within seconds, on either store."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.resume_time import fill, first_task_s

from campaign.recovery import project
from campaign.sweeping import sweep

LONGEST_S = 10.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", ["embedded", "mongodb"])
def test_the_first_task_of_a_resume_comes_within_ten_seconds(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = None
    if kind == "mongodb":
        store = {"kind": kind, "uri": request.getfixturevalue("mongod").uri, "database": "resume-time"}
    run = fill(tmp_path / "run", 100_000, store)
    with run.store(read_only=False) as opened:
        sweep(opened, run.work, cores=1, remains={})
        state = project(opened, opened.get("campaigns", "bench") or {})
    assert len(state.labels) == 1980
    assert sum(not label.final for label in state.labels.values()) == 20
    # Three tries at most: other work on this machine is not what is measured.
    assert any(first_task_s(run, "threads") < LONGEST_S for _ in range(3))
