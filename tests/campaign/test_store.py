"""CampaignStore: the same behaviour on the embedded file and on a real MongoDB server."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from mongo_server import free_port
from pydantic import ValidationError

from campaign.errors import QueryError, StoreError, StoreUnreachableError, StoreVersionError
from campaign.storage.schema import META, STORE_VERSION
from campaign.store import CampaignStore, StoreConfig, embedded_path

DATABASES = itertools.count()


@pytest.fixture(params=["embedded", "mongodb"])
def config(request):
    if request.param == "embedded":
        yield StoreConfig()
        return
    server = request.getfixturevalue("mongod")
    name = f"store{next(DATABASES)}"
    yield StoreConfig(kind="mongodb", uri=server.uri, database=name, collection_prefix="run1_")
    import pymongo

    with pymongo.MongoClient(server.uri) as client:
        client.drop_database(name)


@pytest.fixture
def store(config, tmp_path):
    with CampaignStore.open(config, tmp_path) as opened:
        yield opened


def test_insert_new_leaves_existing_documents_alone(store):
    assert store.insert_new("candidates", [{"_id": "a", "n": 1}, {"_id": "b", "n": 1}]) == ["a", "b"]
    again = [{"_id": "b", "n": 2}, {"_id": "c", "n": 2}, {"_id": "c", "n": 3}]
    assert store.insert_new("candidates", again) == ["c"]
    assert [d["n"] for d in store.query("candidates", sort=[("_id", 1)])] == [1, 1, 2]
    assert store.insert_new("candidates", []) == []


def test_put_replaces_whole_documents(store):
    store.put("rounds", {"_id": "r", "a": 1, "b": 2})
    store.put("rounds", {"_id": "r", "a": 3})
    assert store.get("rounds", "r") == {"_id": "r", "a": 3}
    assert store.get("rounds", "none") is None


def test_set_fields_compares_before_it_sets(store):
    store.put("labels", {"_id": "l", "state": "queued", "epoch": 1, "jobs": [{"s": 0}, {"s": 0}]})
    assert store.set_fields("labels", "l", {"state": "running"}, expect={"state": "queued"})
    assert not store.set_fields("labels", "l", {"state": "running"}, expect={"state": "queued"})
    assert store.set_fields("labels", "l", {"jobs.1.s": 5, "result.deep.x": 1.5})
    assert not store.set_fields("labels", "none", {"state": "x"})
    assert store.get("labels", "l") == {
        "_id": "l",
        "state": "running",
        "epoch": 1,
        "jobs": [{"s": 0}, {"s": 5}],
        "result": {"deep": {"x": 1.5}},
    }


def test_set_fields_many(store):
    store.insert_new("candidates", [{"_id": str(i), "score": None} for i in range(5)])
    assert store.set_fields_many("candidates", [(str(i), {"score": i / 2}) for i in range(7)]) == 5
    assert store.set_fields_many("candidates", []) == 0
    best = store.query("candidates", {"score": {"$gt": 0.4}}, ["score"], [("score", -1)], limit=2, skip=1)
    assert list(best) == [{"_id": "3", "score": 1.5}, {"_id": "2", "score": 1.0}]


@pytest.mark.parametrize(
    "fields", [{}, {"_id": "x"}, {"a": 1, "a.b": 2}, {"a..b": 1}, {"state.x": 1}, {"$set": 1}, {"jobs.x": 1}]
)
def test_impossible_updates_are_refused_and_change_nothing(store, fields):
    store.put("labels", {"_id": "l", "state": "queued", "jobs": []})
    with pytest.raises(StoreError):
        store.set_fields("labels", "l", fields)
    assert store.get("labels", "l") == {"_id": "l", "state": "queued", "jobs": []}


def test_many_updates_are_refused_as_a_whole(tmp_path):
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        store.insert_new("labels", [{"_id": "a", "x": 1}, {"_id": "b", "x": 1}])
        with pytest.raises(StoreError):
            store.set_fields_many("labels", [("a", {"x": 2}), ("b", {"x.y": 2})])
        assert store.get("labels", "a") == {"_id": "a", "x": 1}


def test_writes_together(store):
    with store.together():
        store.insert_new("labels", [{"_id": "a", "state": "running"}])
        assert store.set_fields("labels", "a", {"state": "done"}, expect={"state": "running"})
        store.log_event("label_done", "a")
        assert store.count("labels", {"state": "done"}) == 1
    assert store.count("events") == 1
    with pytest.raises(KeyError), store.together():
        store.set_fields("labels", "a", {"state": "failed"})
        raise KeyError
    embedded = store.config.kind == "embedded"
    assert store.get("labels", "a")["state"] == ("done" if embedded else "failed")


def test_counts(store):
    rows = [{"_id": str(i), "state": "done" if i % 3 else "failed", "round": i % 2} for i in range(9)]
    store.insert_new("labels", [*rows, {"_id": "none"}])
    assert store.count("labels") == 10
    assert store.count("labels", {"state": "done", "round": {"$gte": 1}}) == 3
    assert store.count_by("labels", "state") == {"done": 6, "failed": 3, None: 1}
    assert store.count_by("labels", "state", {"round": 0}) == {"done": 3, "failed": 2}
    assert store.count("models") == 0
    assert store.count_by("models", "state") == {}


class Colour(Enum):
    RED = "red"


def test_documents_become_plain_and_equal_on_both_stores(store):
    store.put(
        "models",
        {
            "_id": "m",
            "float": np.float64(0.1),
            "int": np.int32(7),
            "bool": np.bool_(True),
            "array": np.arange(6.0).reshape(2, 3)[:, ::2],
            "nan": float("nan"),
            "inf": [np.inf, -np.inf, np.float32("nan")],
            "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1))),
            "naive": datetime(2026, 1, 2, 3, 4, 5, 678000),
            "enum": Colour.RED,
            "tuple": (1, (2,)),
            "set": {"b", "a"},
            "path": Path("/run/model"),
            "text": "Å σ \0 🙂",
            "empty": {},
            "e": [{"deep": [[], {}]}],
        },
    )
    assert store.get("models", "m") == {
        "_id": "m",
        "float": 0.1,
        "int": 7,
        "bool": True,
        "array": [[0.0, 2.0], [3.0, 5.0]],
        "nan": None,
        "inf": [None, None, None],
        "time": "2026-01-02T03:04:05+01:00",
        "naive": "2026-01-02T03:04:05.678000+00:00",
        "enum": "red",
        "tuple": [1, [2]],
        "set": ["a", "b"],
        "path": "/run/model",
        "text": "Å σ \0 🙂",
        "empty": {},
        "e": [{"deep": [[], {}]}],
    }


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (b"bytes", "a.b"),
        (Path("relative/file"), "a.b"),
        ({1: 2}, "key 1"),
        ({"$x": 1}, r"a.b.\$x"),
        (2**63, "64 bits"),
        (-(2**70), "a.b"),
        (object(), "a.b"),
        (1j, "a.b"),
        ("\ud800", "a.b"),
    ],
)
def test_what_has_no_plain_form_is_refused_with_its_place(store, value, place):
    with pytest.raises(StoreError, match=place):
        store.put("models", {"_id": "m", "a": {"b": value}})
    with pytest.raises(StoreError, match=place):
        store.insert_new("models", [{"_id": "ok"}, {"_id": "m", "a": {"b": value}}])
    assert store.count("models") == 0


def test_too_large_a_document_is_refused(store):
    with pytest.raises(StoreError, match="too large"):
        store.put("models", {"_id": "m", "text": "x" * 17_000_000})
    assert store.count("models") == 0


@pytest.mark.parametrize("bad", [{}, {"_id": None}, {"_id": 3}, {"_id": ""}, {"_id": "a\0b"}])
def test_ids_are_texts(store, bad):
    with pytest.raises(StoreError, match="_id"):
        store.put("models", bad)


def test_unknown_collections_and_bad_queries_are_refused_at_once(store):
    for call in (
        lambda: store.query("candidate"),
        lambda: store.query("candidates", {"$where": "1"}),
        lambda: store.query("candidates", fields=["a", "a.b"]),
        lambda: store.query("candidates", sort=[("a", 2)]),
        lambda: store.query("candidates", limit=-1),
        lambda: store.put("nonsense", {"_id": "x"}),
    ):
        with pytest.raises(QueryError):
            call()


def test_events_are_append_only_and_sorted(store):
    ids = [store.log_event("round_ended", "it ended", round=i) for i in range(300)]
    assert ids == sorted(set(ids))
    stored = list(store.query("events", {"kind": "round_ended"}, sort=[("_id", 1)]))
    assert [event["data"]["round"] for event in stored] == list(range(300))
    assert datetime.fromisoformat(stored[0]["time"]).tzinfo == UTC


def test_threads_share_a_store(store):
    store.insert_new("candidates", [{"_id": str(i), "by": None} for i in range(60)])
    taken: list[tuple[int, str]] = []

    def claim(worker: int) -> None:
        for document in store.query("candidates", {"by": None}):
            if store.set_fields("candidates", document["_id"], {"by": worker}, expect={"by": None}):
                taken.append((worker, document["_id"]))

    threads = [threading.Thread(target=claim, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(id_ for _, id_ in taken) == sorted(str(i) for i in range(60))


def test_writing_while_reading(store):
    store.insert_new("candidates", [{"_id": f"{i:04d}", "state": "sampled"} for i in range(700)])
    for document in store.query("candidates", {"state": "sampled"}):
        store.set_fields("candidates", document["_id"], {"state": "screened"})
    assert store.count_by("candidates", "state") == {"screened": 700}


def test_read_only_stores_see_changes_and_change_nothing(store, config, tmp_path):
    store.put("rounds", {"_id": "r", "n": 1})
    with CampaignStore.open(config, tmp_path, read_only=True) as reader:
        assert reader.get("rounds", "r") == {"_id": "r", "n": 1}
        store.put("rounds", {"_id": "r", "n": 2})
        assert reader.get("rounds", "r") == {"_id": "r", "n": 2}
        for call in (
            lambda: reader.put("rounds", {"_id": "s"}),
            lambda: reader.insert_new("rounds", [{"_id": "s"}]),
            lambda: reader.set_fields("rounds", "r", {"n": 3}),
            lambda: reader.set_fields_many("rounds", [("r", {"n": 3})]),
            lambda: reader.log_event("x", "y"),
            lambda: reader.put_job_outputs([{"uuid": "u", "index": 1}]),
        ):
            with pytest.raises(StoreError, match="reading only"):
                call()
    assert store.count("rounds") == 1


def test_a_newer_store_is_refused_and_left_alone(store, config, tmp_path):
    store.put("rounds", {"_id": "r"})
    store._documents.set_fields(META, "store", {"version": STORE_VERSION + 1})
    for read_only in (True, False):
        with pytest.raises(StoreVersionError, match="upgrade"):
            CampaignStore.open(config, tmp_path, read_only=read_only)
    assert store.get("rounds", "r") == {"_id": "r"}
    assert store.get(META, "store")["version"] == STORE_VERSION + 1


def test_reopening_keeps_everything(config, tmp_path):
    with CampaignStore.open(config, tmp_path) as store:
        store.put("rounds", {"_id": "r"})
        created = store.get(META, "store")
    store.close()
    with CampaignStore.open(config, tmp_path) as store:
        assert store.count("rounds") == 1
        assert store.get(META, "store") == created


def test_job_outputs_reach_jobflow(store):
    big = {"blob_uuid": "b1", "data": [1, 2, 3], "job_uuid": "u1", "job_index": 1}
    output = {"energy": -1.5, "trajectory": {"@class": "x", "blob_uuid": "b1", "store": "data"}}
    for _ in range(2):
        store.put_job_outputs([{"_id": "ignored", "uuid": "u1", "index": 1, "output": output}], [big])
    store.put_job_outputs([{"uuid": "u1", "index": 2, "output": {"energy": -2.0}}])
    assert store.count("jobs") == 2
    assert store.count("data") == 1
    with store.job_store() as jobs:
        assert jobs.get_output("u1", which="last") == {"energy": -2.0}
        assert jobs.get_output("u1", which=1, load=True)["trajectory"] == [1, 2, 3]


def test_jobflow_runs_on_the_store(store):
    from jobflow import Flow, job, run_locally

    @job
    def add(a, b):
        return a + b

    @job(data="frames")
    def frames(n):
        return {"frames": list(range(n)), "n": n}

    first = add(1, 2)
    second = add(first.output, 10)
    third = frames(second.output)
    with store.job_store() as jobs:
        run_locally(Flow([first, second, third]), store=jobs, ensure_success=True, log=False)
        assert jobs.get_output(second.uuid) == 13
        assert jobs.get_output(third.uuid, load=True)["frames"] == list(range(13))
    stored = next(store.query("jobs", {"uuid": third.uuid}))
    assert stored["output"]["n"] == 13
    assert stored["output"]["frames"]["store"] == "data"  # the large part lies in `data`
    assert store.count("data") == 1


def test_losing_stores_are_refused():
    for kind in ("memory", "json", "mongomock", "monty", "MemoryStore"):
        with pytest.raises(ValidationError, match="would be lost"):
            StoreConfig(kind=kind)
    with pytest.raises(ValidationError, match=r"store\.uri"):
        StoreConfig(kind="mongodb")
    with pytest.raises(ValidationError, match="belong to"):
        StoreConfig(uri="mongodb://x")


def test_an_unreachable_server_is_told_in_five_seconds_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("AWAY_URI", f"mongodb://user:secret@127.0.0.1:{free_port()}/db")
    uri = "env:AWAY_URI"
    started = time.monotonic()
    with pytest.raises(StoreUnreachableError) as caught:
        CampaignStore.open(StoreConfig(kind="mongodb", uri=uri), tmp_path)
    assert time.monotonic() - started < 5
    assert "secret" not in caught.value.one_line()
    assert "user:***@127.0.0.1" in caught.value.one_line()
    assert "secret" not in str(StoreConfig(kind="mongodb", uri=uri).redacted())


@pytest.mark.parametrize("uri", ["localhost", "mongodb://", "mongodb://a:b:c@h/x", "mongodb://h:port"])
def test_a_malformed_uri_is_told(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MALFORMED_URI", uri)
    uri = "env:MALFORMED_URI"
    with pytest.raises(StoreError):
        CampaignStore.open(StoreConfig(kind="mongodb", uri=uri, database="d"), tmp_path)


def test_the_uri_may_come_from_the_environment(mongod, tmp_path, monkeypatch):
    config = StoreConfig(kind="mongodb", uri="env:TEST_STORE_URI", database="from_environment")
    with pytest.raises(StoreError, match="TEST_STORE_URI"):
        CampaignStore.open(config, tmp_path)
    monkeypatch.setenv("TEST_STORE_URI", mongod.uri)
    with CampaignStore.open(config, tmp_path) as store:
        assert "from_environment" in store.location


def test_no_database_named(mongod, tmp_path):
    with pytest.raises(StoreError, match="no database"):
        CampaignStore.open(StoreConfig(kind="mongodb", uri=mongod.uri), tmp_path)


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert embedded_path(StoreConfig(), Path("run")) == tmp_path / "run" / "store.sqlite"
    assert embedded_path(StoreConfig(path=Path("/x/y.sqlite")), Path("run")) == Path("/x/y.sqlite")


def test_reading_the_embedded_store_imports_nothing_heavy(tmp_path):
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        store.put("candidates", {"_id": "a", "state": "x", "tags": ["t"]})
    code = (
        "import sys; from pathlib import Path; from campaign.store import CampaignStore, StoreConfig\n"
        f"store = CampaignStore.open(StoreConfig(), Path({str(tmp_path)!r}), read_only=True)\n"
        "assert store.count_by('candidates', 'state') == {'x': 1}\n"
        "assert len(list(store.query('candidates', {'tags': 't'}))) == 1\n"
        "print([name for name in ('maggma', 'pymongo', 'torch', 'pymatgen', 'numpy') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
