"""Objects beyond the limit of a document: kept in files beside the store, and given back as if they lay in it."""

from __future__ import annotations

import itertools
import stat
from pathlib import Path

import pytest

from campaign.errors import StoreError
from campaign.run_folder import private_files
from campaign.storage.large_files import MARK, MOST_BYTES, LargeFiles
from campaign.store import CampaignStore, StoreConfig

DATABASES = itertools.count()
FORCE_CONSTANTS = [[[0.125 + row / 7, -0.5, 1e-7]] * 1000 for row in range(800)]
"""As many numbers as those of 320 atoms: about 22 MB of JSON."""
ZEROS = [0] * 1_240_000
"""2.5 MB of JSON, and six times as much in MongoDB."""


@pytest.fixture(params=["embedded", "mongodb"])
def store(request, tmp_path):
    config = StoreConfig()
    if request.param == "mongodb":
        uri = request.getfixturevalue("mongod").uri
        config = StoreConfig(kind="mongodb", uri=uri, database=f"large{next(DATABASES)}")
    with private_files(), CampaignStore.open(config, tmp_path) as opened:
        yield opened


def output(uuid: str, value: object) -> dict:
    return {"uuid": uuid, "index": 1, "output": value}


def blob(value: object) -> dict:
    return {"blob_uuid": "b", "job_uuid": "u", "job_index": 1, "data": value}


def test_outputs_and_large_data_of_any_size_are_given_back(store, tmp_path):
    for _ in range(2):  # repeating it changes nothing
        store.put_job_outputs([output("u", FORCE_CONSTANTS)], [blob(FORCE_CONSTANTS)])
    [stored] = store.query("jobs", {"uuid": "u"})
    assert stored["output"] == FORCE_CONSTANTS
    [stored] = store.query("data", {"job_uuid": "u"}, fields=["data"])
    assert stored["data"] == FORCE_CONSTANTS
    assert [one["uuid"] for one in store.query("jobs", fields=["uuid"])] == ["u"]
    files = list((tmp_path / "large").iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_flow_of_many_large_jobs_is_given_back(store):
    jobs = [{"uuid": str(number), "index": 1, "job": "x" * 100_000} for number in range(200)]
    store.put("flows", {"_id": "label", "jobs": jobs, "output_uuid": "0"})
    assert store.get("flows", "label") == {"_id": "label", "jobs": jobs, "output_uuid": "0"}


@pytest.mark.parametrize("more", [0, 40_000])
def test_what_is_short_as_json_and_long_in_mongodb_fits_all_the_same(store, tmp_path, more):
    """On either side of the limit."""
    numbers = ZEROS + [0] * more
    store.put_job_outputs([output("u", numbers)])
    assert next(iter(store.query("jobs")))["output"] == numbers
    assert (tmp_path / "large").exists() is bool(more)


def test_a_file_that_is_lost_or_changed_is_told(tmp_path):
    large = LargeFiles(tmp_path)
    stored = dict(large.put_aside("data", blob("x" * MOST_BYTES)))
    assert set(stored["data"]) == {MARK}
    assert large.bring_back("data", stored) == blob("x" * MOST_BYTES)
    [file] = Path(tmp_path).iterdir()
    file.write_text(file.read_text().replace("x", "y", 1))
    with pytest.raises(StoreError, match=r"is damaged.*sha256"):
        large.bring_back("data", stored)
    file.unlink()
    with pytest.raises(StoreError, match=r"cannot be read.*copy"):
        large.bring_back("data", stored)


def test_what_a_job_itself_calls_a_file_stays_as_it_is(tmp_path):
    large = LargeFiles(tmp_path)
    for value in ({"@file": 1}, {"@file": {"sha256": "0"}}, {"@file": {}, "other": 2}, "text", None):
        assert large.bring_back("data", blob(value)) == blob(value)
