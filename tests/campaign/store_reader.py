"""Reads a campaign's MongoDB without a pause, as another user would, until it is ended; tells of what is wrong.

Started as `python store_reader.py URI DATABASE PREFIX`. At the end (a line on stdin) prints how many documents it has
read, and what it found to be torn.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from campaign.store import CampaignStore, StoreConfig


def torn(store: CampaignStore) -> tuple[int, list[str]]:
    """Read everything once; return how much, and what contradicts itself within one document."""
    seen, wrong = 0, []
    for label in store.query("labels"):
        seen += 1
        wrong += [f"label {label['_id']}: {why}" for why in _label(label)]
    for name in ("candidates", "models", "rounds", "events", "jobs", "flows"):
        for document in store.query(name):
            seen += 1
            if name == "candidates" and not {"structure", "state", "formula"} <= document.keys():
                wrong.append(f"candidate {document['_id']}")
            if name == "flows" and not document["jobs"]:
                wrong.append(f"flow {document['_id']}")
    return seen, wrong


def _label(label: dict[str, Any]) -> list[str]:
    wrong = []
    if label["state"] == "done" and not label.get("result"):
        wrong.append("done without a result")
    if label["state"] == "done" and any(job["state"] != "done" for job in label["jobs"]):
        wrong.append("done with a job that is not")
    if label.get("judged") and label["state"] == "done" and "e_above_hull" not in label["result"]:
        wrong.append("judged without a judgement")
    return wrong


def main() -> None:
    uri, database, prefix = sys.argv[1:]
    config = StoreConfig(kind="mongodb", uri=uri, database=database, collection_prefix=prefix)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    seen, wrong = 0, []
    with CampaignStore.open(config, Path("/nowhere"), read_only=True) as store:
        while not stop.is_set():
            number, found = torn(store)
            seen += number
            wrong += found
            stop.wait(0.05)
    sys.stdout.write(f"{seen} {wrong[:5]}\n")


main()
