"""With 100,000 candidates stored, `campaign resume` hands out its first task within seconds, on either store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.resume_time import fill, first_task_s
from command_line import children_seconds

from campaign.recovery import project
from campaign.sweeping import sweep

LONGEST_S = 10.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("kind", ["embedded", pytest.param("mongodb", marks=pytest.mark.long)])
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
    # Three tries at most, by CPU time: other work on this machine is not what is measured.
    assert any(_computed(lambda: first_task_s(run, "threads")) < LONGEST_S for _ in range(3))


def _computed(do: Callable[[], object]) -> float:
    """Return the CPU time of the processes that something starts and ends [s]."""
    begin = children_seconds()
    do()
    return children_seconds() - begin
