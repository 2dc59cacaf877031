"""The quickstart as users run it, cut down to one round: real generator, surrogate, models, Parsl and GPAW."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from campaign.run_folder import RunFolder
from campaign.templates import template_text

pytest.importorskip(
    "gpaw", reason="the DFT engine of the quickstart is not installed: pip install gpaw gpaw-data"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2000)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[RunFolder, str]:
    folder = tmp_path_factory.mktemp("quickstart")
    document = yaml.safe_load(template_text("quickstart"))
    document["acquisition"] |= {"candidates_per_round": 24, "labels_per_round": 2}
    document["labels"] |= {
        "hull": "reference",
        "engine_options": {"preset": "fast", "kpts_per_inverse_ang": 2.0},
    }
    document["chemistry"]["max_atoms"] = 4
    document["stop"] = {"rounds": 1}
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump(document))
    done = command("launch", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    return RunFolder(folder / "quickstart"), done.stdout


def command(*words: str) -> subprocess.CompletedProcess[str]:
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository), "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "campaign.cli", *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )


def test_table_of_what_was_found(finished):
    _, printed = finished
    for heading in ("formula", "space", "generator", "predicted", "DFT", "e_above_hull", "hours"):
        assert heading in printed
    assert "wycryst" in printed
    assert "campaign finished: every round is complete" in printed


def test_labels_are_real_dft(finished):
    run, _ = finished
    with run.store() as store:
        labels = list(store.query("labels", {"state": "done"}))
    elements = {
        one["formula"]: one["result"]["energy_per_atom"] for one in labels if one["purpose"] == "reference"
    }
    assert set(elements) == {"Ca", "Mg", "Si"}
    # PBE cohesive trend with GPAW's atomic references: silicon is bound much more strongly than the metals.
    assert elements["Si"] < -4.5 < elements["Ca"] < -1.0
    candidates = [one for one in labels if one["purpose"] == "candidate"]
    assert len(candidates) == 2
    for one in candidates:
        result = one["result"]
        assert result["engine"] == "gpaw"
        assert "gpaw" in result["engine_version"]
        assert -1.0 < result["formation_energy_per_atom"] < 1.0
        assert result["e_above_hull"] is not None
        assert one["core_hours"] > 0
        log = Path(run.work / one["_id"])
        assert any(log.rglob("gpaw.txt")), "the engine's own log is kept"


def test_models_learned_from_the_labels(finished):
    run, _ = finished
    with run.store() as store:
        versions = list(store.query("models", {"term": 1}))
    assert {one["key"].split("-")[0] for one in versions} == {"generator", "head", "discriminator"}
    assert all(one["verdict"] for one in versions)
    assert all(Path(one["checkpoint"]).is_dir() for one in versions if one["state"] == "promoted")


def test_status_and_export_after_the_end(finished, tmp_path):
    run, _ = finished
    found = json.loads(command("status", str(run.path), "--json").stdout)
    assert found["state"] == "finished"
    assert found["labels"] == {"done": 2}
    assert (
        command("export", str(run.path), "--format", "cif", "--output", str(tmp_path / "cif")).returncode == 0
    )
    assert len(list((tmp_path / "cif").glob("*.cif"))) == 2
