"""Hundreds of drivers, each killed with SIGKILL at a random moment: the campaigns end as if nothing had happened.

    pytest tests/campaign/test_random_kills.py --kill-seed 7 --kills 1000

The seed decides the campaigns and the moments; those by the clock are as exact as clocks are.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from driver_lives import EVENTS, Death, Life, Lives
from invariants import violations
from mongo_server import MongoServer
from test_driver import executions, small_campaign

from campaign.run_folder import RunFolder
from flows.job_files import read_result

FRAGILE = {"calculator": "components:Fragile"}
ENGINE_HULL = {"hull": "engine", "flow": "relax_static", "flow_options": {"relax_cell": False}}
LADDER = [
    {"name": "precise", "flow": "static", "judge": True, "engine_options": {"sigma": 2.45}},
    {"name": "sound", "flow": "static", "when": "precise.stable", "engine_options": {"sigma": 2.4}},
]
"""Rungs whose engine differs from the first labels' in one number."""
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "jobs one after another, references first": {"labels": ENGINE_HULL},
    "labels that fail": {"labels": FRAGILE},
    "further labels": {"labels": {"then": {"relax": {"flow_options": {"relax_cell": False}}}}},
    "a ladder": {"labels": {"ladder": LADDER, "ladder_costs": "estimated", "ladder_lag_rounds": 0}},
    "no model, no lookahead": {"learn": {"heads": []}, "acquisition": {"lookahead_rounds": 0}, "stop": {"rounds": 3}},
}  # fmt: skip
"""Campaigns that are killed: what differs from the small one."""


@dataclass
class Killer:
    """Kills drivers until it has done so often enough."""

    folder: Path
    seed: int
    kills: int
    mongo_uri: str | None
    lives: Lives
    deaths: list[Life] = field(default_factory=list)
    """Of the present campaign."""
    spent: int = 0

    def run(self) -> None:
        """Begin campaign after campaign until all kills are spent."""
        number = 0
        while self.spent < self.kills:
            self.one_campaign(random.Random(f"{self.seed}/{number}"), number)
            number += 1

    def one_campaign(self, dice: random.Random, number: int) -> None:
        recipe, pools = dice.choice(list(RECIPES)), dice.choice(["threads", "processes"])
        file = self.written(f"{number:03d}", recipe)
        self.deaths, run = [], RunFolder(file.parent / "small")
        while self.spent < self.kills:
            life = self.lives.live(file, pools, self.drawn_death(dice))
            if not life.killed:
                break
            self.deaths.append(life)
            self.spent += 1
            if run.config_file.exists() and dice.random() < 0.3:
                self.hold(run, file, ended=False)
        else:
            life = self.lives.live(file, pools, Death("never"))
        log = (file.parent / "driver.log").read_text()[-3000:]
        assert life.code == 0, f"{recipe}, {pools}: a driver ended with {life.code}\n{log}"
        assert self.lives.left_over() == [], (recipe, pools)
        self.hold(run, file, ended=True)
        self.check_executions(file.parent, run)
        assert differences(essence(run), self.calm(recipe)) == [], (recipe, pools, file)
        if self.mongo_uri is not None:
            drop(self.mongo_uri, file)

    def hold(self, run: RunFolder, file: Path, *, ended: bool) -> None:
        """Hold every document against what must be true of it."""
        try:
            with run.store() as store:
                found = violations(store, run, ended=ended)
        except Exception as error:
            if not ended and "no store" in str(error):
                return
            raise
        assert found == [], (file, self.deaths[-1:], found)

    def drawn_death(self, dice: random.Random) -> Death:
        event = dice.choice([*EVENTS, "clock"])
        most = {"write": 60, "statement": 300, "torn": 3, "rename": 12, "fsync": 15, "execution": 6}
        return Death(
            event,
            number=dice.randint(1, most.get(event, 20)),
            after=dice.random() < 0.5,
            seconds=dice.uniform(0.02, 1.0),
        )

    def written(self, name: str, recipe: str) -> Path:
        blocks: dict[str, Any] = json.loads(json.dumps(RECIPES[recipe]))
        folder = self.folder / name
        folder.mkdir()
        blocks.setdefault("labels", {}).setdefault("engine_options", {})
        options = {"calculator": "components:CountingLennardJones", **blocks["labels"]["engine_options"]}
        if "calculator" in blocks["labels"]:
            options["calculator"] = blocks["labels"].pop("calculator")
        options["calculator_options"] = {"log": str(folder / "executions.jsonl")}
        blocks["labels"]["engine_options"] = options
        for rung in blocks["labels"].get("ladder", ()):
            own = {**options["calculator_options"], **rung["engine_options"]}
            rung["engine_options"] = {**options, "calculator_options": own}
        (folder / "site.yaml").write_text(
            "name: two\npools: {gpu: {workers: 1}, cpu: {workers: 1}, dft: {workers: 2}}\n"
        )
        blocks["site"] = "site.yaml"
        if self.mongo_uri is not None and name != "calm":
            database = f"kills-{self.seed}-{name}"
            blocks["store"] = {"kind": "mongodb", "uri": self.mongo_uri, "database": database}
        return small_campaign(folder, **blocks)

    def calm(self, recipe: str) -> dict[str, Any]:
        """Return what the campaign comes to when nobody is killed."""
        if recipe not in self._calm:
            folder = self.folder / f"calm-{len(self._calm)}"
            calm = replace(self, mongo_uri=None, folder=folder)
            folder.mkdir()
            file = calm.written("run", recipe)
            life = self.lives.live(file, "threads", Death("never"))
            assert life.code == 0, (file.parent / "driver.log").read_text()[-3000:]
            run = RunFolder(file.parent / "small")
            with run.store() as store:
                assert violations(store, run) == []
            self._calm[recipe] = essence(run)
        return self._calm[recipe]

    _calm: dict[str, dict[str, Any]] = field(default_factory=dict)

    def check_executions(self, folder: Path, run: RunFolder) -> None:
        """Every start of the engine came to a result, or a driver was killed after it; none came after a result."""
        found: dict[str, list[dict[str, Any]]] = {}
        for one in executions(folder):
            found.setdefault(one["folder"], []).append(one)
        with run.store() as store:
            failed = Counter(
                one["folder"]
                for label in store.query("labels")
                for one in label["attempts"]
                if one["cause"] is not None
            )
        for name, starts in found.items():
            uuid, _, index = Path(name).name.rpartition("-")
            starts.sort(key=lambda one: one["time"])
            result = Path(name) / "result.json"
            if read_result(Path(name), uuid, int(index)) is not None:
                assert starts[-1]["time"] <= result.stat().st_mtime, (
                    f"{name}: computed again after its result"
                )
            followers = [*(one["time"] for one in starts[1:]), float("inf")]
            cut = sum(
                any(one["time"] <= life.died and life.born <= later for life in self.deaths)
                for one, later in zip(starts, followers, strict=True)
            )
            came_to_something = failed[name] + result.exists()
            assert len(starts) <= came_to_something + cut, f"{name}: {len(starts)} starts, {cut} cut off"


def essence(run: RunFolder) -> dict[str, Any]:
    """Return what may not depend on when drivers died: all that was made, chosen, computed and learned."""
    with run.store() as store:
        stored = list(store.query("labels"))
        # The engine's options name a log of this run's own, and labels' ids are made of them.
        names = {one["_id"]: f"{one['candidate_id']}/{one['purpose']}/{one['step'] or ''}" for one in stored}
        labels = {
            names[one["_id"]]: [
                one["state"], one["round"], one["rank"], names.get(one["parent"]), one["models"],
                [_rounded((one["result"] or {}).get(key)) for key in ("energy", "e_above_hull")],
                [(job["name"], job["state"]) for job in one["jobs"]],
                [each["cause"] for each in one["attempts"] if not each.get("forgiven")],
            ]
            for one in stored
        }  # fmt: skip
        candidates = {
            one["_id"]: [
                one["state"], one["round"], one["order"], one["segment"], one["rejected_by"], one["judged_by"],
                one["model_version"], _rounded(one["score"]), names.get(one["label_id"]),
            ]
            for one in store.query("candidates")
        }  # fmt: skip
        models = {
            one["_id"]: [one["state"], one["parent"], [names[label] for label in one["labels"]]]
            for one in store.query("models")
        }
        rounds = {one["_id"]: [one["selected"], one["to_score"]] for one in store.query("rounds")}
        rounds |= {
            f"step {one['index']}": [
                one["round"], one["opened"],
                [[names[each["root"]], each["rung"], each["rank"]] for each in one["climbs"]],
            ]
            for one in store.query("ladder")
        }  # fmt: skip
    return {"labels": labels, "candidates": candidates, "models": models, "rounds": rounds}


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the documents that differ, and how."""
    return [
        f"{kind} {name}: {found[kind].get(name)} instead of {wanted[kind].get(name)}"
        for kind in wanted
        for name in sorted(found[kind].keys() | wanted[kind].keys())
        if found[kind].get(name) != wanted[kind].get(name)
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 7)


def drop(uri: str, file: Path) -> None:
    from pymongo import MongoClient

    with MongoClient(uri) as client:
        client.drop_database(yaml.safe_load(file.read_text())["store"]["database"])


@pytest.fixture(scope="module")
def lives() -> Iterator[Lives]:
    with Lives() as server:
        yield server


@pytest.fixture
def killed(lives: Lives, tmp_path: Path, pytestconfig: pytest.Config) -> Callable[..., Killer]:
    """Kills drivers of campaigns and holds what they leave against what must be true."""

    def run(kills: int, mongo_uri: str | None = None) -> Killer:
        seed = pytestconfig.getoption("--kill-seed")
        killer = Killer(tmp_path, seed, pytestconfig.getoption("--kills") or kills, mongo_uri, lives)
        try:
            killer.run()
        except BaseException as error:
            error.add_note(f"repeat with --kill-seed {seed}")
            raise
        assert killer.spent >= kills
        return killer

    return run


def test_a_few_random_kills_change_nothing(killed: Callable[..., Killer]) -> None:
    killed(15)


@pytest.mark.slow
def test_random_kills_change_nothing(killed: Callable[..., Killer]) -> None:
    killed(140)


@pytest.mark.slow
def test_random_kills_change_nothing_on_mongodb(killed: Callable[..., Killer], mongod: MongoServer) -> None:
    killed(60, mongod.uri)
