"""A driver in its own process: starts Parsl pools, fills them with sleeping programs, waits to be killed.

Usage: python pool_driver.py FOLDER SECONDS kill|interrupt
"""

from __future__ import annotations

import json
import signal
import sys
from concurrent.futures import wait
from pathlib import Path

from pool_tasks import nap, run_program

from campaign.parallel.parsl_pools import ParslPools
from campaign.site import Site


def main(folder: Path, seconds: float, mode: str) -> None:
    interrupts = []
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(1))
    site = Site.model_validate({"environment": {"PYTHONPATH": str(Path(__file__).parent)}})
    pools = ParslPools(site, folder / "pools")
    task = run_program if mode == "kill" else nap
    futures = [pools.submit(name, task, seconds, str(folder / f"{name}.note")) for name in pools.slots]
    (folder / "blocks.json").write_text(
        json.dumps([block.document() for block in pools.blocks()]), encoding="utf-8"
    )
    wait(futures)
    errors = [str(future.exception()) for future in futures if future.exception()]
    pools.close(cancel=False)
    outcome = {"interrupts": len(interrupts), "errors": errors}
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
