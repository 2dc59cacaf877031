"""Benchmarks of the backbone; prints Markdown tables and, with --output FILE, writes FILE.md and FILE.json.

python tests/benchmarks/run.py                 # everything, about ten minutes on two cores
python tests/benchmarks/run.py screening flows overhead stores resume building
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import building_rate  # noqa: E402
import flow_overhead  # noqa: E402
import overhead  # noqa: E402
import relaxation_rate  # noqa: E402
import resume_time  # noqa: E402
import screening_rate  # noqa: E402
import store_writes  # noqa: E402
from results_page import facts_of, store_page, table_lines  # noqa: E402

Rows = list[dict[str, object]]


def _stores() -> Rows:
    found = store_writes.store_writes(2_000)
    measures = next(iter(found.values()))
    return [
        {"measure": name, **{store: values[name] for store, values in found.items()}} for name in measures
    ]


BENCHMARKS: dict[str, tuple[str, Callable[[], Rows]]] = {
    "screening": ("Candidates screened per second, by stage (one process)", screening_rate.measure),
    "relaxation": ("Surrogate relaxation, batched against one by one", relaxation_rate.measure),
    "flows": ("Running flows of trivial jobs, beside jobflow's own runner", flow_overhead.measure),
    "overhead": ("Driver overhead per task against the bare executor", overhead.measure),
    "stores": ("Store writes and reads per second", _stores),
    "building": ("Crystals from 1,000 Wyckoff genes per second, beside PyXtal", building_rate.measure),
    "resume": ("Resume and status with many candidates stored", resume_time.measure),
}


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all by default")
    parser.add_argument("--output", type=Path, help="also write the page and its figures, .md and .json")
    options = parser.parse_args()
    begin = time.perf_counter()
    found: dict[str, Rows] = {}
    lines: list[str] = []
    for name in options.names or BENCHMARKS:
        title, measure = BENCHMARKS[name]
        found[name] = measure()
        table = [f"## {title}", "", *table_lines(found[name]), ""]
        print("\n".join(table), flush=True)  # noqa: T201 - printing is what this script is for
        lines += table
    facts = facts_of(Path(__file__).name, None, time.perf_counter() - begin)
    head = [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    print("\n".join(head))  # noqa: T201
    if options.output:
        store_page(options.output, ["# Benchmarks", "", *head, *lines], {"facts": facts, **found})


if __name__ == "__main__":
    main()
