"""A LaunchPad and its `rlaunch` workers for tests, and orders for them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymongo
import yaml
from command_line import environment
from pymatgen.core import Lattice, Structure

from campaign.parallel.fireworks_config import FireworksPoolConfig, LaunchPadConfig
from campaign.parallel.fireworks_pool import FireworksPools
from campaign.parallel.launchpad import ABOUT
from campaign.parallel.pools import ThreadPools
from campaign.site import PoolSize
from flows.run import build_label

COPPER = Structure(Lattice.cubic(3.7), ["Cu"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


@dataclass
class Worker:
    """One `rlaunch rapidfire` process."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ready(self) -> bool:
        """Whether it has begun to look for Fireworks."""
        return "Sleeping for" in self.log.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


class Site:
    """A LaunchPad on a server, and the configuration files of its workers."""

    def __init__(self, uri: str, name: str, folder: Path) -> None:
        self.folder = folder
        address = urlsplit(uri)
        self.launchpad: dict[str, Any] = {"host": address.hostname, "port": address.port, "name": name}
        self.config = LaunchPadConfig.model_validate(self.launchpad)
        self.file = folder / "my_launchpad.yaml"
        self.file.write_text(yaml.safe_dump(self.launchpad))
        self.settings = folder / "FW_config.yaml"
        self.settings.write_text(yaml.safe_dump({"PING_TIME_SECS": 3600, "PRINT_FW_JSON": False}))
        self._client: pymongo.MongoClient[Any] = pymongo.MongoClient(uri)
        self.db = self._client[name]
        self.lpad().reset("", require_password=False)

    def lpad(self) -> Any:
        """Return FireWorks' own LaunchPad, as `lpad` uses it."""
        from fireworks import LaunchPad

        return LaunchPad(**self.launchpad, strm_lvl="CRITICAL")

    def worker(self, category: str = "dft", **extra: str) -> Worker:
        """Start `rlaunch rapidfire` in a folder of its own."""
        number = len(list(self.folder.glob("worker-*")))
        folder = self.folder / f"worker-{number}"
        folder.mkdir()
        (folder / "my_fworker.yaml").write_text(
            yaml.safe_dump({"name": f"worker-{number}", "category": category, "query": "{}"})
        )
        command = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # dies with the tests
        command += [sys.executable, "-m", "fireworks.scripts.rlaunch_run", "-l", str(self.file)]
        command += ["-w", "my_fworker.yaml", "rapidfire", "--nlaunches", "infinite", "--sleep", "1"]
        named = {"FW_CONFIG_FILE": str(self.settings), "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
        variables = environment(**named, **extra)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
        return Worker(process, folder / "log")

    def fw_ids(self, order: dict[str, Any]) -> list[int]:
        """Return the Fireworks of an order's job, tries in their order."""
        found = self.db.fireworks.find({f"spec.{ABOUT}.label": order["about"]["label"]}).sort("fw_id")
        return [one["fw_id"] for one in found]

    def states(self, order: dict[str, Any]) -> list[str]:
        """Return the states of an order's Fireworks."""
        found = self.db.fireworks.find({f"spec.{ABOUT}.label": order["about"]["label"]}).sort("fw_id")
        return [one["state"] for one in found]

    def spec(self, order: dict[str, Any]) -> dict[str, Any] | None:
        """Return the spec of an order's Firework once it is there."""
        found = self.db.fireworks.find_one({f"spec.{ABOUT}.label": order["about"]["label"]})
        return None if found is None else found["spec"]


def opened(site: Site, **more: Any) -> FireworksPools:
    """Return pools whose labels go to the site's LaunchPad, quick to notice things."""
    config = FireworksPoolConfig.model_validate(
        {
            "launchpad": site.launchpad,
            "category": "dft",
            "poll_seconds": 0.2,
            "lost_after_seconds": 3.0,
            **more,
        }
    )
    sizes = {name: PoolSize(workers=1, cores_per_worker=1) for name in ("gpu", "cpu")}
    return FireworksPools(config, lambda: ThreadPools(sizes), site.folder / "logs")


def order_of(folder: Path, options: dict[str, Any] | None = None, log: Path | None = None) -> dict[str, Any]:
    """Return the order of the first job of a label in a folder."""
    return orders_of(folder, 1, log, options=options)[0]


def orders_of(
    folder: Path,
    count: int,
    log: Path | None = None,
    *,
    sleep_s: float = 0.0,
    options: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return orders as the driver writes them, one label each; with `log` their executions are counted."""
    if options is None:
        options = {"calculator": "ase.calculators.emt:EMT"}
    if log is not None:
        counted = {"log": str(log), "sleep_s": sleep_s}
        options = {"calculator": "components:CountingLennardJones", "calculator_options": counted}
    made = []
    for number in range(count):
        built = build_label(COPPER.as_dict(), "static", "mlip", options, {})
        record = built["jobs"][0]
        about = {
            "campaign": "test", "launched": "today", "label": f"{folder}#{number}", "candidate": f"c{folder}{number}",
            "formula": "Cu", "purpose": "candidate", "round": 0, "rank": number, "begun": False,
            "job": record["uuid"], "index": record["index"], "name": record["name"], "attempt": 1,
        }  # fmt: skip
        work = folder / "work" / f"{number}" / f"{record['uuid']}-{record['index']}"
        order = {"job": record["job"], "upstream": [], "cures": [], "seconds": None, "memory_gb": None}
        made.append({**order, "work_dir": str(work), "about": about})
    return made


def executions(log: Path) -> list[dict[str, Any]]:
    """Return the executions that a counting calculator has noted."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def until(ready: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Wait until `ready()` gives something, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (found := ready()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
