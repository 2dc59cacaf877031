"""`campaign stop`: a request in the run folder; only the driver changes the campaign's documents."""

from __future__ import annotations

import json
from pathlib import Path

from campaign.documents import now as time_now
from campaign.driver_chain import end_chain, read_chain
from campaign.lease import holder
from campaign.run_folder import RunFolder, find_run, write_atomic


def request_stop(run: Path, *, now: bool) -> str:
    """Leave a request for the driver, which looks twice a second; return what to tell the user.

    Raises:
        RunNotFoundError: There is no campaign at `run`.
    """
    folder = find_run(run)
    name = folder.config().name
    with folder.store() as store:
        campaign, driver = store.get("campaigns", name) or {}, holder(store, name)
    live = driver is not None and driver.is_live
    told = _end_batch_jobs(folder, running=not live)
    if live:
        mode = "now" if now else "drain"
        write_atomic(folder.stop_file, json.dumps({"mode": mode, "time": time_now()}))
        done = "cancels what runs" if now else "lets running tasks end and begins nothing new"
        return f"asked the driver of {name} to stop: it {done}{told}; carry on with `campaign resume {folder.path}`"
    state = campaign.get("state", "not launched")
    if state == "running":
        return f"the driver of {name} is gone: nothing to stop{told}; carry on with `campaign resume {folder.path}`"
    return f"campaign {name} is not running (it is {state}): nothing to stop{told}"


def _end_batch_jobs(folder: RunFolder, *, running: bool) -> str:
    """End the driver's chain of batch jobs, if there is one; return what to tell of it."""
    if read_chain(folder) is None:
        return ""
    cancelled = end_chain(folder, "stopped by `campaign stop`", running=running)
    return f"; its batch job {', '.join(cancelled)} is cancelled" if cancelled else ""
