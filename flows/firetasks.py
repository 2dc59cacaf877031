"""A label's job as a Firetask: what `rlaunch` executes on a worker that has this package.

The order lies in the job's folder, on a disk that driver and workers share, and so does the result: flows, forces
and trajectories never pass through the LaunchPad, whose documents end at 16 MB. Only the folder's name is in the
Firework's spec, and what comes back is a summary, or how the job failed.

Importing this module imports fireworks, which reads its configuration files; nothing but a worker and the
FireWorks pool of a campaign does.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fireworks import FiretaskBase, FWAction, explicit_serialize

from flows.errors import JobFolderError
from flows.job_files import ORDER, write_json
from flows.job_limits import Limits
from flows.job_run import run_job_once
from flows.schemas import FailureCause, FailureInfo

ORDERED = ("job", "upstream", "cures", "seconds", "memory_gb")
"""What a worker needs of an order."""
SUMMARY = ("host", "pid", "started", "ended", "wall_seconds", "core_hours", "reused")
"""What a Launch keeps of a result."""


class JobFailedError(Exception):
    """A job gave no result: FireWorks marks its Firework FIZZLED, and keeps what `to_dict` says.

    Args:
        result: What `run_job_once` returned.
    """

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.result = dict(result)
        super().__init__(f"{result['failure']['cause']}: {result['failure']['message']}")

    def to_dict(self) -> dict[str, Any]:
        """Return cause and message for people, and the whole result as text for the driver."""
        failure = self.result["failure"]
        return {
            "cause": failure["cause"],
            "message": failure["message"],
            "result": json.dumps(self.result),
        }


@explicit_serialize
class RunLabelJob(FiretaskBase):
    """Runs the job whose order lies in `folder`, and reports to the LaunchPad every `heartbeat_s` seconds.

    FireWorks has a heartbeat of its own, but its period is the worker's configuration (an hour by default), and it
    ends at the first report that the server does not take. This one is part of the order and goes on.
    """

    required_params = ("folder", "heartbeat_s")

    def run_task(self, fw_spec: Mapping[str, Any]) -> FWAction:  # noqa: ARG002  # FireWorks' signature
        """Run the job; see `flows.job_run.run_job_once`.

        Raises:
            JobFailedError: The job failed; the cause is in it.
            JobFolderError: There is no order in the folder, or the folder cannot be used.
        """
        folder = Path(self["folder"])
        order = read_order(folder)
        launchpad, fw_id = getattr(self, "launchpad", None), getattr(self, "fw_id", None)
        with reporting(launchpad, fw_id, float(self["heartbeat_s"])):
            try:
                result = run_job_once(
                    order["job"],
                    order["upstream"],
                    str(folder),
                    cures=order["cures"],
                    limits=Limits(order["seconds"], order["memory_gb"]),
                )
            except (KeyboardInterrupt, SystemExit) as error:  # the worker is told to end: not the job's fault
                lost = FailureInfo(cause=FailureCause.NODE_LOST, message=f"the worker ended: {error!r}")
                raise JobFailedError({"ok": False, "failure": lost.model_dump(mode="json")}) from error
        if not result["ok"]:
            raise JobFailedError(result)
        told = {key: result[key] for key in SUMMARY if key in result}
        if "not_kept" in result:  # a full disk: the LaunchPad is where it can still go
            told["result"] = json.dumps(result)
        return FWAction(stored_data=told)


def write_order(folder: Path, order: Mapping[str, Any]) -> None:
    """Leave an order in a job's folder, whole or not at all.

    Args:
        folder: The job's folder; made if it is not there.
        order: `job`, `upstream`, `cures`, `seconds` and `memory_gb`, as for `run_job_once`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [{key: value for key, value in one.items() if key != "_id"} for one in order["upstream"]]
    write_json(folder / ORDER, {**{key: order[key] for key in ORDERED}, "upstream": outputs})


def read_order(folder: Path) -> dict[str, Any]:
    """Return what `write_order` has left.

    Raises:
        JobFolderError: There is none, as where the disk of the run's folder is not mounted.
    """
    try:
        order: dict[str, Any] = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobFolderError(
            "a job's folder holds no order",
            value=str(folder),
            cure="keep the run folder on a disk that driver and workers share, under the same path",
        ) from error
    return order


@contextlib.contextmanager
def reporting(launchpad: Any, fw_id: int | None, period_s: float) -> Iterator[None]:
    """Tell the LaunchPad every `period_s` seconds that this Firework's run lives; say nothing without a LaunchPad."""
    stop = threading.Event()

    def report() -> None:
        while not stop.wait(period_s):
            with contextlib.suppress(Exception):  # a server that is away for a while must not end the reports
                newest = launchpad.launches.find_one(
                    {"fw_id": fw_id, "state": "RUNNING"}, {"launch_id": 1}, sort=[("launch_id", -1)]
                )
                launchpad.ping_launch(newest["launch_id"])

    if launchpad is not None:
        threading.Thread(target=report, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
