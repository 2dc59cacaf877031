"""A POTCAR library of headers for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import SETTINGS
from vasp_machine import write_potcars


@pytest.fixture(scope="session")
def potcars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library's folder."""
    return write_potcars(tmp_path_factory.mktemp("potcars"))


@pytest.fixture(autouse=True)
def potcar_library(potcars: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up the library for this process, and for those that it starts."""
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", str(potcars))
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(potcars))
    return potcars
