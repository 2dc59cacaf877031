"""An embedded store on a network file system: told where it is risky, refused where drivers meet in it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from test_driver import small_campaign

from campaign.doctor import check_runs
from campaign.errors import StoreError
from campaign.launch import launch
from campaign.preparing import prepare_launch
from campaign.validation import validate
from campaign.views.progress import Progress


@pytest.fixture
def on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every folder for one on NFS."""
    monkeypatch.setattr("campaign.storage.sqlite_file.network_file_system", lambda _path: "nfs4")


@pytest.mark.usefixtures("on_nfs")
def test_a_store_on_a_network_file_system_is_told_before_and_while_it_is_used(tmp_path: Path) -> None:
    file = small_campaign(tmp_path, stop={"rounds": 1})
    [told] = [line for line in validate(file) if "warning" in line]
    assert f"{tmp_path / 'small' / 'store.sqlite'} lies on a network file system (nfs4)" in told
    printed = io.StringIO()
    launched = launch(
        file, run_dir=None, pools="threads", progress=Progress(Console(file=printed, width=500))
    )
    with launched.folder.store() as store:
        [event] = store.query("events", {"kind": "warning"})
    assert "network file system (nfs4)" in event["message"]
    assert event["message"] in printed.getvalue()
    [row] = check_runs(tmp_path)
    assert (row.ok, row.optional) == (False, True)
    assert "nfs4" in row.found


@pytest.mark.usefixtures("on_nfs")
def test_drivers_in_batch_jobs_share_no_embedded_store_over_a_network(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("driver: {walltime: 1 h}\n")
    file = small_campaign(tmp_path, site="site.yaml")
    for attempt in (lambda: list(validate(file)), lambda: prepare_launch(file, None)):
        with pytest.raises(StoreError, match=r"locks of an embedded store.*use store.kind mongodb"):
            attempt()
    assert not (tmp_path / "small").exists()
