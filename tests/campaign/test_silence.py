"""How long workers may be silent before they count as lost, and their tasks with them."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parsl.executors.high_throughput.manager_selector import RandomManagerSelector

from campaign.parallel.htex import HEARTBEAT_THRESHOLD_S, executor_of
from campaign.parallel.interchange import HELD_SILENT_S, PlacingInterchange
from campaign.parallel.providers import Systems, provider_of
from campaign.site import Site, size_pools


@pytest.fixture
def pbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of PBS's commands: a provider looks whether they are there."""
    for name in ("qsub", "qselect", "qstat", "qdel"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


@pytest.mark.usefixtures("pbs")
@pytest.mark.parametrize(
    ("pool", "seconds"),
    [
        ({"provider": "local"}, HEARTBEAT_THRESHOLD_S),
        ({}, 180),
        ({"lost_after_seconds": 60}, 60),
    ],
)
def test_a_network_may_hang_for_minutes_and_this_machine_may_not(
    pool: dict[str, object], seconds: int
) -> None:
    site = Site.model_validate({"provider": "pbs", "pools": {"dft": {"workers": 1, **pool}}})
    size = size_pools(site, 2, ())["dft"]
    provider = provider_of("dft", Systems(site), size, identity="abc", marker="1-2-0")
    executor = executor_of("dft", size, provider, address="127.0.0.1", marker="1-2-0", bind=False)
    assert executor.heartbeat_threshold == seconds


@pytest.fixture
def interchange(tmp_path: Path) -> Iterator[PlacingInterchange]:
    """A pool's interchange on loopback that nobody is connected to."""
    started = PlacingInterchange(
        client_address="127.0.0.1", interchange_address="127.0.0.1", client_ports=(9, 9, 9), worker_port=None,
        worker_port_range=(50000, 60000), hub_address=None, hub_zmq_port=None, heartbeat_threshold=180,
        logdir=str(tmp_path), logging_level=logging.INFO, poll_period=10, cert_dir=None,
        manager_selector=RandomManagerSelector(), run_id="test", log_config=None, _check_python_mismatch=True,
    )  # fmt: skip
    yield started
    started.zmq_context.destroy(linger=0)


def test_silence_of_a_held_manager_is_believed_soon_and_that_of_others_later(
    interchange: PlacingInterchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is held when its job has ended: nobody will speak there any more."""
    sent: list[dict[str, Any]] = []

    class Results:
        def send(self, message: bytes) -> None:
            sent.append(pickle.loads(message))

    monkeypatch.setattr(interchange, "results_outgoing", Results())
    now = time.time()
    for number, (active, silent_s) in enumerate(
        [(True, 150.0), (False, HELD_SILENT_S + 5), (False, 5.0), (True, 200.0)]
    ):
        interchange._ready_managers[b"%d" % number] = {
            "active": active, "last_heartbeat": now - silent_s, "tasks": [number], "hostname": "n1",
        }  # fmt: skip
    interchange.expire_bad_managers(set(), None)
    assert sorted(interchange._ready_managers) == [b"0", b"2"]
    assert [one["task_id"] for one in sent] == [1, 3]
