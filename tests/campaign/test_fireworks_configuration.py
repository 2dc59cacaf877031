"""A site whose labels go to a LaunchPad: its file, its mistakes, and the commands that try it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import campaign
from fireworks_site import Site, opened
from test_driver import small_campaign

from campaign.doctor_site import check_site
from campaign.errors import SiteError
from campaign.parallel.fireworks_config import FireworksPoolConfig
from campaign.site import load_site


@pytest.fixture(scope="module")
def site(mongod: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A LaunchPad of this module, and the files of its workers."""
    return Site(mongod.uri, "configuration", tmp_path_factory.mktemp("fireworks"))


def _site_file(folder: Path, launchpad: Any, **more: Any) -> Path:
    file = folder / "site.yaml"
    file.write_text(json.dumps({"pools": {"dft": {"kind": "fireworks", "launchpad": launchpad, **more}}}))
    return file


def test_a_site_reads_fireworks_own_launchpad_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "my_launchpad.yaml").write_text(site.file.read_text())
    found = load_site(str(_site_file(tmp_path, "my_launchpad.yaml", slots=3)), tmp_path).pools.dft
    assert isinstance(found, FireworksPoolConfig)
    assert (found.launchpad, found.slots) == (site.config, 3)


@pytest.mark.parametrize(
    ("launchpad", "more", "told"),
    [
        ("nowhere.yaml", {}, ["pools.dft.launchpad", "nowhere.yaml", "lpad init"]),
        ({"hots": "x"}, {}, ["pools.dft.launchpad.hots: unknown key", "allowed:", "host"]),
        ({"password": ["secret"]}, {}, ["pools.dft.launchpad.password"]),
        ({}, {"workers": 3}, ["pools.dft.workers: unknown key", "slots"]),
        ({}, {"slots": 0}, ["pools.dft.slots", "got 0"]),
    ],
)
def test_mistakes_are_one_line_without_passwords(
    tmp_path: Path, launchpad: Any, more: dict[str, Any], told: list[str]
) -> None:
    with pytest.raises(SiteError) as caught:
        load_site(str(_site_file(tmp_path, launchpad, **more)), tmp_path)
    assert all(words in str(caught.value) for words in told), str(caught.value)
    assert "secret" not in str(caught.value)


def test_only_labels_can_go_to_a_launchpad(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("pools: {cpu: {kind: fireworks}}")
    with pytest.raises(SiteError, match=r"pools\.cpu\.kind"):
        load_site("site.yaml", tmp_path)


def test_a_launchpad_that_does_not_answer_is_told_at_the_start(site: Site) -> None:
    away = {"host": "127.0.0.1", "port": 1, "mongoclient_kwargs": {"serverSelectionTimeoutMS": 200}}
    with pytest.raises(SiteError, match=r"does not answer.*127\.0\.0\.1:1 .*cure: start its MongoDB"):
        opened(site, launchpad=away)
    with pytest.raises(SiteError, match=r"never set up.*lpad"):
        opened(site, launchpad={**site.launchpad, "name": "empty"})


def test_validate_asks_the_launchpad(site: Site, tmp_path: Path) -> None:
    file = small_campaign(tmp_path, site="site.yaml")
    _site_file(tmp_path, site.launchpad, slots=4)
    ran = campaign("validate", file)
    assert ran.code == 0, ran.err
    assert "dft 4 on FireWorks" in ran.out
    assert f"LaunchPad: {site.config.where()} answers" in ran.out
    _site_file(tmp_path, {**site.launchpad, "name": "empty"})
    assert "the LaunchPad was never set up" in campaign("validate", file).error


@pytest.mark.slow
def test_doctor_asks_the_launchpad(site: Site, tmp_path: Path) -> None:
    file = _site_file(tmp_path, site.launchpad, category="dft", slots=4)
    rows = check_site(str(file), tmp_path, 120.0, print)
    assert {"pool gpu", "pool cpu", "pool dft"} <= {row.name for row in rows}
    assert all(row.ok for row in rows)
    assert rows[-1].found.startswith("4 Fireworks at a time, category dft; FireWorks 2.")
    assert rows[-1].found.endswith(f"{site.config.where()} answers")
