"""SQLiteStore keeps maggma's contract: compared with MongoStore on a real server."""

from __future__ import annotations

import pickle
from datetime import datetime
from pathlib import Path

import pytest
from maggma.core import Sort, StoreError
from maggma.stores.mongolike import MongoStore
from monty.json import MontyDecoder

from campaign.storage.sqlite_store import SQLiteStore


@pytest.fixture(params=["sqlite", "mongo"])
def store(request, tmp_path):
    if request.param == "sqlite":
        made = SQLiteStore(tmp_path / "s.sqlite", "tasks")
    else:
        uri = request.getfixturevalue("mongod").uri
        made = MongoStore("maggma_tests", "tasks", uri=uri, last_updated_type="isoformat")
    with made:
        made.remove_docs({})
        yield made


ROWS = [
    {
        "task_id": i,
        "group": "ab"[i % 2],
        "n": {"x": i / 2},
        "tags": ["t", i],
        "last_updated": f"2026-01-0{i + 1}",
    }
    for i in range(5)
]


def test_update_query_count_distinct_group(store):
    store.update(ROWS)
    store.update({"task_id": 2, "group": "z", "n": {"x": 9}, "tags": [], "last_updated": "2026-02-01"})
    assert store.count() == 5
    assert store.count({"group": "a"}) == 2
    assert store.query_one({"task_id": 2})["group"] == "z"
    found = store.query({"n.x": {"$gte": 1}}, ["n.x"], {"n.x": Sort.Descending}, skip=1, limit=2)
    assert [doc["n"]["x"] for doc in found] == [2.0, 1.5]
    assert set(next(store.query(properties={"task_id": 1, "_id": 0}))) == {"task_id"}
    assert sorted(store.distinct("group")) == ["a", "b", "z"]
    assert sorted(store.distinct("tags"), key=str) == [0, 1, 3, 4, "t"]
    assert store.distinct("group", {"task_id": {"$lt": 2}}) == ["a", "b"]
    groups = {keys["group"]: len(docs) for keys, docs in store.groupby("group", properties=["task_id"])}
    assert groups == {"a": 2, "b": 2, "z": 1}
    store.remove_docs({"group": "b"})
    assert store.count() == 3
    assert store.ensure_index("task_id")
    assert store.last_updated == datetime(2026, 2, 1)


def test_update_by_several_keys_keeps_the_id(store):
    store.update(
        [{"uuid": "u", "index": 1, "v": 1}, {"uuid": "u", "index": 2, "v": 1}], key=["uuid", "index"]
    )
    first = store.query_one({"index": 1})["_id"]
    store.update([{"uuid": "u", "index": 1, "v": 2}], key=["uuid", "index"])
    assert store.count() == 2
    assert store.query_one({"index": 1})["_id"] == first
    assert store.query_one({"index": 1})["v"] == 2


def test_newer_in(store, tmp_path):
    store.update(ROWS)
    with SQLiteStore(tmp_path / "target.sqlite", "tasks") as target:
        target.update(
            [{"task_id": 7, "last_updated": "2027-01-01"}, {"task_id": 1, "last_updated": "2020-01-01"}]
        )
        assert store.newer_in(target) == [7]


def test_unique_index(tmp_path):
    with SQLiteStore(tmp_path / "s.sqlite") as store:
        assert store.ensure_index("name", unique=True)
        store.update({"task_id": 1, "name": "a"})
        with pytest.raises(Exception, match="UNIQUE"):
            store.update({"task_id": 2, "name": "a"})
        assert store.count() == 1
        assert not store.ensure_index("a'b")


def test_serialises_and_pickles(tmp_path):
    store = SQLiteStore(tmp_path / "s.sqlite", "tasks", key="uuid")
    with store:
        store.update({"uuid": "u", "x": 1})
    for copy in (
        SQLiteStore.from_dict(store.as_dict()),
        MontyDecoder().process_decoded(store.as_dict()),
        pickle.loads(pickle.dumps(store)),
    ):
        assert copy == store
        assert hash(copy) == hash(store)
        with copy:
            assert copy.query_one()["x"] == 1
    assert SQLiteStore(tmp_path / "other.sqlite") != store


def test_paths_must_be_absolute_and_stores_connected(tmp_path):
    with pytest.raises(StoreError, match="absolute"):
        SQLiteStore(Path("s.sqlite"))
    with pytest.raises(StoreError, match="connect"):
        SQLiteStore(tmp_path / "s.sqlite").count()
