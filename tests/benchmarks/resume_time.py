"""How long `campaign resume` takes, from the command line to its first task, and what `campaign status` takes."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from campaign.components import reference_of
from campaign.config import CampaignConfig, config_hash, parse_config, stored_config
from campaign.documents import (
    CampaignDocument,
    CandidateDocument,
    LabelDocument,
    RoundDocument,
    now,
    round_id,
)
from campaign.references.catalogue import file_sha256, prepare_reference
from campaign.run_folder import RunFolder
from flows.run import build_label

PER_ROUND = 1000
LABELS_PER_ROUND = 20
QUEUED = 20
"""Labels that wait when the driver died: those of the last round but one, which is the last that chose."""
LONGEST_S = 120.0


def measure() -> list[dict[str, object]]:
    """Return one row per number of candidates."""
    return [_measure(number) for number in (10_000, 100_000)]


def _measure(number: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = fill(Path(name) / "bench", number)
        resumed = {f"resume, {pools} [s]": first_task_s(folder, pools) for pools in ("threads", "parsl")}
        command = [sys.executable, "-m", "campaign.cli", "status", str(folder.path), "--json"]
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
        size = sum(file.stat().st_size for file in folder.path.glob("store.sqlite*")) / 1e6
        return {
            "candidates": number,
            **resumed,
            "campaign status [s]": sorted(seconds)[1],
            "store [MB]": size,
        }


def first_task_s(folder: RunFolder, pools: str) -> float:
    """Return the seconds from the start of a `campaign resume` until it hands a job of a label to a pool.

    The driver is killed then; what it had begun is queued again by the next one.
    """
    command = [sys.executable, "-m", "campaign.cli", "resume", str(folder.path), "--pools", pools, "--quiet"]
    with folder.store(read_only=False) as store:
        for one in store.query("labels", {"state": "running"}, fields=["jobs"]):  # of a driver killed before
            jobs = [{**job, "state": "queued"} for job in one["jobs"]]
            store.set_fields("labels", one["_id"], {"state": "queued", "jobs": jobs})
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            while not store.count("labels", {"state": "running"}):
                took = time.perf_counter() - begin
                if process.poll() is not None or took > LONGEST_S:
                    raise RuntimeError(
                        f"no job was begun in {took:.0f} s: {process.communicate()[1].decode()}"
                    )
                time.sleep(0.02)
            return time.perf_counter() - begin
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def fill(path: Path, number: int, store: dict[str, Any] | None = None) -> RunFolder:
    """Write a campaign with `number` candidates in rounds of a thousand; the last round is open.

    Args:
        path: Its run folder.
        number: Candidates.
        store: The block `store` of its configuration; an embedded one when left out.
    """
    folder = RunFolder(path)
    folder.create()
    config = parse_config(
        {
            "name": "bench",
            "chemistry": {"elements": ["Ca", "Mg", "Si"]},
            "acquisition": {"candidates_per_round": PER_ROUND, "labels_per_round": LABELS_PER_ROUND},
            "labels": {"flow": "relax_static", "engine": "mlip", "engine_options": {"calculator": "lj"}},
            "stop": {"rounds": number // PER_ROUND + 5},
            "batching": {"sample": PER_ROUND},
            "store": store or {},
        },
        "benchmark",
    )
    folder.write_config(config)
    prepared = prepare_reference(reference_of(config, path), path / "reference")
    structure = structure_document()
    labels = config.labels
    flow = build_label(structure, labels.flow, labels.engine, labels.engine_options, labels.flow_options)
    last = number // PER_ROUND - 1
    with folder.store(read_only=False) as opened:
        for index in range(last + 1):
            opened.insert_new("candidates", _candidates(config, index))
            chosen = [f"c{index:05d}-{place:05d}" for place in range(LABELS_PER_ROUND)]
            opened.insert_new("rounds", [_round(config, index, None if index == last else chosen)])
            if index < last:
                done = index < last - 1
                opened.insert_new("labels", [_label(config, name, index, flow, done) for name in chosen])
                opened.insert_new("flows", [{"_id": f"label-{name}", **flow} for name in chosen])
        campaign = CampaignDocument(
            id="bench", name="bench", config=stored_config(config), config_hash=config_hash(config), seed=0,
            run_dir=str(path), created=now(),
            reference={"path": str(prepared), "sha256": file_sha256(prepared), "labels_written": True},
        )  # fmt: skip
        opened.insert_new("campaigns", [campaign.doc()])
    return folder


@functools.cache
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


def _label(
    config: CampaignConfig, candidate: str, index: int, flow: dict[str, Any], done: bool
) -> dict[str, Any]:
    state = "done" if done else "queued"
    result = {
        "e_above_hull": 0.1,
        "formation_energy_per_atom": -0.2,
        "stable": False,
        "energy_per_atom": -3.0,
    }
    names = ("uuid", "index", "name", "parents")
    return LabelDocument(
        id=f"label-{candidate}", campaign=config.name, candidate_id=candidate, round=index, rank=0,
        state=state, flow="relax_static", engine="mlip", settings={}, settings_hash=flow["settings_hash"],
        formula="CaMgSi", chemsys="Ca-Mg-Si", structure=structure_document(), judged=done, created=now(),
        jobs=[{**{name: job[name] for name in names}, "state": state} for job in flow["jobs"]],
        result=result if done else None,
    ).doc()  # fmt: skip
