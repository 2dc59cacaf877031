"""Files of the run folder cut at any byte, emptied, or with a folder in their place: mended, or told in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from command_line import campaign
from test_driver import executions, labels_of, small_campaign

from campaign.config import StopConfig, config_document
from campaign.run_folder import FIRST_LINE, RunFolder
from flows.job_files import lock_state, locked, read_result, write_failure, write_result


def cuts(path: Path, number: int = 5) -> Iterator[Callable[[], None]]:
    """Yield ways to damage a file: cut at several bytes, emptied, a folder in its place."""
    whole = path.read_bytes()

    def cut(size: int) -> Callable[[], None]:
        return lambda: (_clear(path), path.write_bytes(whole[:size]))  # type: ignore[func-returns-value, return-value]

    yield from (cut(len(whole) * part // number) for part in range(number))
    yield cut(len(whole) - 1)
    yield lambda: (_clear(path), path.mkdir())  # type: ignore[func-returns-value, return-value]


def _clear(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def resumed(run: RunFolder, *options: object) -> None:
    ran = campaign("resume", run.path, "--pools", "threads", *options)
    assert ran.code == 0, ran.err[-2000:]
    assert "Traceback" not in ran.err + ran.out


def events(run: RunFolder, kind: str) -> list[str]:
    with run.store() as store:
        return [one["message"] for one in store.query("events", {"kind": kind})]


def test_a_torn_configuration_comes_back_from_the_store(copied):
    """Also where what is left is valid YAML: half a configuration is another campaign."""
    run = copied()
    whole, text = run.config(), run.config_file.read_text()
    valid = [n for n in range(len(text)) if isinstance(_parsed(text[:n]), dict)]
    assert len(valid) > 20, "there are cuts that YAML alone does not notice"
    for number in valid[::25]:
        run.config_file.write_text(text[:number])
        assert run.is_config_torn()
        assert run.config() == whole
    for damage in cuts(run.config_file):
        damage()
        if run.config_file.is_dir():
            assert json.loads(campaign("status", run.path, "--json").out)["state"] == "finished"
            assert "campaign.yaml" in campaign("resume", run.path, "--pools", "threads").error
            continue
        if run.is_config_torn():
            assert json.loads(campaign("status", run.path, "--json").out)["state"] == "finished"
        resumed(run)
        assert run.config_file.read_text() == text
    assert any("campaign.yaml was torn" in one for one in events(run, "mended"))


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def test_a_torn_configuration_without_an_embedded_store_is_told_in_one_line(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    run.create()
    run.config_file.write_text(FIRST_LINE + "\nname: x\n")
    line = campaign("status", run.path).error
    assert "torn" in line
    assert "put your own campaign.yaml in its place" in line


def test_a_torn_configuration_beside_an_edited_one(copied, tmp_path: Path):
    """`--config` serves where the run folder's is lost, and still may not change what labels mean."""
    run = copied()
    document = config_document(run.config().model_copy(update={"stop": StopConfig(rounds=2, labels=60)}))
    edited = tmp_path / "edited.yaml"
    run.config_file.write_text("")
    edited.write_text(yaml.safe_dump({**document, "seed": 9}))
    assert "seed 3 -> 9" in campaign("resume", run.path, "--config", edited, "--pools", "threads").error
    edited.write_text(yaml.safe_dump(document))
    resumed(run, "--config", edited)
    assert run.config().stop.labels == 60


def test_an_edit_of_the_run_folders_own_configuration_is_held_against_the_store(copied):
    run = copied()
    text = run.config_file.read_text()
    run.config_file.write_text(text.replace("seed: 3", "seed: 4").replace("max_atoms: 4", "max_atoms: 5"))
    line = campaign("resume", run.path, "--pools", "threads").error
    assert "seed 3 -> 4" in line
    assert "chemistry.max_atoms 4 -> 5" in line, "every difference is told"


def test_a_torn_stop_request_of_a_dead_driver_is_gone_after_resume(copied):
    run = copied()
    run.stop_file.write_text('{"mode": "drain", "time": "2026-01-01"}')
    for damage in cuts(run.stop_file):
        damage()
        assert run.stop_request() == "drain"
        resumed(run)
        assert not run.stop_file.exists()


def test_a_torn_reference_is_prepared_again(tmp_path: Path):
    assert campaign("launch", small_campaign(tmp_path, stop={"rounds": 1}), "--pools", "threads").code == 0
    run = RunFolder(tmp_path / "small")
    path = run.path / "reference" / "reference.parquet"
    checksum = path.with_name(path.name + ".sha256")
    whole, written, labels = path.read_bytes(), checksum.read_text(), labels_of(run)
    for file in (path, checksum):
        for damage in cuts(file, 3):
            damage()
            resumed(run)
            assert path.read_bytes() == whole
            assert checksum.read_text() == written
    assert labels_of(run) == labels
    assert len(events(run, "mended")) >= 8
    checksum.unlink()
    path.unlink()
    resumed(run)
    assert path.read_bytes() == whole


def test_a_reference_whose_sources_have_changed_is_refused(tmp_path: Path):
    file = small_campaign(tmp_path, stop={"rounds": 1})
    assert campaign("launch", file, "--pools", "threads").code == 0
    run = RunFolder(tmp_path / "small")
    (run.path / "reference" / "reference.parquet").write_bytes(b"PAR1")
    entries = json.loads((tmp_path / "reference.json").read_text())
    entries[-1]["formation_energy_per_atom"] = -0.9
    (tmp_path / "reference.json").write_text(json.dumps(entries))
    line = campaign("resume", run.path, "--pools", "threads").error
    assert "its sources do not give again" in line
    assert "cure: put the file back" in line


def test_a_torn_checkpoint_is_trained_again_and_gives_the_same_labels(launched, tmp_path: Path):
    """A campaign of one round goes on to a second one, whose models were damaged meanwhile."""
    calm = labels_of(launched[1])
    file = small_campaign(tmp_path, stop={"rounds": 1})
    assert campaign("launch", file, "--pools", "threads").code == 0
    kept = shutil.copytree(tmp_path, tmp_path.parent / (tmp_path.name + "-kept"))
    run = RunFolder(tmp_path / "small")
    head = "head-0-components.ElementHead"
    with run.store() as store:
        newest = max(
            (one for one in store.query("models", {"key": head, "state": "promoted"})),
            key=lambda one: one["term"],
        )
    names = [
        Path(newest["checkpoint"]) / "weights.json",
        run.models / "generator-0-components.BinaryGenerator-t0000",
    ]
    for path in names:
        for way in range(4):
            shutil.rmtree(tmp_path)
            shutil.copytree(kept, tmp_path)
            damage(path, way)
            small_campaign(tmp_path, stop={"rounds": 2})
            ran = campaign("resume", file, "--pools", "threads")
            assert ran.code == 0, ran.err
            assert labels_of(run) == calm
            assert events(run, "model_lost")
            with run.store() as store:
                assert store.count("models", {"state": "lost"}) == 0
            jobs = [one["folder"] for one in executions(tmp_path)]
            assert len(jobs) == len(set(jobs))


def damage(path: Path, way: int) -> None:
    """Cut a file or the first file of a folder, empty it, or put something else in its place."""
    file = path if path.is_file() else next(one for one in sorted(path.rglob("*")) if one.is_file())
    whole = file.read_bytes()
    match way:
        case 0:
            file.write_bytes(whole[: len(whole) // 2])
        case 1:
            file.write_bytes(b"")
        case 2:
            _clear(path)
        case 3:
            _clear(path)
            path.mkdir() if path.suffix else path.write_text("")


DOCS = {"ok": True, "docs": [{"uuid": "u", "index": 1, "output": 1}], "new_jobs": []}


def test_a_torn_result_is_none_and_is_replaced(tmp_path: Path):
    write_result(tmp_path, DOCS)
    for damaged in cuts(tmp_path / "result.json"):
        damaged()
        assert read_result(tmp_path, "u", 1) is None
        write_result(tmp_path, DOCS)
        assert read_result(tmp_path, "u", 1) == DOCS
    for foreign in ("[]", '{"ok": true}', '{"ok": true, "docs": [1]}'):
        (tmp_path / "result.json").write_text(foreign)
        assert read_result(tmp_path, "u", 1) is None


def test_a_folder_in_the_place_of_a_lock_is_set_aside(tmp_path: Path):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "foreign").write_text("x")
    assert lock_state(tmp_path) == (None, False)
    with locked(tmp_path):
        begun, held = lock_state(tmp_path)
        assert held
        assert begun is not None
    assert not lock_state(tmp_path)[1]
    assert (tmp_path / "lock.aside-1" / "foreign").read_text() == "x"


def test_foreign_names_beside_failures_do_no_harm(tmp_path: Path):
    (tmp_path / "failure-1x.json").write_text("")
    write_failure(tmp_path, {"ok": False})
    assert (tmp_path / "failure-1.json").is_file()


@pytest.mark.parametrize("name", ["control", "logs", "models", "work", "reference"])
def test_a_file_in_the_place_of_a_folder_is_told_in_one_line(copied, name: str):
    run = copied()
    shutil.rmtree(run.path / name)
    (run.path / name).write_text("in the way")
    line = campaign("resume", run.path, "--pools", "threads").error
    assert str(run.path / name) in line
    assert "cure:" in line


@pytest.mark.parametrize(
    "name", ["small.log", "logs/parsl.log", "logs/000", "work/foreign", "models/foreign"]
)
def test_foreign_files_do_not_block_a_start(copied, name: str):
    run = copied()
    (run.path / name).write_text("foreign")
    resumed(run)
