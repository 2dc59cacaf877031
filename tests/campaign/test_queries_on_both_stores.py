"""The documented queries on the same campaign in both stores: through `campaign query`, and by pymongo itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pymongo
import pytest
import yaml
from command_line import campaign
from mongo_server import MongoServer
from test_driver import small_campaign

from campaign.errors import QueryError
from campaign.query import EXAMPLES, Example
from campaign.run_folder import RunFolder
from campaign.store import CampaignStore, StoreConfig

PRIVATE = {
    "time",
    "seconds",
    "created",
    "updated",
    "started",
    "ended",
    "wall_seconds",
    "core_hours",
    "host",
    "pid",
    "folder",
}
"""Clocks, hosts, processes and folders: two runs of one campaign differ in them and in nothing else."""


FAR_ABOVE = {"kind": "e_above_hull", "options": {"max_ev_per_atom": 10.0}}
"""The surrogate judges and rejects next to nothing."""


def write(folder: Path, store: dict[str, Any]) -> Path:
    """Write a campaign of which some labels fail; `Fragile` fails on compounds of magnesium."""
    folder.mkdir()
    engine = {
        "calculator": "components:Fragile",
        "calculator_options": {"log": str(folder.parent / "log.jsonl")},
    }
    file = small_campaign(
        folder,
        labels={"engine_options": engine},
        screen=[{"kind": "min_distance"}, {"kind": "duplicates"}, FAR_ABOVE],
        acquisition={"labels_per_round": 6},
    )
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "store": store}))
    return file


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, mongod: MongoServer) -> dict[str, RunFolder]:
    """The same campaign, settings and seed included, run on each store."""
    folder = tmp_path_factory.mktemp("both")
    stores = {
        "embedded": {"kind": "embedded"},
        "mongodb": {"kind": "mongodb", "uri": mongod.uri, "database": "both"},
    }
    found = {}
    for name, store in stores.items():
        ran = campaign("launch", write(folder / name, store), "--pools", "threads", "--quiet")
        assert ran.code == 0, ran.err
        found[name] = RunFolder(folder / name / "small")
    return found


@pytest.fixture(scope="module")
def database(both: dict[str, RunFolder], mongod: MongoServer):
    client: pymongo.MongoClient[Any] = pymongo.MongoClient(mongod.uri)
    yield client["both"]
    client.drop_database("both")
    client.close()


@pytest.fixture(scope="module")
def values(database: Any) -> dict[str, str]:
    """What stands for the names in the examples."""
    best = database["candidates"].find_one({"state": "labelled"}, sort=[("_id", 1)])
    return {"candidate": best["_id"], "chemsys": best["chemsys"]}


def by_command(run: RunFolder, example: Example, values: dict[str, str]) -> list[dict]:
    argv = ["--json", "--limit", str(example.limit)]
    if example.fields:
        argv += ["--fields", ",".join(example.fields)]
    if example.sort:
        argv += ["--sort", ",".join(("-" if way < 0 else "") + field for field, way in example.sort)]
    if example.count_by:
        argv += ["--count-by", example.count_by]
    ran = campaign("query", run.path, example.collection, json.dumps(example.filled(**values)), *argv)
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def by_pymongo(database: Any, example: Example, values: dict[str, str]) -> list[dict]:
    criteria = example.filled(**values)
    if example.count_by:
        stages = [{"$match": criteria}, {"$group": {"_id": f"${example.count_by}", "count": {"$sum": 1}}}]
        rows = database[example.collection].aggregate([*stages, {"$sort": {"count": -1}}])
        return [{example.count_by: row["_id"], "count": row["count"]} for row in rows]
    cursor = database[example.collection].find(criteria, list(example.fields or ()) or None)
    return list(cursor.sort([*example.sort, ("_id", 1)]).limit(example.limit))


def public(value: Any) -> Any:
    """Return a value without what differs between two runs of one campaign."""
    if isinstance(value, dict):
        return {key: public(inner) for key, inner in value.items() if key not in PRIVATE}
    return [public(inner) for inner in value] if isinstance(value, list) else value


def ordered(rows: list[dict], example: Example) -> list[dict]:
    """Counts that tie may come in any order."""
    return sorted(rows, key=str) if example.count_by else rows


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_command_gives_what_pymongo_gives(name: str, both, database, values):
    example = EXAMPLES[name]
    wanted = ordered(by_pymongo(database, example, values), example)
    assert wanted, "the campaign holds something that the query finds"
    assert ordered(by_command(both["mongodb"], example, values), example) == wanted


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_stores_give_the_same(name: str, both, values):
    example = EXAMPLES[name]
    embedded, mongodb = (ordered(by_command(both[store], example, values), example) for store in both)
    assert public(embedded) == public(mongodb)


def test_status_is_the_same_on_both_stores(both):
    def status(store: str) -> dict:
        found = json.loads(campaign("status", both[store].path, "--json").out)
        return {
            key: public(found[key])
            for key in found
            if key not in {*PRIVATE, "usage", "yield", "run_dir", "seconds_since_update"}
        }

    assert status("embedded") == status("mongodb")
    assert status("mongodb")["state"] == "finished"


def test_no_relative_path_is_in_the_server(database):
    for name in ("campaigns", "models", "labels", "flows"):
        for document in database[name].find():
            for key, value in flat(document):
                if key.rpartition(".")[2] in {"path", "run_dir", "checkpoint", "work_dir", "log"} and value:
                    assert Path(value).is_absolute(), (name, key, value)


def flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{prefix}.{key}")]
    if isinstance(value, list):
        return [pair for inner in value for pair in flat(inner, prefix)]
    return [(prefix, value)]


def test_export_reads_from_the_server(both, tmp_path: Path):
    texts = []
    for store in both:
        ran = campaign("export", both[store].path, "--format", "json", "--output", tmp_path / f"{store}.json")
        assert ran.code == 0
        texts.append(public(json.loads((tmp_path / f"{store}.json").read_text())))
    assert texts[0] == texts[1]


def test_a_database_holds_one_campaign(both, mongod: MongoServer, tmp_path: Path):
    file = write(tmp_path / "other", {"kind": "mongodb", "uri": mongod.uri, "database": "both"})
    line = campaign("launch", file, "--pools", "threads").error
    assert "(both) holds a campaign already" in line
    assert "cure:" in line
    assert not (tmp_path / "other" / "small").exists()
    assert json.loads(campaign("status", both["mongodb"].path, "--json").out)["state"] == "finished"


def test_a_query_that_takes_too_long_is_ended_by_mongodb_as_well(mongod, tmp_path):
    config = StoreConfig(kind="mongodb", uri=mongod.uri, database="too-long")
    with CampaignStore.open(config, tmp_path) as store:
        store.insert_new("events", [{"_id": f"e{n}", "text": "x" * 2000} for n in range(3000)])
        with pytest.raises(QueryError, match="took longer than"), store.within(0.02):
            store.count("events", {"text": {"$regex": "(x+x+)+y"}})
        with store.within(30):
            assert store.count("events", {"text": {"$regex": "^x"}}) == 3000
