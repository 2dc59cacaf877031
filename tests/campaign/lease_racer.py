"""Races for a campaign's lease: says `won EPOCH` and holds it, or `lost`. Started by test_lease."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from campaign.errors import LeaseError
from campaign.lease import acquire
from campaign.store import CampaignStore, StoreConfig


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


config, folder, start_at, hold_s = sys.argv[1:]
with CampaignStore.open(StoreConfig.model_validate_json(config), Path(folder)) as store:
    time.sleep(max(0.0, float(start_at) - time.time()))
    try:
        lease = acquire(store, "race", ttl_s=60.0)
    except LeaseError:
        say("lost")
        sys.exit(0)
    say(f"won {lease.epoch}")
    time.sleep(float(hold_s))
