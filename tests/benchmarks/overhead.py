"""What the driver adds to a task: the same screening tasks by the driver, and by the bare executor.

Every task screens one candidate with a trivial screen, and the driver stores every outcome durably.
"""

from __future__ import annotations

import concurrent.futures
import tempfile
import time
from pathlib import Path
from typing import Any

N_TASKS = 300


def measure() -> list[dict[str, object]]:
    """Return one row per kind of pools."""
    return [_measure(kind) for kind in ("threads", "parsl")]


def _measure(kind: Any) -> dict[str, object]:
    from campaign.parallel.pools import open_pools
    from campaign.site import Site

    with tempfile.TemporaryDirectory() as name:
        pools = open_pools(Site(), Path(name) / "pools", kind)
        try:
            driver = _driver(Path(name), pools)
            orders = [driver.book.order(action, driver.state) for action in _screens(driver)]
            bare = _bare(pools, orders)
            before = time.process_time()
            begin = time.perf_counter()
            driver.run()
            wall = time.perf_counter() - begin
            cpu = time.process_time() - before
        finally:
            pools.close(cancel=True)
        tasks = len(orders)
        return {
            "pools": kind,
            "tasks": tasks,
            "bare executor [tasks/s]": tasks / bare,
            "driver, stored [tasks/s]": tasks / wall,
            "ratio of times": wall / bare,
            "driver CPU per task [ms]": 1000 * cpu / tasks,
        }


def _bare(pools: Any, orders: list[Any]) -> float:
    for pool in ("cpu", "gpu"):
        pools.submit(pool, *orders[0]).result()  # imports are not what is measured
    begin = time.perf_counter()
    concurrent.futures.wait([pools.submit("cpu", function, document) for function, document in orders])
    return time.perf_counter() - begin


def _screens(driver: Any) -> list[Any]:
    from campaign.plan import plan

    return plan(driver.state, driver.book.spec, {"cpu": 10**6}, set())


def _config() -> Any:
    from campaign.config import parse_config

    return parse_config(
        {
            "name": "overhead",
            "chemistry": {"elements": ["Ca", "Mg", "Si"]},
            "screen": [{"kind": "composition"}],
            "acquisition": {
                "candidates_per_round": N_TASKS,
                "labels_per_round": 1,
                "max_e_above_hull_ev_per_atom": -9,
            },
            "learn": {"heads": [], "discriminators": [], "generators": False},
            "labels": {"engine": "mlip", "engine_options": {"calculator": "lj"}},
            "batching": {"sample": N_TASKS, "screen": 1},
            "stop": {"rounds": 1},
        },
        "benchmark",
    )


def _fill(store: Any, generator: str) -> None:
    """Store candidates that are sampled and wait for their one screen."""
    from resume_time import structure_document

    from campaign.documents import CandidateDocument, RoundDocument, now, round_id

    store.insert_new(
        "candidates",
        [
            CandidateDocument(
                id=f"c{place:05d}", campaign="overhead", round=0, order=place, formula="CaMgSi", bucket="CaMgSi",
                chemsys="Ca-Mg-Si", n_atoms=3, spacegroup=1, generator=generator, model_version="v", seed=0,
                structure=structure_document(), created=now(),
            ).doc()
            for place in range(N_TASKS)
        ],
    )  # fmt: skip
    batch = {"asked": N_TASKS, "returned": N_TASKS, "new": N_TASKS, "seconds": 0.0}
    opened = RoundDocument(
        id=round_id("overhead", 0), campaign="overhead", index=0, batches={"0-0": batch}, created=now()
    )
    store.insert_new("rounds", [opened.doc()])
    store.put("models", {"_id": "v", "key": generator, "term": 0, "state": "promoted", "checkpoint": "none"})


def _driver(folder: Path, pools: Any) -> Any:
    """Return a driver of a campaign that has nothing but screening to do."""
    from campaign.blocks import BlockBook
    from campaign.components import label_settings, spec_of
    from campaign.decisions import Decider
    from campaign.documents import CampaignDocument, now
    from campaign.driver import Driver
    from campaign.orders import OrderBook, model_roles
    from campaign.recording import Recorder
    from campaign.recovery import project
    from campaign.references.catalogue import load_prepared, prepare_reference, read_reference
    from campaign.run_folder import RunFolder
    from campaign.task_times import TaskTimes

    config, run = _config(), RunFolder(folder / "overhead")
    run.create()
    run.write_config(config)
    prepared = prepare_reference(
        read_reference(["builtin:quickstart"], base_dir=folder), run.path / "reference"
    )
    store = run.store(read_only=False)
    spec, roles = spec_of(config), model_roles(config)
    settings, settings_hash = label_settings(config)
    _fill(store, spec.generators[0])
    document = CampaignDocument(
        id="overhead", name="overhead", config={}, config_hash="", seed=0, run_dir=str(run.path), created=now(),
        reference={"path": str(prepared), "labels_written": True},
    ).doc()  # fmt: skip
    store.put("campaigns", document)
    blocks = BlockBook(store, config.name, 1)
    blocks.begin()
    return Driver(
        store=store,
        pools=pools,
        book=OrderBook(store, config, spec, roles, run, str(prepared)),
        recorder=Recorder(store, config.name, spec),
        decider=Decider(store, config, spec, load_prepared(prepared), settings, settings_hash),
        folder=run,
        lease=_NoLease(),
        blocks=blocks,
        state=project(store, document),
        times=TaskTimes.of(store, config, document),
        on_change=lambda state, busy: None,
    )


class _NoLease:
    def check(self) -> None:
        """Nobody else drives this campaign."""
