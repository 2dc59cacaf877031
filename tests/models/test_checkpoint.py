from __future__ import annotations

import errno
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch

from models import checkpoint as module
from models.checkpoint import checkpoint_sha256, folder_sha256, load_checkpoint, save_checkpoint
from models.errors import CheckpointError

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([3])}
OTHER = {"a": torch.zeros(2, 3), "n": torch.tensor([4])}


def save(folder: Path, weights: dict[str, torch.Tensor] = WEIGHTS) -> str:
    return save_checkpoint(folder, "head/test", {"hidden": 3}, {"scale": [1.5]}, weights)


def weights_file(folder: Path) -> Path:
    (found,) = folder.glob("weights-*.pt")
    return found


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    digest = save(tmp_path / "deep" / "folder")
    found = load_checkpoint(tmp_path / "deep" / "folder", "head/test")
    assert found.config == {"hidden": 3}
    assert found.state == {"scale": [1.5]}
    assert torch.equal(found.weights["a"], WEIGHTS["a"])
    assert digest == checkpoint_sha256(tmp_path / "deep" / "folder")


def test_the_hash_tells_checkpoints_apart_and_not_their_places(tmp_path: Path) -> None:
    assert save(tmp_path / "one") == save(tmp_path / "two") != save(tmp_path / "three", OTHER)
    assert folder_sha256(tmp_path / "one") == folder_sha256(tmp_path / "two")
    (tmp_path / "two" / "more").write_text("x")
    assert folder_sha256(tmp_path / "one") != folder_sha256(tmp_path / "two")


def test_saving_again_replaces_and_leaves_nothing_over(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / ".weights-old.pt.123.tmp").write_bytes(b"left by a crash")
    save(tmp_path, OTHER)
    assert torch.equal(load_checkpoint(tmp_path, "head/test").weights["a"], OTHER["a"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.json", weights_file(tmp_path).name]


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4])
def test_a_crash_at_any_rename_or_flush_keeps_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    save(tmp_path)
    calls = 0
    real = os.fsync

    def full_disk(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(module.os, "fsync", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        save(tmp_path, OTHER)
    assert "\n" not in caught.value.one_line()
    monkeypatch.undo()
    found = load_checkpoint(tmp_path, "head/test").weights["a"]
    assert torch.equal(found, WEIGHTS["a"]) or torch.equal(found, OTHER["a"])
    assert not list(tmp_path.glob(".*.tmp"))


def test_torn_files_are_named(tmp_path: Path) -> None:
    save(tmp_path)
    path = weights_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=re.escape(path.name)):
        load_checkpoint(tmp_path, "head/test")
    path.unlink()
    with pytest.raises(CheckpointError, match=re.escape(path.name)):
        load_checkpoint(tmp_path, "head/test")
    manifest = tmp_path / "checkpoint.json"
    manifest.write_text(manifest.read_text()[:30])
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is torn"):
        load_checkpoint(tmp_path, "head/test")
    manifest.write_text("[1, 2]")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is not"):
        load_checkpoint(tmp_path, "head/test")


def test_other_kinds_newer_formats_and_nothing_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.raises(CheckpointError, match="another kind") as caught:
        load_checkpoint(tmp_path, "generator/test")
    assert "head/test" in caught.value.one_line()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "elsewhere", "head/test")
    manifest = tmp_path / "checkpoint.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="newer version") as caught:
        load_checkpoint(tmp_path, "head/test")
    assert "format 99" in caught.value.one_line()


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    save(tmp_path / "one")
    save(tmp_path / "two")
    manifest = tmp_path / "two" / "checkpoint.json"
    outside = f"../one/{weights_file(tmp_path / 'one').name}"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"weights": outside}))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "two", "head/test")


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


def test_a_pickled_class_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.chdir(tmp_path)
    save(tmp_path)
    path, manifest = weights_file(tmp_path), tmp_path / "checkpoint.json"
    for write in (lambda: torch.save({"a": Trap()}, path), lambda: path.write_bytes(pickle.dumps(Trap()))):
        write()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"weights_sha256": digest}))
        with pytest.raises(CheckpointError, match="holds no plain tensors"):
            load_checkpoint(tmp_path, "head/test")
    assert not (tmp_path / "trapped").exists()
