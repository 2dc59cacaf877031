"""Reconstruction and forward tables of the WyCryst paper: `paper`, ours, FTCP and the graph network on real ternaries.

python tests/benchmarks/wycryst_tables.py                # 3 seeds, less than 40 minutes on two cores
python tests/benchmarks/wycryst_tables.py --quick        # 1 seed, 1/20 of the epochs, printed only
python tests/benchmarks/wycryst_tables.py --tier gpu     # on a CUDA device, full sizes

Every training is a task of its own with one thread; as many as --workers run at a time, the longest first.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("SPGLIB_WARNING", "OFF")  # what FTCP decodes is often no crystal

from benchmarks import wycryst_data, wycryst_report, wycryst_training  # noqa: E402
from benchmarks.results_page import RESULTS, facts_of, say, write_page  # noqa: E402
from benchmarks.wycryst_training import MODELS, Plan, Result  # noqa: E402

QUICK = 1 / 20
"""Share of the epochs with --quick."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = options_of(arguments)
    data = wycryst_data.data_file()
    if not data.is_file():
        say(f"skipped: no reference data at {data}; set CAMPAIGN_TEST_DATA to the folder of mp_train.parquet")
        return 2
    if options.tier == "gpu":
        from models.ensemble import find_device
        from models.errors import DeviceError

        try:
            find_device("cuda")
        except DeviceError as error:
            say(f"skipped: {error}")
            return 2
    with tempfile.TemporaryDirectory(prefix="wycryst-tables-") as folder:
        share = QUICK if options.quick else 1.0
        plan = Plan(data, Path(folder) / "refined.npz", options.limit, share, options.tier)
        lines, document = run(plan, range(options.seeds), options.workers, arguments)
    write_page(options.output, lines, document)
    return 0


def run(
    plan: Plan, seeds: Sequence[int], workers: int, arguments: Sequence[str] | None
) -> tuple[list[str], dict[str, object]]:
    """Read the genes, train and judge everything; return the page and the document with every figure."""
    begin = time.perf_counter()
    items = wycryst_data.read_ternaries(plan.data, plan.limit)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, wycryst_training.prepare_process) as pool:
        refined = read_genes(plan, len(items), workers, pool)
        wycryst_data.write_refined(plan.refined, refined)
        say(f"{time.perf_counter() - begin:6.0f} s  genes of {len(items)} crystals")
        results = train_all(plan, seeds, pool, begin)
    table = wycryst_report.aggregate(results)
    stable = [label for item in items if (label := item.known("stable")) is not None]
    mean_errors = wycryst_report.errors_of_mean(results)
    facts = facts_of(Path(__file__).name, arguments, time.perf_counter() - begin) | {
        "processes": workers,
        "seeds": ", ".join(map(str, seeds)),
        "crystals without a gene": sum(crystal is None for crystal in refined),
    }
    said = wycryst_report.notes(plan, len(items), sum(stable) / max(len(stable), 1), mean_errors)
    document: dict[str, object] = {
        "facts": facts,
        "notes": said,
        "table": table,
        "trainings": [asdict(result) for result in results],
    }
    return wycryst_report.page(table, facts, said), document


def read_genes(plan: Plan, n: int, workers: int, pool: Executor) -> wycryst_data.Refined:
    """Return what is read of the crystals' symmetry, in their order."""
    edges = [n * place // workers for place in range(workers + 1)]
    pieces = [
        pool.submit(wycryst_data.refine, plan.data, plan.limit, start, stop)
        for start, stop in pairwise(edges)
    ]
    return [crystal for piece in pieces for crystal in piece.result()]


def train_all(plan: Plan, seeds: Sequence[int], pool: Executor, begin: float) -> list[Result]:
    """Return the results of all models and seeds, in the order of the models, then seeds."""
    tasks = {
        pool.submit(wycryst_training.train_one, plan, model, seed): (model, seed)
        for model in MODELS
        for seed in seeds
    }
    found = {}
    for done in as_completed(tasks):
        model, seed = tasks[done]
        result = found[model, seed] = done.result()
        say(f"{time.perf_counter() - begin:6.0f} s  {model}, seed {seed}: {result.cpu_seconds:.0f} CPU s")
    return [found[task] for task in tasks.values()]


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; 3 seeds, 2 workers and a file in docs/results unless told otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tier", choices=("cpu", "gpu"), default="cpu", help="gpu: full sizes on a CUDA device"
    )
    parser.add_argument("--seeds", type=_positive, help="seeds 0, 1, ...: 3, with --quick 1")
    parser.add_argument("--quick", action="store_true", help="1 seed, 1/20 of the epochs, printed only")
    parser.add_argument("--workers", type=_positive, help="trainings at a time: 2, on a GPU 1")
    parser.add_argument("--limit", type=_positive, help="draw so many crystals; all of them by default")
    parser.add_argument(
        "--output", type=Path, help="where .md and .json go; docs/results/wycryst_tables, or _gpu, by default"
    )
    found = parser.parse_args(arguments)
    found.seeds = found.seeds or (1 if found.quick else 3)
    found.workers = found.workers or (1 if found.tier == "gpu" else 2)
    if found.output is None and not found.quick:
        found.output = RESULTS / ("wycryst_tables" if found.tier == "cpu" else "wycryst_tables_gpu")
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
