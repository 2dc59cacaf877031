"""Measures the stores: writes, reads and counts per second, on the embedded file and on a MongoDB server.

As a script it prints a table: `python tests/benchmarks/store_writes.py [--uri mongodb://...] [--folder /local/disk]`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from campaign.store import CampaignStore, StoreConfig

DOCUMENT_BYTES = 5000


def candidate(i: int, draw: random.Random) -> dict[str, Any]:
    """Return a document like a candidate's, about DOCUMENT_BYTES long as JSON."""
    sites = [
        {"species": [{"element": "Ca", "occu": 1}], "abc": [draw.random() for _ in range(3)], "label": "Ca"}
        for _ in range(40)
    ]
    return {
        "_id": f"candidate-{i:08d}",
        "campaign": "benchmark",
        "state": ("sampled", "screened", "rejected", "labelled")[i % 4],
        "round": i // 1000,
        "formula": f"CaTi{i % 50}O3",
        "chemsys": "Ca-O-Ti",
        "spacegroup": 1 + i % 230,
        "generator": "substitution",
        "bucket": f"b{i % 997}",
        "score": draw.random(),
        "predictions": {"e_above_hull": {"mean": draw.random(), "std": 0.02}},
        "structure": {"sites": sites},
    }


def per_second(n: int, action: Callable[[], object]) -> float:
    """Run an action that does n things and return how many it did per second of wall time."""
    started = time.perf_counter()
    action()
    return n / (time.perf_counter() - started)


def measure(store: CampaignStore, n: int) -> dict[str, float]:
    """Return rates of one empty store.

    Args:
        store: Open for writing.
        n: Documents of the bulk insert; single writes are measured on at most 2,000 of them.

    Returns:
        Operations or documents per second, and milliseconds where the name says so.
    """
    draw = random.Random(0)
    rows = [candidate(i, draw) for i in range(n)]
    few = rows[: min(n, 2000)]
    # Changed, because MongoDB does not even write what is the same as before.
    changed = [row | {"round": -1} for row in few]
    rates = {
        "bulk inserts per s": per_second(n, lambda: store.insert_new("candidates", rows)),
        "single writes per s": per_second(
            len(few), lambda: [store.put("candidates", row) for row in changed]
        ),
        "field updates per s": per_second(
            len(few),
            lambda: [
                store.set_fields("candidates", r["_id"], {"score": 0.5}, {"score": r["score"]}) for r in few
            ],
        ),
        "bulk field updates per s": per_second(
            n, lambda: store.set_fields_many("candidates", [(r["_id"], {"state": "screened"}) for r in rows])
        ),
        "events per s": per_second(500, lambda: [store.log_event("benchmark", "line") for _ in range(500)]),
        "documents read per s": per_second(n, lambda: list(store.query("candidates"))),
        "projected documents read per s": per_second(
            n, lambda: list(store.query("candidates", fields=["state", "round", "score"]))
        ),
    }
    for name, action in (
        ("count by state, ms", lambda: store.count_by("candidates", "state")),
        ("ten best by score, ms", lambda: list(store.query("candidates", sort=[("score", -1)], limit=10))),
        ("one by id, ms", lambda: store.get("candidates", rows[n // 2]["_id"])),
    ):
        rates[name] = 1000 / per_second(1, action)
    return rates


@contextmanager
def embedded(folder: Path) -> Iterator[CampaignStore]:
    """Open an empty embedded store in a folder on the disk to be measured."""
    with CampaignStore.open(StoreConfig(), folder) as store:
        yield store


@contextmanager
def mongodb(uri: str) -> Iterator[CampaignStore]:
    """Open an empty database on a server and drop it afterwards."""
    config = StoreConfig(kind="mongodb", uri=uri, database="campaign_benchmark")
    with CampaignStore.open(config, Path("/")) as store:
        yield store
        store._documents._database.client.drop_database("campaign_benchmark")  # type: ignore[attr-defined]


def store_writes(
    n: int = 10_000, uri: str | None = None, folder: Path | None = None
) -> dict[str, dict[str, float]]:
    """Return {store: {measure: value}}; a server is started from the test wheel if no URI is given and it is there."""
    results: dict[str, dict[str, float]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="store-", dir=folder) as scratch,
        embedded(Path(scratch)) as store,
    ):
        results["embedded"] = measure(store, n)
    if uri is not None:
        with mongodb(uri) as store:
            results["mongodb"] = measure(store, n)
        return results
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import mongo_server

    binary = mongo_server.find_mongod()
    if binary is not None:
        with mongo_server.running(binary) as server, mongodb(server.uri) as store:
            results["mongodb"] = measure(store, n)
    return results


def as_table(results: dict[str, dict[str, float]]) -> str:
    """Return the results as a Markdown table."""
    stores = list(results)
    lines = ["| | " + " | ".join(stores) + " |", "|---|" + "---:|" * len(stores)]
    for name in next(iter(results.values())):
        cells = [
            f"{results[store][name]:,.2f}" if "ms" in name else f"{results[store][name]:,.0f}"
            for store in stores
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--uri")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    sys.stdout.write(as_table(store_writes(arguments.documents, arguments.uri, arguments.folder)) + "\n")


if __name__ == "__main__":
    main()
