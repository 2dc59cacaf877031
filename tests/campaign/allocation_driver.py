"""A driver inside a Slurm job whose pools run on the job's nodes. Usage: python allocation_driver.py FOLDER"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from slurm_pools import where_and_nap

from campaign.parallel.parsl_pools import ParslPools
from campaign.site import Site


def main(folder: Path) -> None:
    pools = {
        "gpu": {"accelerators": "auto", "gpus_per_node": 2},
        "cpu": {"provider": "local", "workers": 1},
        "dft": {"workers": 2, "idle_minutes": 0.05},
    }
    environment = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    site = Site.model_validate({"provider": "allocation", "environment": environment, "pools": pools})
    started = ParslPools(site, folder / "pools")
    futures = [
        (name, started.submit(name, where_and_nap, 1.0)) for name in ("gpu", "gpu", "dft", "dft", "cpu")
    ]
    seen = [(name, future.result(60)) for name, future in futures]
    again = started.submit("dft", where_and_nap, 6.0).result(60)  # the gpu block idles on
    blocks = [block.document() for block in started.blocks()]
    started.close(cancel=False)
    outcome = {"slots": dict(started.slots), "seen": seen, "again": again, "blocks": blocks}
    (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
