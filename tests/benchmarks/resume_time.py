"""How long it takes to open a store, project it and plan again; and what `campaign status` takes as a process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from campaign.components import spec_of
from campaign.config import CampaignConfig, parse_config
from campaign.documents import (
    CampaignDocument,
    CandidateDocument,
    LabelDocument,
    RoundDocument,
    now,
    round_id,
)
from campaign.plan import plan
from campaign.recovery import project
from campaign.run_folder import RunFolder
from campaign.sweeping import sweep

PER_ROUND = 1000


def measure() -> list[dict[str, object]]:
    """Return one row per number of candidates."""
    return [_measure(number) for number in (10_000, 100_000)]


def _measure(number: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = fill(Path(name) / "bench", number)
        begin = time.perf_counter()
        config = folder.config()
        with folder.store(read_only=False) as store:
            sweep(store, folder.work, cores=1, remains={})
            state = project(store, store.get("campaigns", config.name) or {})
            plan(state, spec_of(config), {"gpu": 1, "cpu": 1, "dft": 1}, set())
            resumed = time.perf_counter() - begin
        command = [sys.executable, "-m", "campaign.cli", "status", str(folder.path), "--json"]
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
        size = sum(file.stat().st_size for file in folder.path.glob("store.sqlite*")) / 1e6
        return {
            "candidates": number,
            "resume [s]": resumed,
            "campaign status [s]": sorted(seconds)[1],
            "store [MB]": size,
        }


def fill(path: Path, number: int) -> RunFolder:
    """Write a campaign with `number` candidates in rounds of a thousand; the last round is open."""
    folder = RunFolder(path)
    folder.create()
    config = parse_config(
        {
            "name": "bench",
            "chemistry": {"elements": ["Ca", "Mg", "Si"]},
            "acquisition": {"candidates_per_round": PER_ROUND, "labels_per_round": 20},
            "stop": {"rounds": number // PER_ROUND + 5},
            "batching": {"sample": PER_ROUND},
        },
        "benchmark",
    )
    folder.write_config(config)
    with folder.store(read_only=False) as store:
        for index in range(number // PER_ROUND):
            store.insert_new("candidates", _candidates(config, index))
            chosen = [f"c{index:05d}-{place:05d}" for place in range(20)]
            last = index == number // PER_ROUND - 1
            store.insert_new("rounds", [_round(config, index, None if last else chosen)])
            if not last:
                store.insert_new("labels", [_label(config, name, index) for name in chosen])
        campaign = CampaignDocument(
            id="bench", name="bench", config={}, config_hash="", seed=0, run_dir=str(path), created=now(),
            reference={"path": "", "labels_written": True},
        )  # fmt: skip
        store.insert_new("campaigns", [campaign.doc()])
    return folder


def structure_document() -> dict[str, Any]:
    """Return a small crystal as a document."""
    from pymatgen.core import Lattice, Structure

    return Structure(
        Lattice.cubic(5.0), ["Ca", "Mg", "Si"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]
    ).as_dict()


def _candidates(config: CampaignConfig, index: int) -> list[dict[str, Any]]:
    structure = structure_document()
    return [
        CandidateDocument(
            id=f"c{index:05d}-{place:05d}", campaign=config.name, round=index, order=place, formula="CaMgSi",
            chemsys="Ca-Mg-Si", n_atoms=3, spacegroup=1, generator="generator-0-substitution",
            model_version="v", seed=0, structure=structure, bucket="CaMgSi", created=now(), segment=5,
            state="screened" if place % 10 else "rejected", rejected_by=None if place % 10 else "novelty",
            predictions={"e_above_hull": place / PER_ROUND},
        ).doc()
        for place in range(PER_ROUND)
    ]  # fmt: skip


def _round(config: CampaignConfig, index: int, chosen: list[str] | None) -> dict[str, Any]:
    batch = {"asked": PER_ROUND, "returned": PER_ROUND, "new": PER_ROUND, "seconds": 1.0}
    return RoundDocument(
        id=round_id(config.name, index), campaign=config.name, index=index, batches={"0-0": batch},
        selected=chosen, created=now(),
    ).doc()  # fmt: skip


def _label(config: CampaignConfig, candidate: str, index: int) -> dict[str, Any]:
    return LabelDocument(
        id=f"label-{candidate}", campaign=config.name, candidate_id=candidate, round=index, rank=0,
        state="done", flow="relax_static", engine="gpaw", settings={}, settings_hash="s", formula="CaMgSi",
        chemsys="Ca-Mg-Si", structure=structure_document(), judged=True, created=now(),
        result={"e_above_hull": 0.1, "formation_energy_per_atom": -0.2, "stable": False, "energy_per_atom": -3.0},
    ).doc()  # fmt: skip
