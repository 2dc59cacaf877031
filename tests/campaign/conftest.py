"""A finished campaign that several test modules look at; whoever changes it takes a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ran, campaign
from test_driver import small_campaign

from campaign.run_folder import RunFolder


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ran, RunFolder]:
    """What `campaign launch` printed, and the run folder of the finished campaign."""
    folder = tmp_path_factory.mktemp("launched")
    ran = campaign("launch", small_campaign(folder), "--pools", "threads")
    assert ran.code == 0, ran.err
    return ran, RunFolder(folder / "small")


@pytest.fixture(scope="session")
def run(launched: tuple[Ran, RunFolder]) -> RunFolder:
    """The run folder of a finished campaign, to be read only."""
    return launched[1]


@pytest.fixture
def copied(run: RunFolder, tmp_path: Path) -> Callable[[], RunFolder]:
    """Makes a copy of the finished campaign with its own campaign.yaml beside it, to be changed at will."""

    def copy() -> RunFolder:
        small_campaign(tmp_path)
        shutil.copytree(run.path, tmp_path / "small")
        return RunFolder(tmp_path / "small")

    return copy
