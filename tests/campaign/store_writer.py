"""Writes without end and prints what is acknowledged; killed by test_store_crash."""

from __future__ import annotations

import sys
from pathlib import Path

from campaign.store import CampaignStore, StoreConfig

config, folder, worker = sys.argv[1:]
with CampaignStore.open(StoreConfig.model_validate_json(config), Path(folder)) as store:
    for i in range(1_000_000):
        id_ = f"{worker}-{i:06d}"
        store.insert_new("labels", [{"_id": id_, "state": "queued", "text": "x" * 3000}])
        store.set_fields(
            "labels", id_, {"state": "done", "result.energy": float(i)}, expect={"state": "queued"}
        )
        store.set_fields_many("candidates", [(f"{worker}-{k}", {"n": i}) for k in range(5)])
        sys.stdout.write(f"{i}\n")
        sys.stdout.flush()
