"""Command-line filters, sorts and fields; the documented queries against pymongo itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pymongo
import pytest

from campaign.errors import QueryError
from campaign.query import EXAMPLES, parse_fields, parse_filter, parse_sort
from campaign.storage.schema import INDEXES
from campaign.store import CampaignStore, StoreConfig

STATES = ["sampled", "screened", "rejected", "selected", "labelled"]


def candidates(n: int) -> list[dict[str, Any]]:
    draw = random.Random(1)
    rows = []
    for i in range(n):
        state = draw.choice(STATES)
        energy = draw.choice([None, round(draw.uniform(-0.1, 0.5), 3)])
        rows.append(
            {
                "_id": f"c{i:03d}",
                "state": state,
                "round": i % 4,
                "formula": draw.choice(["CaTiO3", "CaO", "TiO2"]),
                "chemsys": draw.choice(["Ca-O-Ti", "Ca-O"]),
                "spacegroup": draw.randint(1, 230),
                "generator": "substitution",
                "model_version": "t0000",
                "seed": i,
                "rejected_by": draw.choice(["distance", "charge"]) if state == "rejected" else None,
                "predictions": {} if energy is None else {"e_above_hull": energy},
                "structure": {"sites": [{"species": [{"element": "Ca", "occu": 1}]}] * 3},
            }
        )
    return rows


def labels(n: int) -> list[dict[str, Any]]:
    draw = random.Random(2)
    rows = []
    for i in range(n):
        state = draw.choice(["queued", "done", "failed"])
        cause = draw.choice(["scf_not_converged", "walltime"])
        rows.append(
            {
                "_id": f"l{i:03d}",
                "candidate_id": f"c{i:03d}",
                "purpose": draw.choice(["candidate", "reference"]),
                "state": state,
                "formula": draw.choice(["CaTiO3", "CaO"]),
                "attempts": [{"worker": "w", "cause": cause}] if state == "failed" else [],
                "result": {
                    "e_above_hull": round(draw.uniform(-0.2, 0.2), 2),
                    "formation_energy_per_atom": -2.0,
                }
                if state == "done"
                else None,
                "failure": {"cause": cause, "message": "…"} if state == "failed" else None,
                "core_hours": float(i),
            }
        )
    return rows


VALUES = {"chemsys": "Ca-O-Ti", "candidate": "c007"}


def documents(store: CampaignStore, name: str) -> Any:
    example = EXAMPLES[name]
    criteria = example.filled(**VALUES)
    if example.count_by:
        return store.count_by(example.collection, example.count_by, criteria)
    return list(store.query(example.collection, criteria, example.fields, example.sort, limit=example.limit))


def by_pymongo(database: Any, name: str) -> Any:
    example = EXAMPLES[name]
    criteria = example.filled(**VALUES)
    if example.count_by:
        stages = [{"$match": criteria}, {"$group": {"_id": f"${example.count_by}", "n": {"$sum": 1}}}]
        return {row["_id"]: row["n"] for row in database[example.collection].aggregate(stages)}
    cursor = database[example.collection].find(criteria, list(example.fields or ()) or None)
    return list(cursor.sort([*example.sort, ("_id", 1)]).limit(example.limit))


def test_documented_queries_give_what_pymongo_gives(mongod, tmp_path: Path):
    stores = [
        CampaignStore.open(StoreConfig(), tmp_path),
        CampaignStore.open(StoreConfig(kind="mongodb", uri=mongod.uri, database="examples"), tmp_path),
    ]
    client: pymongo.MongoClient[Any] = pymongo.MongoClient(mongod.uri)
    try:
        for store in stores:
            store.insert_new("candidates", candidates(120))
            store.insert_new("labels", labels(60))
        assert len(EXAMPLES) >= 5
        for name in EXAMPLES:
            expected = by_pymongo(client["examples"], name)
            assert expected, name
            for store in stores:
                assert documents(store, name) == expected, name
    finally:
        for store in stores:
            store.close()
        client.drop_database("examples")
        client.close()


def test_every_documented_query_has_its_index():
    for example in EXAMPLES.values():
        assert example.index == "_id" or example.index in INDEXES[example.collection]
        assert example.index in example.filter


def test_an_example_asks_for_its_values():
    with pytest.raises(QueryError, match="chemsys"):
        EXAMPLES["best"].filled()


def test_filters_are_read():
    assert parse_filter("") == {}
    assert parse_filter('{"state": "done", "result.e": {"$lt": 0.05}}') == {
        "state": "done",
        "result.e": {"$lt": 0.05},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{state: 'done'}", "at character 2"),
        ('{"state": "done"', "not JSON"),
        ('["state"]', "no JSON object"),
        ("__import__('os').system('true')", "not JSON"),
        ('{"$where": "while(true){}"}', "runs code"),
        ('{"a": {"$function": {"body": "x"}}}', "runs code"),
        ('{"$expr": {"$function": {}}}', "runs code"),
        ('{"a": {"$foo": 1}}', "unknown operator"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "no JSON number"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_filters_are_refused_in_one_line(text: str, message: str):
    with pytest.raises(QueryError, match=message) as caught:
        parse_filter(text)
    assert "\n" not in caught.value.one_line()


def test_sorts_and_fields_are_read():
    assert parse_sort("round,-score") == [("round", 1), ("score", -1)]
    assert parse_sort("") == []
    assert parse_fields("formula, result.e_above_hull") == ["formula", "result.e_above_hull"]
    for bad in ("a,,b", "-", "a..b", "$a"):
        with pytest.raises(QueryError):
            parse_sort(bad)
    for bad in ("a,a.b", "a..b", "a,"):
        with pytest.raises(QueryError):
            parse_fields(bad)


def test_filters_survive_json():
    for example in EXAMPLES.values():
        assert json.loads(json.dumps(example.filter)) == example.filter
