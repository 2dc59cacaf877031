from __future__ import annotations

import sys
from pathlib import Path

import pytest

from campaign import doctor
from campaign.doctor import Check, examine


def _by_name(rows: list[Check]) -> dict[str, Check]:
    return {row.name: row for row in rows}


def test_everything_a_campaign_needs_is_found_here(tmp_path: Path) -> None:
    rows = _by_name(examine(folder=tmp_path))
    assert [row.name for row in rows.values() if not (row.ok or row.optional)] == []
    assert rows["chgnet weights"].found.startswith("0.")
    assert rows["embedded store"].ok
    assert int(rows["cores"].found) >= 1
    assert all(row.found for row in rows.values())


def test_a_package_that_does_not_import_is_told_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenlib.py").write_text("raise OSError('libfoo.so: cannot open')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "MODULES", {"brokenlib": "brokenlib", "nosuchlib": "nosuchlib"})
    broken, missing = doctor.check_packages()
    assert (broken.ok, missing.ok) == (False, False)
    assert "libfoo.so" in broken.found
    assert "No module named" in missing.found
    assert "pip install" in missing.cure


def test_packages_from_two_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("", encoding="utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "models"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    (row,) = doctor.check_location()
    assert not row.ok
    assert str(tmp_path) in row.found


def test_a_server_that_does_not_answer_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "mongodb://me:secret@127.0.0.1:1/x"
    monkeypatch.setenv("AWAY_URI", uri)
    file = tmp_path / "uri"
    file.write_text(uri)
    file.chmod(0o600)
    for source in ("env:AWAY_URI", f"file:{file}", uri):
        (row,) = doctor.check_mongodb(source)
        assert not row.ok
        assert "secret" not in row.found + row.cure
    assert "env:" in row.found + row.cure, "one with a password is not taken from the command line"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_FREE_GB", 1e9)
    (row,) = doctor.check_disk(tmp_path)
    assert not row.ok
