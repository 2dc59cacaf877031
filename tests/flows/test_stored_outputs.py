"""What a job is told of the jobs before it: what it depends on, and nothing else."""

from __future__ import annotations

from typing import Any

from flows.stored_outputs import gathered

REFERENCE = {"@module": "jobflow.core.reference", "@class": "OutputReference", "uuid": "inner"}
DOCUMENTS: list[dict[str, Any]] = [
    {"_id": 1, "uuid": "parent", "index": 1, "output": {"of a replaced job": [REFERENCE]}},
    {"_id": 2, "uuid": "inner", "index": 1, "output": 3},
    {"_id": 3, "job_uuid": "inner", "blob_uuid": "b", "data": [1, 2]},
    {"_id": 4, "uuid": "stranger", "index": 1, "output": "of a sibling"},
]


def ask(uuids: list[str]) -> list[dict[str, Any]]:
    return [one for one in DOCUMENTS if one.get("uuid", one.get("job_uuid")) in uuids]


def test_outputs_that_outputs_refer_to_are_told_as_well() -> None:
    found = gathered(["parent"], ask)
    assert {one.get("uuid", one.get("blob_uuid")) for one in found} == {"parent", "inner", "b"}
    assert not any("_id" in one for one in found)


def test_a_job_without_parents_is_told_nothing() -> None:
    assert gathered([], ask) == []
