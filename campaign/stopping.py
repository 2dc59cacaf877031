"""`campaign stop`: a request in the run folder; only the driver changes the campaign's documents."""

from __future__ import annotations

import json
from pathlib import Path

from campaign.documents import now as time_now
from campaign.lease import holder
from campaign.run_folder import find_run, write_atomic


def request_stop(run: Path, *, now: bool) -> str:
    """Leave a request for the driver, which looks twice a second; return what to tell the user.

    Raises:
        RunNotFoundError: There is no campaign at `run`.
    """
    folder = find_run(run)
    name = folder.config().name
    with folder.store() as store:
        campaign, driver = store.get("campaigns", name) or {}, holder(store, name)
    if campaign.get("state") != "running":
        return (
            f"campaign {name} is not running (it is {campaign.get('state', 'not launched')}): nothing to stop"
        )
    if driver is None or not driver.is_live:
        return f"the driver of {name} is gone: nothing to stop; carry on with `campaign resume {folder.path}`"
    mode = "now" if now else "drain"
    write_atomic(folder.stop_file, json.dumps({"mode": mode, "time": time_now()}))
    done = "cancels what runs" if now else "lets running tasks end and begins nothing new"
    return f"asked the driver of {name} to stop: it {done}; carry on with `campaign resume {folder.path}`"
