"""Stores and run folders that are out of reach, damaged, lost or newer: told in one line, and left as they are."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path

import pytest
from command_line import campaign
from mistakes import refused_by_all, written
from mongo_server import free_port
from test_driver import labels_of, small_campaign

from campaign.run_folder import RunFolder


@pytest.mark.parametrize("command", ["validate", "launch"])
def test_an_unreachable_mongodb_is_told_within_seconds(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWAY_URI", f"mongodb://me:secret@127.0.0.1:{free_port()}/x")
    campaign("validate", written(tmp_path))  # Python's imports are not what is timed
    file = written(tmp_path, store={"kind": "mongodb", "uri": "env:AWAY_URI"})
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


def test_a_wrongly_edited_campaign_yaml_in_the_run_folder(copied):
    run = copied()
    text = run.config_file.read_text()
    for wrong in (text.replace("chemistry:", "chemistry: ["), "seed: 1\n", text.replace("seed:", "sead:")):
        run.config_file.write_text(wrong)
        refused_by_all(run, str(run.config_file), "cure:")
        assert run.config_file.read_text() == wrong
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
