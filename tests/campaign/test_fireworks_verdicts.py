"""What becomes of a Firework, and how urgent it is."""

from __future__ import annotations

import pytest

from campaign.parallel.fireworks_config import FireworksPoolConfig
from campaign.parallel.fireworks_pool import spec_of
from campaign.parallel.fireworks_verdicts import failed_result, priority, verdict
from campaign.parallel.launchpad import Sight

ABOUT_JOB = {"begun": False, "purpose": "candidate", "round": 3, "rank": 2, "name": "x"}


def test_priorities_follow_the_plan() -> None:
    wanted = [
        {"begun": True, "purpose": "reference", "round": -1},
        {"begun": True, "round": 5},
        {"purpose": "reference", "round": -1, "rank": 0},
        {"purpose": "reference", "round": -1, "rank": 4},
        {"round": 0, "rank": 900},
        {"round": 1, "rank": 0},
        {"round": 1, "rank": 1},
    ]
    found = [priority({**ABOUT_JOB, **one}, 0) for one in wanted]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)
    assert priority({**ABOUT_JOB}, 50) - priority({**ABOUT_JOB}, 0) == 50


def test_nothing_is_marked_that_the_site_does_not_say() -> None:
    config = FireworksPoolConfig.model_validate({"launchpad": {"name": "x"}})
    assert set(spec_of(ABOUT_JOB, config)) == {"_priority", "_add_launchpad_and_fw_id"}


@pytest.mark.parametrize(
    ("state", "quiet_s", "has_result", "launched", "wanted"),
    [
        ("READY", 1e6, False, False, "wait"),
        ("PAUSED", 1e6, False, False, "wait"),
        ("RUNNING", 9, False, True, "wait"),
        ("RUNNING", 11, False, True, "lost"),
        ("RUNNING", 11, True, True, "done"),
        ("RESERVED", 11, False, False, "release"),
        ("RESERVED", 11, False, True, "wait"),
        ("RESERVED", 101, False, True, "release"),
        ("COMPLETED", 0, True, True, "done"),
        ("COMPLETED", 11, False, True, "wait"),
        ("COMPLETED", 61, False, True, "missing"),
        ("FIZZLED", 0, False, True, "failed"),
        ("DEFUSED", 0, False, False, "cancelled"),
        ("ARCHIVED", 0, False, False, "cancelled"),
    ],
)
def test_verdicts(state: str, quiet_s: float, has_result: bool, launched: bool, wanted: str) -> None:
    sight = Sight(1, state, launched=launched)
    limits = {"lost_after_s": 10.0, "reserved_after_s": 100.0}
    assert verdict(sight, quiet_s, has_result=has_result, **limits) == wanted
    assert verdict(None, quiet_s, has_result=has_result, **limits) == "cancelled"


def test_a_firework_that_somebody_else_called_lost_is_lost() -> None:
    times = {"started": "2026-11-21T10:00:00+00:00", "reported": "2026-11-21T11:30:00.000000+00:00"}
    found = failed_result(Sight(1, "FIZZLED", launched=True, host="n1", **times))
    assert (found["ok"], found["failure"]["cause"], found["host"]) == (False, "node_lost", "n1")
    assert found["core_hours"] == 1.5


def test_a_worker_without_the_package_tells_so() -> None:
    stored = {"_exception": {"_stacktrace": "Traceback\nModuleNotFoundError: No module named 'flows'\n"}}
    found = failed_result(Sight(1, "FIZZLED", stored=stored))
    assert found["failure"]["cause"] == "unknown"
    assert found["failure"]["message"].endswith("No module named 'flows'")
