"""`campaign export`: every format, read back by the programs that users read it with."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from command_line import campaign, process
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

from campaign.run_folder import RunFolder
from campaign.views.status import result_rows


@pytest.fixture(scope="module")
def labelled(run: RunFolder) -> list[tuple[dict, Structure]]:
    """Rows of the labelled candidates with their relaxed structures, from the store itself."""
    with run.store() as store:
        rows = [row for row in result_rows(store) if row["state"] == "done"]
        found = [(row, store.get("labels", row["label_id"])["result"]["structure"]) for row in rows]
    assert len(found) == 6
    return [(row, Structure.from_dict(structure)) for row, structure in found]


def exported(run: RunFolder, format_: str, target: Path) -> Path:
    ran = campaign("export", run.path, "--format", format_, "--output", target)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"wrote 6 candidates to {target}\n"
    return target


def test_cif(run: RunFolder, labelled, tmp_path: Path):
    files = sorted(exported(run, "cif", tmp_path / "cifs").iterdir())
    assert len(files) == len(labelled)
    for file, (row, structure) in zip(files, labelled, strict=True):
        found = Structure.from_file(file)
        assert row["formula"] in file.name
        assert row["candidate_id"][:8] in file.name
        assert found.composition.reduced_formula == row["formula"]
        # a CIF holds the conventional cell
        assert StructureMatcher(scale=False, ltol=1e-3, stol=1e-3, angle_tol=0.1).fit(found, structure)
        assert found.volume / len(found) == pytest.approx(structure.volume / len(structure), rel=1e-4)


def test_extxyz(run: RunFolder, labelled, tmp_path: Path):
    frames = read(exported(run, "extxyz", tmp_path / "x.extxyz"), index=":")
    assert len(frames) == len(labelled)
    for atoms, (row, structure) in zip(frames, labelled, strict=True):
        assert np.allclose(atoms.cell.array, structure.lattice.matrix, atol=1e-6)
        assert np.allclose(atoms.positions, structure.cart_coords, atol=1e-6)
        assert atoms.get_chemical_symbols() == [site.specie.symbol for site in structure]
        assert atoms.info["e_above_hull"] == pytest.approx(row["e_above_hull"], abs=1e-7)
        assert atoms.info["candidate_id"] == row["candidate_id"]
        assert bool(atoms.info["stable"]) == row["stable"]


def test_json(run: RunFolder, labelled, tmp_path: Path):
    found = json.loads(exported(run, "json", tmp_path / "x.json").read_text())
    for one, (row, structure) in zip(found, labelled, strict=True):
        assert Structure.from_dict(one.pop("structure")) == structure
        assert one == row


def test_csv(run: RunFolder, labelled, tmp_path: Path):
    with exported(run, "csv", tmp_path / "x.csv").open(newline="") as handle:
        found = list(csv.DictReader(handle))
    for one, (row, _) in zip(found, labelled, strict=True):
        assert one["formula"] == row["formula"]
        assert float(one["e_above_hull"]) == row["e_above_hull"]
        assert float(one["core_hours"]) == row["core_hours"]
        assert set(one) == set(row)


def test_the_name_of_the_file_is_the_campaigns(run: RunFolder, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for format_, name in (("cif", "small_cif"), ("csv", "small.csv")):
        assert campaign("export", run.path, "--format", format_).out == f"wrote 6 candidates to {name}\n"
        assert (tmp_path / name).exists()


def test_export_again_replaces_what_was_written(run: RunFolder, tmp_path: Path):
    first = exported(run, "csv", tmp_path / "x.csv").read_text()
    assert exported(run, "csv", tmp_path / "x.csv").read_text() == first
    names = sorted(file.name for file in exported(run, "cif", tmp_path / "c").iterdir())
    assert sorted(file.name for file in exported(run, "cif", tmp_path / "c").iterdir()) == names


def test_a_device_or_a_link_is_written_to_and_not_replaced(run: RunFolder, tmp_path: Path):
    printed = process("export", run.path, "--format", "csv", "--output", "/dev/stdout")
    assert printed.code == 0, printed.err
    assert printed.out.startswith("formula,")
    assert printed.out.count("\n") == 6 + 2, "header, candidates, and the line that says so"
    link, file = tmp_path / "link.csv", tmp_path / "file.csv"
    file.touch()
    link.symlink_to(file)
    exported(run, "csv", link)
    assert link.is_symlink()
    assert file.read_text().startswith("formula,")
    assert "no space left" in process("export", run.path, "--format", "csv", "--output", "/dev/full").error
    assert Path("/dev/full").is_char_device()
