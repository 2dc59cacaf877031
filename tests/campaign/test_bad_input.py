"""Every mistake that a user can make: one line with its cure, exit code 2, and nothing stored is harmed."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command_line import campaign, process, start
from mongo_server import free_port
from test_driver import executions, labels_of, small_campaign

from campaign.run_folder import RunFolder


@functools.cache
def small_files() -> tuple[dict, str]:
    """Return the small campaign's configuration and the text of its reference."""
    with tempfile.TemporaryDirectory() as name:
        file = small_campaign(Path(name))
        return yaml.safe_load(file.read_text()), (Path(name) / "reference.json").read_text()


def written(folder: Path, **keys: object) -> Path:
    """Write the small campaign with some top-level keys in place of its own."""
    document, reference = small_files()
    (folder / "reference.json").write_text(reference)
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump({**document, **keys}))
    return file


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
        ["acquisition.policy", "'ucbb'", "'greedy', 'ucb' or 'random'"],
    ),
    "flow": ({"labels": {"flow": "relaxx"}}, ["label flow", "'relaxx'", "relax_static"]),
    "flow's option": (
        {"labels": {"flow_options": {"cell": 1}}},
        ["label flow", "cell", "allowed:", "relax_cell"],
    ),
    "engine": ({"labels": {"engine": "vaspp"}}, ["engine", "'vaspp'", "allowed: gpaw, mlip"]),
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


# Stores


@pytest.mark.parametrize("command", ["validate", "launch"])
def test_an_unreachable_mongodb_is_told_within_seconds(command: str, tmp_path: Path):
    uri = f"mongodb://me:secret@127.0.0.1:{free_port()}/x"
    campaign("validate", written(tmp_path))  # Python's imports are not what is timed
    file = written(tmp_path, store={"kind": "mongodb", "uri": uri})
    begin = time.monotonic()
    line = campaign(command, file).error
    assert time.monotonic() - begin < 6
    assert "no answer from the MongoDB server" in line
    assert "127.0.0.1" in line
    assert "secret" not in line
    assert "cure:" in line
    assert not (tmp_path / "small").exists()


def test_a_host_that_never_answers(tmp_path: Path):
    """A port that accepts a connection and says nothing: the server's time limit must hold here as well."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/x"
        begin = time.monotonic()
        line = campaign("validate", written(tmp_path, store={"kind": "mongodb", "uri": uri})).error
    assert time.monotonic() - begin < 8
    assert "no answer" in line


def marks(run: RunFolder, **pragmas: int) -> None:
    connection = sqlite3.connect(run.path / "store.sqlite")
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.commit()
    connection.close()


READERS = (
    ["status"],
    ["resume", "--pools", "threads"],
    ["stop"],
    ["query", "labels"],
    ["export", "--format", "csv"],
)


def refused_by_all(run: RunFolder, *words: str) -> None:
    for name, *rest in READERS:
        line = campaign(name, run.path, *rest).error
        for word in words:
            assert word in line, (name, line)


def test_a_store_of_a_newer_version_is_left_alone(copied):
    run = copied()
    with run.store(read_only=False) as store:
        store.put("meta", {"_id": "store", "version": 99})
    before = (run.path / "store.sqlite").read_bytes()
    refused_by_all(run, "newer version", "got 99", "upgrade crystal-campaign")
    marks(run, user_version=99)
    refused_by_all(run, "newer version", "got 99")
    marks(run, user_version=1)
    assert (run.path / "store.sqlite").read_bytes()[100:] == before[100:], (
        "only its header was touched, by us"
    )


@pytest.mark.parametrize("damage", ["torn", "overwritten", "foreign"])
def test_a_damaged_store_is_left_alone(damage: str, copied):
    run = copied()
    file = run.path / "store.sqlite"
    marks(run)  # folds the log into the file
    whole = file.read_bytes()
    if damage == "torn":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "overwritten":
        file.write_bytes(b"these are words and no database" * 500)
    else:
        file.unlink()
        other = sqlite3.connect(file)
        other.execute("CREATE TABLE others (x)")
        other.commit()
        other.close()
    damaged = file.read_bytes()
    refused_by_all(run, str(file))
    assert file.read_bytes() == damaged
    file.write_bytes(whole)
    assert len(labels_of(run)) == 6


@pytest.mark.parametrize("loss", ["missing", "empty"])
def test_a_lost_store_does_not_begin_the_campaign_anew(loss: str, copied):
    run = copied()
    file = run.path / "store.sqlite"
    for log in run.path.glob("store.sqlite-*"):
        log.unlink()
    kept = file.rename(run.path.parent / "kept.sqlite")
    if loss == "empty":
        file.touch()
    line = campaign("resume", run.path, "--pools", "threads").error
    assert "run folder holds work" in line
    assert "put the store back" in line
    assert not file.exists() or file.stat().st_size == 0
    kept.replace(file)
    assert len(labels_of(run)) == 6


def test_a_torn_campaign_yaml_in_the_run_folder(copied):
    run = copied()
    text = run.config_file.read_text()
    for torn in (text[:300] + "\n  [", "", text.replace("seed:", "sead:")):
        run.config_file.write_text(torn)
        refused_by_all(run, str(run.config_file), "cure:")
        assert run.config_file.read_text() == torn
        assert str(run.config_file) in campaign("launch", run.path.parent / "campaign.yaml").error
    run.config_file.write_text(text)
    assert campaign("resume", run.path, "--pools", "threads").code == 0
    assert len(labels_of(run)) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_folder_without_permission(tmp_path: Path, copied):
    run = copied()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    line = campaign("launch", small_campaign(tmp_path), "--run-dir", closed / "x", "--pools", "threads").error
    assert "cure:" in line
    assert str(closed) in line
    (run.path / "store.sqlite").chmod(0o400)
    assert "cure:" in campaign("resume", run.path, "--pools", "threads").error


def test_a_run_folder_that_cannot_be(tmp_path: Path):
    (tmp_path / "occupied").write_text("a file")
    for place in (tmp_path / "occupied", tmp_path / "occupied" / "x", Path("/proc/x")):
        line = campaign("launch", small_campaign(tmp_path), "--run-dir", place, "--pools", "threads").error
        assert str(place) in line or str(place.parent) in line
        assert "cure:" in line, line
    assert (tmp_path / "occupied").read_text() == "a file"


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


# Drivers


def slow(folder: Path) -> dict:
    log = str(folder / "executions.jsonl")
    options = {
        "calculator": "components:CountingLennardJones",
        "calculator_options": {"log": log, "sleep_s": 0.4},
    }
    return {"engine_options": options}


def wait_until(condition: Callable[[], object], running: subprocess.Popen[str]) -> None:
    for _ in range(900):
        if condition():
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    raise AssertionError("it did not come to that within 90 s")


@pytest.mark.slow
def test_a_second_driver_is_refused_with_host_and_pid(tmp_path: Path):
    file = small_campaign(tmp_path, labels=slow(tmp_path))
    run = RunFolder(tmp_path / "small")
    running = start("launch", file, "--pools", "threads")
    try:
        wait_until(lambda: executions(tmp_path), running)
        for argv in (["launch", file], ["resume", run.path], ["resume", file]):
            line = campaign(*argv, "--pools", "threads").error
            assert f"process {running.pid}" in line
            assert socket.gethostname() in line
            assert "cure:" in line
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 0, err
    assert "campaign finished" in out
    folders = [one["folder"] for one in executions(tmp_path)]
    assert len(folders) == len(set(folders)) == 9


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 24 MB; skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path) -> Path:
    """Leave no room on a disk."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as handle:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    handle.write(b"\0" * size)
            except OSError:
                continue
    return ballast


@pytest.mark.slow
def test_a_full_disk_ends_the_driver_and_loses_nothing(small_disk: Path, tmp_path: Path, run: RunFolder):
    file = small_campaign(tmp_path, labels=slow(tmp_path))
    folder = RunFolder(small_disk / "run")
    running = start("launch", file, "--pools", "threads", "--run-dir", folder.path)
    try:
        wait_until(lambda: len(executions(tmp_path)) >= 3, running)
        ballast = fill(small_disk)
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 2, (out[-2000:], err[-3000:])
    (line,) = err.splitlines()
    assert "no space left" in line
    assert "cure: free space" in line
    with folder.store() as store:
        done = {one["_id"]: one["result"]["energy"] for one in store.query("labels", {"state": "done"})}
        assert done
        assert store.count("labels", {"state": "failed"}) == 0, "a full disk is no fault of a candidate"
    assert "no space left" in campaign("resume", folder.path, "--pools", "threads").error

    ballast.unlink()
    ran = process("resume", folder.path, "--pools", "threads")
    assert ran.code == 0, ran.err
    with folder.store() as store:
        assert {one: store.get("labels", one)["result"]["energy"] for one in done} == done
        assert store.count("labels", {"state": "done"}) == 9
    assert labels_of(folder) == labels_of(run), "the same labels as without the trouble"
    times = Counter(one["folder"] for one in executions(tmp_path))
    assert len(times) == 9
    assert sum(times.values()) <= 10, "only the one job that could not write its result was repeated"


@pytest.mark.slow
def test_a_worker_init_that_fails_is_told_in_one_line(tmp_path: Path):
    (tmp_path / "site.yaml").write_text("worker_init: ['module load no-such-module-xyz']\n")
    file = written(tmp_path, site="site.yaml")
    begin = time.monotonic()
    ran = process("launch", file)
    assert time.monotonic() - begin < 30 + 15, (
        "30 s, and the time that Python takes to import on a busy machine"
    )
    assert re.search("worker|pool|site", ran.error)
    assert "cure:" in ran.error
    with RunFolder(tmp_path / "small").store() as store:
        assert store.count("labels", {"state": "failed"}) == 0
    assert not [line for line in ps() if str(tmp_path) in line]


def ps() -> list[str]:
    return subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.slow
def test_a_launch_that_is_interrupted_early(tmp_path: Path):
    """Ctrl-C while the reference is read: no traceback, and the next launch or resume works."""
    import signal

    file = small_campaign(tmp_path)
    running = start("launch", file, "--pools", "threads")
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert "Traceback" not in err, err[-2000:]
    command = "resume" if (tmp_path / "small" / "campaign.yaml").exists() else "launch"
    assert process(command, file, "--pools", "threads").code == 0
