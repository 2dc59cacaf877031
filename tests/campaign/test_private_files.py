"""What a campaign writes is its user's alone, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import campaign, process
from test_driver import small_campaign

from campaign.run_folder import RunFolder


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """The umask of most systems: everybody may read."""
    old = os.umask(0o022)
    yield
    os.umask(old)


def open_to_others(folder: Path) -> list[str]:
    """Return what the group or others may read, write or enter, below a folder and itself."""
    found = [folder, *folder.rglob("*")]
    assert len(found) > 20
    return [
        f"{stat.filemode(path.lstat().st_mode)} {path}"
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


@pytest.mark.parametrize(
    "pools", ["threads", pytest.param("parsl", marks=[pytest.mark.slow, pytest.mark.long])]
)
def test_nobody_else_reads_a_run_folder(pools: str, tmp_path: Path):
    ran = process("launch", small_campaign(tmp_path, stop={"rounds": 1}), "--pools", pools)
    assert ran.code == 0, ran.err
    assert open_to_others(tmp_path / "small") == []
    for reader in (["status"], ["query", "labels"]):
        assert campaign(reader[0], tmp_path / "small", *reader[1:]).code == 0
    assert open_to_others(tmp_path / "small") == [], "reading opens nothing"


def test_a_run_folder_that_was_open_is_closed_on_resume(copied):
    run: RunFolder = copied()
    for path in (run.path, run.logs, run.config_file, run.path / "store.sqlite"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert campaign("resume", run.path, "--pools", "threads").code == 0
    for path in (run.path, run.work, run.models, run.logs, run.config_file, run.path / "store.sqlite"):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in run.path.glob("store.sqlite-*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_a_user_asks_to_have_written_keeps_the_users_umask(run: RunFolder, tmp_path: Path):
    assert campaign("export", run.path, "--format", "csv", "--output", tmp_path / "x.csv").code == 0
    assert campaign("init", tmp_path / "campaign.yaml").code == 0
    assert (tmp_path / "x.csv").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "campaign.yaml").stat().st_mode & 0o777 == 0o644


def test_a_run_outside_leaves_the_umask_as_it_was(tmp_path: Path):
    """In a process of its own that keeps on, such as a notebook."""
    ran = campaign("launch", small_campaign(tmp_path, stop={"rounds": 1}), "--pools", "threads")
    assert ran.code == 0
    now = os.umask(0o022)
    assert now == 0o022
