"""Every mistake that a user can make: one line with its cure, exit code 2, and nothing stored is harmed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import campaign, process
from mistakes import READERS, written
from test_driver import labels_of, small_campaign

from campaign.run_folder import RunFolder


def engine(**options: object) -> dict:
    return {"labels": {"engine": "gpaw", "engine_options": options}}


MISTAKES: dict[str, tuple[dict, list[str]]] = {
    "misspelt key": (
        {"acquisition": {"polcy": "ucb"}},
        ["acquisition.polcy", "did you mean 'policy'", "kappa"],
    ),
    "misspelt block": ({"generatrs": []}, ["generatrs", "did you mean 'generators'"]),
    "element": ({"chemistry": {"elements": ["Ca", "Mgg"]}}, ["'Mgg'", "did you mean 'Mg'", "H to Pu"]),
    "elements as text": ({"chemistry": {"elements": "Ca-Mg"}}, ["chemistry.elements", "list", "'Ca-Mg'"]),
    "block as text": ({"chemistry": "CaMg"}, ["chemistry", "block of keys", "'CaMg'"]),
    "range": ({"stop": {"rounds": 0}}, ["stop.rounds", "greater than or equal to 1", "got 0"]),
    "generator": (
        {"generators": [{"kind": "substitutoin"}]},
        ["generator", "'substitutoin'", "substitution"],
    ),
    "generator's path": ({"generators": [{"kind": "nomodule:X"}]}, ["'nomodule:X'", "does not import"]),
    "generator's option": (
        {"generators": [{"kind": "substitution", "options": {"temprature": 1}}]},
        ["generator 'substitution'", "temprature", "allowed:", "temperature"],
    ),
    "surrogate": ({"surrogate": {"kind": "chgnett"}}, ["surrogate", "'chgnett'", "allowed: chgnet"]),
    "screen": ({"screen": [{"kind": "min_distanze"}]}, ["screen", "'min_distanze'", "min_distance"]),
    "screen's option": (
        {"screen": [{"kind": "min_distance", "options": {"floor": 1}}]},
        ["screen 'min_distance'", "floor", "allowed:", "floor_ang"],
    ),
    "policy": (
        {"acquisition": {"policy": "ucbb"}},
        ["acquisition.policy", "'ucbb'", "'greedy', 'ucb', 'expected_improvement'"],
    ),
    "flow": ({"labels": {"flow": "relaxx"}}, ["label flow", "'relaxx'", "relax_static"]),
    "flow's option": (
        {"labels": {"flow_options": {"cell": 1}}},
        ["label flow", "cell", "allowed:", "relax_cell"],
    ),
    "engine": (
        {"labels": {"engine": "vaspp"}},
        ["engine", "'vaspp'", "allowed: abinit, cp2k, espresso, gpaw, mlip, vasp"],
    ),
    "engine's option": (engine(prest="fast"), ["engine 'gpaw'", "prest", "allowed:", "preset"]),
    "engine's preset": (engine(preset="fasst"), ["'fasst'", "'fast', 'normal' or 'precise'"]),
    "engine that cannot run": (
        {"labels": {"engine": "mlip", "engine_options": {"calculator": "nomodule:Calculator"}}},
        ["engine does not work", "nomodule", "cure:"],
    ),
    "head": ({"learn": {"heads": [{"kind": "cgcn"}]}}, ["head", "'cgcn'", "allowed: cgcnn"]),
    "head's option": (
        {"learn": {"heads": [{"options": {"membrs": 3}}]}},
        ["head 'cgcnn'", "membrs", "allowed:", "members"],
    ),
    "discriminator": ({"learn": {"discriminators": [{"kind": "svm"}]}}, ["discriminator", "'svm'", "cgcnn"]),
    "missing reference": ({"reference": {"crystals": ["none.parquet"]}}, ["does not exist", "none.parquet"]),
    "Materials Project": ({"reference": {"crystals": ["materials-project"]}}, ["cure:"]),
    "no site": ({"site": "nowhere.yaml"}, ["no such site", "nowhere.yaml", "site: local"]),
    "store": ({"store": {"kind": "postgres"}}, ["store.kind", "'postgres'", "'embedded' or 'mongodb'"]),
    "store without URI": ({"store": {"kind": "mongodb"}}, ["store.uri", "mongodb://"]),
    "no URI": ({"store": {"kind": "mongodb", "uri": "http://x"}}, ["mongodb://", "'http://x'"]),
    "unset variable": ({"store": {"kind": "mongodb", "uri": "env:NO_SUCH_URI"}}, ["NO_SUCH_URI", "export"]),
    **{
        f"store {kind}": (
            {"store": {"kind": kind}},
            ["would be lost", f"'{kind}'", "allowed: embedded, mongodb"],
        )
        for kind in ("mongomock", "json", "memory", "monty")
    },
}


@pytest.mark.parametrize("command", ["validate", "launch"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration(mistake: str, command: str, tmp_path: Path):
    keys, words = MISTAKES[mistake]
    file = written(tmp_path, **keys)
    before = sorted(tmp_path.iterdir())
    line = campaign(command, file).error
    for word in words:
        assert word in line, line
    assert sorted(tmp_path.iterdir()) == before, "nothing was written"


def test_a_mistake_is_told_by_a_process_as_well(tmp_path: Path):
    """What the other tests ask for in this process is what a shell sees."""
    ran = process("launch", written(tmp_path, acquisition={"polcy": "ucb"}))
    assert "did you mean 'policy'" in ran.error
    assert ran.out == ""


def test_files_that_are_no_campaign(tmp_path: Path):
    assert "cannot read" in campaign("launch", tmp_path / "none.yaml").error
    assert "Is a directory" in campaign("validate", tmp_path).error
    file = tmp_path / "campaign.yaml"
    file.write_text("name: x\nchemistry: [unclosed\nseed: 1\n")
    assert "line 3" in campaign("launch", file).error
    file.write_text("just words")
    assert "no mapping" in campaign("launch", file).error


def test_a_site_file_with_a_wrong_key(tmp_path: Path):
    site = tmp_path / "site.yaml"
    file = written(tmp_path, site="site.yaml")
    for text, words in (
        ("pools: {gpuu: {workers: 1}}", ["pools.gpuu", "unknown key", "cpu, dft, gpu"]),
        ("pools: {dft: {workrs: 1}}", ["pools.dft.workrs", "unknown key", "workers"]),
        ("provider: slurmm", ["provider", "'slurmm'", "local"]),
        ("pools: [", ["YAML"]),
    ):
        site.write_text(text)
        for command in ("validate", "launch"):
            line = campaign(command, file).error
            assert all(word in line for word in words), line


# The reference


def rewritten(file: Path, change: Callable[[list[dict]], object]) -> None:
    entries = json.loads(file.read_text())
    change(entries)
    file.write_text(json.dumps(entries))


@pytest.mark.parametrize("command", ["validate", "launch"])
def test_a_reference_without_terminal_elements_names_them(command: str, tmp_path: Path):
    file = small_campaign(tmp_path)
    rewritten(tmp_path / "reference.json", lambda entries: entries.__delitem__(slice(0, 2)))
    line = campaign(command, file).error
    assert "lacks terminal elements (Ca, Mg)" in line
    assert "add an entry for each missing element" in line
    assert not (tmp_path / "small").exists()


def test_one_bad_cif_among_many_is_set_aside_and_counted(tmp_path: Path):
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    file = written(tmp_path, reference={"crystals": ["cifs"]})
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    entries = json.loads((tmp_path / "reference.json").read_text())
    rows = ["file,formation_energy_per_atom"]
    for number in range(30):
        entry = entries[number % len(entries)]
        one = Structure.from_dict(entry["structure"])
        CifWriter(one.scale_lattice(one.volume * (1 + 0.01 * number))).write_file(cifs / f"c{number:02d}.cif")
        rows.append(f"c{number:02d}.cif,{entry['formation_energy_per_atom']}")
    (cifs / "energies.csv").write_text("\n".join(rows))
    (cifs / "c13.cif").write_text("data_x\n_cell_length_a not-a-number\nloop_\n")
    (cifs / "c14.cif").write_bytes(b"\x00\xff\xfe garbage")
    ran = campaign("validate", file)
    assert (ran.code, ran.err) == (0, "")
    assert "28 crystals" in ran.out
    assert "2 set aside" in ran.out
    for name in ("c13.cif", "c14.cif"):
        assert re.search(rf"^  set aside: .*{name}: unreadable CIF", ran.out, re.MULTILINE)


# Runs


def test_a_run_that_is_not_there(tmp_path: Path):
    for name, *rest in READERS:
        line = campaign(name, tmp_path / "none", *rest).error
        assert "there is no campaign" in line
        assert "campaign launch" in line
    assert "there is no campaign" in campaign("status", small_campaign(tmp_path)).error, "not launched yet"


def test_queries_that_cannot_be(run: RunFolder):
    def line(*argv: object) -> str:
        return campaign("query", run.path, *argv).error

    assert "not JSON" in line("labels", "{state: 'done'}")
    assert "at character 2" in line("labels", "{state: 'done'}")
    assert "no JSON object" in line("labels", "[]")
    assert "runs code" in line("labels", '{"$where": "sleep(1)"}')
    assert "unknown operator" in line("labels", '{"a": {"$foo": 1}}')
    assert "allowed: campaigns" in line("lables")
    assert "field,other.field" in line("labels", "--fields", "a,,b")
    assert "field" in line("labels", "--sort", "a..b")
    assert "field" in line("labels", "--count-by", "$a")
    assert "--limit" in line("labels", "--limit", "-1")
    assert "--limit" in line("labels", "--limit", "many")


def test_exports_that_cannot_be(run: RunFolder, tmp_path: Path):
    assert "allowed: cif, extxyz, json, csv" in campaign("export", run.path, "--format", "poscar").error
    line = campaign("export", run.path, "--format", "csv", "--output", tmp_path / "none" / "x.csv").error
    assert "No such file or directory" in line
    assert "check its folder" in line
    (tmp_path / "file").touch()
    assert "cure:" in campaign("export", run.path, "--format", "cif", "--output", tmp_path / "file").error


def test_commands_that_cannot_be(tmp_path: Path):
    assert "Did you mean 'launch'" in campaign("lanch").error
    assert "--pools" in campaign("launch", "x.yaml", "--polls", "threads").error
    assert "campaign launch --help" in campaign("launch").error
    assert "allowed: parsl, processes, threads" in campaign("launch", "x.yaml", "--pools", "slurm").error
    line = campaign("init", tmp_path / "x.yaml", "--template", "vasp").error
    assert all(name in line for name in ("'vasp'", "quickstart", "laptop", "parquet"))
    (tmp_path / "x.yaml").write_text("mine")
    assert "--force" in campaign("init", tmp_path / "x.yaml").error
    assert (tmp_path / "x.yaml").read_text() == "mine"


def test_a_second_launch_of_a_finished_campaign(copied):
    run = copied()
    line = campaign("launch", run.path.parent / "campaign.yaml", "--pools", "threads").error
    assert "holds a campaign already (finished)" in line
    assert "campaign resume" in line
    assert len(labels_of(run)) == 6


def test_an_edit_that_would_change_labels(copied):
    run = copied()
    edited = yaml.safe_load(run.config_file.read_text())
    edited["labels"]["engine_options"]["calculator_options"]["sleep_s"] = 1
    file = run.path.parent / "edited.yaml"
    file.write_text(yaml.safe_dump(edited))
    text = run.config_file.read_text()
    line = campaign("resume", run.path, "--config", file).error
    assert "labels.engine_options.calculator_options.sleep_s" in line
    assert "undo the change" in line
    assert run.config_file.read_text() == text
