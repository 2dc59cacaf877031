"""A campaign on a Slurm test-bed and a MongoDB server, seen from outside: its files, driver, jobs and documents."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import command_line
import psutil
import pymongo
import yaml
from mongo_server import MongoServer
from pymatgen.core import Lattice, Structure
from slurm_cluster import SlurmCluster

ELEMENTS = ("Ag", "Al", "Au", "Cu", "Ni", "Pd", "Pt")
NAME = "faults"
WALLTIME = "00:03:00"
LENGTH_ANG = 4.0


@dataclass(frozen=True)
class Size:
    """How much work the campaign has."""

    rounds: int
    labels_per_round: int = 6
    sleep_s: float = 0.1
    """Of each evaluation: a relaxation lasts some seconds without needing a core for it."""


@dataclass(frozen=True)
class Execution:
    """One start of the engine: which job's folder, which process, when."""

    folder: str
    pid: int
    time: float


def write_campaign(folder: Path, uri: str, database: str, size: Size) -> Path:
    """Write campaign.yaml, the site and the reference; return the campaign.yaml."""
    folder.mkdir(parents=True)
    (folder / "reference.json").write_text(json.dumps(_elements()), encoding="utf-8")
    (folder / "site.yaml").write_text(yaml.safe_dump(_site(folder)), encoding="utf-8")
    engine = {
        "calculator": "components:CountingEMT",
        "calculator_options": {"log": str(folder / "executions.jsonl"), "sleep_s": size.sleep_s},
        "fmax_ev_per_ang": 0.001,  # tight: a relaxation that was cut ends where an uncut one does
    }
    document = {
        "name": NAME,
        "seed": 11,
        "chemistry": {"elements": list(ELEMENTS), "n_elements": 2, "max_atoms": 4},
        "reference": {"crystals": ["reference.json"]},
        "generators": [{"kind": "components:DeviceGenerator"}],
        "screen": [{"kind": "composition"}, {"kind": "min_distance"}, {"kind": "duplicates"}],
        "acquisition": {"candidates_per_round": 40, "labels_per_round": size.labels_per_round},
        "labels": {"flow": "relax_static", "engine": "mlip", "engine_options": engine, "hull": "reference"},
        "learn": {"heads": [{"kind": "components:ElementHead"}], "discriminators": []},
        "stop": {"rounds": size.rounds},
        "batching": {"sample": 10, "screen": 20},
        "store": {"kind": "mongodb", "uri": uri, "database": database},
        "site": "site.yaml",
    }
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


def _elements() -> list[dict[str, Any]]:
    return [
        {
            "material_id": element,
            "structure": Structure.from_spacegroup(
                "Fm-3m", Lattice.cubic(LENGTH_ANG), [element], [[0, 0, 0]]
            ).as_dict(),
            "formation_energy_per_atom": 0.0,
        }
        for element in ELEMENTS
    ]


def _site(folder: Path) -> dict[str, Any]:
    """Return a site with GPU and CPU pools on the test-bed; screening stays on the driver's machine."""
    path = os.pathsep.join([str(command_line.TESTS), str(command_line.TESTS.parent)])
    return {
        "name": "testbed",
        "provider": "slurm",
        "address": "127.0.0.1",
        "batch": {"lost_after_seconds": 20},  # faults follow one another within seconds
        "environment": {"PYTHONPATH": path, "DEVICE_LOG": str(folder / "devices.jsonl")},
        "pools": {
            "gpu": {"partition": "gpu", "gpus_per_node": 2, "accelerators": 2, "workers": 2,
                    "walltime": WALLTIME, "max_blocks": 1},
            "cpu": {"provider": "local", "workers": 1},
            "dft": {"workers": 2, "cores_per_node": 2, "walltime": WALLTIME, "max_blocks": 2, "idle_minutes": 1},
        },
    }  # fmt: skip


@dataclass
class SlurmCampaign:
    """A running campaign."""

    folder: Path
    file: Path
    server: MongoServer
    cluster: SlurmCluster
    database: str
    driver: subprocess.Popen[bytes] | None = None
    driver_deaths: list[float] = field(default_factory=list)
    _client: Any = None

    @property
    def run_dir(self) -> Path:
        return self.folder / NAME

    @property
    def documents(self) -> Any:
        """The campaign's database; a server that is away is told within two seconds."""
        if self._client is None:
            self._client = pymongo.MongoClient(self.server.uri, serverSelectionTimeoutMS=2000)
        return self._client[self.database]

    def start(self, command: str) -> None:
        """Start a driver: `launch` or `resume`."""
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-P", "-m", "campaign.cli", command, str(self.file), "--quiet"],
                env=command_line.environment(**self.cluster.environment), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def kill_driver(self) -> None:
        """End the driver as kill -9 does."""
        assert self.driver is not None
        os.kill(self.driver.pid, signal.SIGKILL)
        self.driver.wait()
        self.driver_deaths.append(time.time())

    @property
    def ended(self) -> bool:
        return self.driver is None or self.driver.poll() is not None

    def ended_at(self) -> float:
        """Return when the campaign said its last word [s since 1970]."""
        last = self.documents.events.find_one(sort=[("time", -1)])
        return datetime.fromisoformat(last["time"]).timestamp()

    def log_end(self, characters: int = 3000) -> str:
        return (self.folder / "driver.log").read_text(encoding="utf-8", errors="replace")[-characters:]

    def executions(self) -> list[Execution]:
        """Return every start of the engine so far."""
        log = self.folder / "executions.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [Execution(**json.loads(line)) for line in lines]

    def running(self) -> list[Execution]:
        """Return the executions that are under way."""
        return [
            one
            for one in self.executions()
            if psutil.pid_exists(one.pid) and not (Path(one.folder) / "result.json").exists()
        ]

    def results(self) -> int:
        """Return how many results of labels' jobs the store holds; -1 while it is away."""
        try:
            return int(self.documents.jobs.count_documents({}))
        except pymongo.errors.PyMongoError:
            return -1

    def labels(self) -> dict[str, float]:
        """Return candidate -> e_above_hull [eV/atom] of all finished labels."""
        found = self.documents.labels.find({"state": "done", "purpose": "candidate"})
        return {one["candidate_id"]: one["result"]["e_above_hull"] for one in found}

    def devices(self) -> dict[int, set[str]]:
        """Return process -> the devices that it was given while it sampled."""
        found: dict[int, set[str]] = {}
        for line in (self.folder / "devices.jsonl").read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            found.setdefault(one["pid"], set()).add(one["devices"])
        return found

    def leftovers(self, patience_s: float = 40.0) -> list[str]:
        """Return batch jobs and processes that still are there, given time to end."""
        deadline = time.monotonic() + patience_s
        while True:
            jobs = [f"job {job.id} {job.name} {job.state}" for job in self.cluster.live_jobs()]
            processes = [
                " ".join(process.info["cmdline"])[:150]
                for process in psutil.process_iter(["cmdline"])
                if str(self.folder) in " ".join(process.info["cmdline"] or [])
            ]
            if not jobs + processes or time.monotonic() > deadline:
                return jobs + processes
            time.sleep(0.5)
