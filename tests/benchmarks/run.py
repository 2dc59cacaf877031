"""Benchmarks of the backbone; prints Markdown tables and, with --json FILE, writes the figures.

python tests/benchmarks/run.py                 # everything, about ten minutes on two cores
python tests/benchmarks/run.py screening overhead stores resume building
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import building_rate  # noqa: E402
import overhead  # noqa: E402
import relaxation_rate  # noqa: E402
import resume_time  # noqa: E402
import screening_rate  # noqa: E402
import store_writes  # noqa: E402

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
    "overhead": ("Driver overhead per task against the bare executor", overhead.measure),
    "stores": ("Store writes and reads per second", _stores),
    "building": ("Crystals from 1,000 Wyckoff genes per second, beside PyXtal", building_rate.measure),
    "resume": ("Resume and status with many candidates stored", resume_time.measure),
}


def machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def markdown(title: str, rows: Rows) -> str:
    """Return a table of rows with equal keys."""
    heads = list(rows[0])
    lines = [f"### {title}", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which; all by default")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    found: dict[str, object] = {"machine": machine()}
    print(json.dumps(found["machine"]))  # noqa: T201 - printing is what this script is for
    for name in options.names or BENCHMARKS:
        title, measure = BENCHMARKS[name]
        rows = measure()
        found[name] = rows
        print(markdown(title, rows), flush=True)  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
