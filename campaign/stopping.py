"""`campaign stop`: a request in the run folder; only the driver changes the campaign's documents."""

from __future__ import annotations

import json
from pathlib import Path

from campaign.documents import now as time_now
from campaign.driver_chain import end_chain, read_chain
from campaign.errors import StoreAwayError
from campaign.lease import holder
from campaign.run_folder import RunFolder, find_run, private_files, write_atomic


def request_stop(run: Path, *, now: bool) -> str:
    """Leave a request for the driver, which looks twice a second; return what to tell the user.

    The request is left as well when the store's server is away: a driver may be waiting for the same server.

    Raises:
        RunNotFoundError: There is no campaign at `run`.
        StoreError: The store cannot be used; a server that is away is no error here.
    """
    folder = find_run(run)
    name = folder.config().name
    try:
        with folder.store() as store:
            campaign, driver = store.get("campaigns", name) or {}, holder(store, name)
    except StoreAwayError as error:
        _leave(folder, now=now)
        # A job that runs sees the request, or that the chain has ended.
        told = _end_batch_jobs(folder, running=False)
        done = "leaves at once" if now else "drains once the server is back (--now: leaves at once)"
        return (
            f"{error.what} ({error.value}), so whether a driver of {name} is at work cannot be known: "
            f"if one waits for the server, it {done}{told}; carry on with `campaign resume {folder.path}`"
        )
    live = driver is not None and driver.is_live
    told = _end_batch_jobs(folder, running=not live)
    if live:
        _leave(folder, now=now)
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


def _leave(folder: RunFolder, *, now: bool) -> None:
    with private_files():
        request = {"mode": "now" if now else "drain", "time": time_now()}
        write_atomic(folder.stop_file, json.dumps(request))
