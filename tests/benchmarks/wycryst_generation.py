"""What comes out of WyCryst beside its baselines: symmetry, charges, novelty and stability per 1,000 genes.

python tests/benchmarks/wycryst_generation.py                        # less than 25 minutes on two cores
python tests/benchmarks/wycryst_generation.py --models ours --genes 200 --relax 50

Every generator learns the ternaries of the shared data and is asked for 1,000 ternaries of common elements, one
crystal of each gene. A random part of what it makes is relaxed with CHGNet, without and with its symmetry kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from benchmarks.generation_models import (  # noqa: E402
    ELEMENTS,
    FTCP_EPOCHS,
    GENERATORS,
    MAX_ATOMS,
    Made,
    make,
)
from benchmarks.generation_shares import (  # noqa: E402
    Judged,
    after_relaxation,
    as_built,
    placed,
    screening_context,
    shares,
)
from benchmarks.results_page import RESULTS, facts_of, say, table_lines, write_page  # noqa: E402
from benchmarks.wycryst_data import data_file  # noqa: E402
from benchmarks.wycryst_relaxing import processes, relax_all  # noqa: E402

MAX_STEPS = 300
"""Of a relaxation."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    import torch

    given = options_of(arguments)
    data = data_file()
    if not data.is_file():
        say(f"skipped: no reference data at {data}; set CAMPAIGN_TEST_DATA to the folder of mp_train.parquet")
        return 2
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with processes(given.workers) as pool:
        jobs = [
            pool.submit(make, model, data, given.limit, given.genes, given.seed) for model in given.models
        ]
        made = []
        for job in jobs:
            made.append(job.result())
            say(
                f"{time.perf_counter() - begin:6.0f} s  {made[-1].model}: {len(made[-1].structures)} crystals"
            )
        context = screening_context(data.parent)
        judged = {}
        for one in made:
            judged[one.model] = judge(one, given.relax, given.seed, pool, context)
            say(f"{time.perf_counter() - begin:6.0f} s  {one.model}: relaxed and judged")
    facts = facts_of(Path(__file__).name, arguments, time.perf_counter() - begin) | {
        "seed": given.seed,
        "asked of each": f"{given.genes} crystals of at most {MAX_ATOMS} atoms of {', '.join(ELEMENTS)}",
        "drawn of each to be relaxed": ", ".join(
            f"{len(next(iter(one.relaxed.values()), []))} ({model})" for model, one in judged.items()
        ),
    }
    found = {model: shares(one) for model, one in judged.items()}
    lines = page(facts, made, found, given.relax)
    document = {
        "facts": facts,
        "shares": found,
        "genes": {one.model: one.genes for one in made},
        "training CPU s": {one.model: one.training_s for one in made},
        "sampling CPU s": {one.model: one.sampling_s for one in made},
    }
    write_page(given.output, lines, document)
    return 0


def judge(made: Made, n_relax: int, seed: int, pool: Executor, context: object) -> Judged:
    """Judge crystals as built; relax a random part and judge it again."""
    from campaign.screens.contract import ScreenContext

    assert isinstance(context, ScreenContext)
    structures = made.structures
    built = as_built(structures, context)
    order = np.sort(np.random.default_rng([seed, 7]).permutation(len(structures))[:n_relax])
    # A campaign's first screen ends the others, whose relaxation would take most of the time.
    sane = built["atoms far enough apart"][order]
    part = [structures[place] for place in order[sane].tolist()]
    relaxed = {}
    for way, fixed in (("relaxed freely", False), ("relaxed with symmetry kept", True)):
        if fixed and made.model == "ftcp":  # without symmetry there is none to keep
            continue
        outcomes = relax_all(part, pool, fix_symmetry=fixed, max_steps=MAX_STEPS, symprec=0.01)
        flags = after_relaxation(part, outcomes, context)
        relaxed |= {f"{way}: {test}": placed(values, sane) for test, values in flags.items()}
    return Judged(made.asked, built, relaxed)


def page(
    facts: dict[str, object], made: Sequence[Made], found: dict[str, dict[str, float]], n_relax: int
) -> list[str]:
    """Return the lines of the page."""
    tests = list(dict.fromkeys(test for one in found.values() for test in one))
    rows = [
        {"share of all asked for": test}
        | {model: f"{one[test]:.1%}" if test in one else "–" for model, one in found.items()}
        for test in tests
    ]
    speed = [
        {
            "generator": one.model,
            "training [CPU s]": round(one.training_s),
            "crystals per CPU second of sampling": round(len(one.structures) / max(one.sampling_s, 1e-9), 1),
        }
        for one in made
    ]
    draws = [one for one in made if one.genes]
    reasons = list(dict.fromkeys(name for one in draws for name in one.genes))
    lost = [{"draws": name} | {one.model: one.genes.get(name, "–") for one in draws} for name in reasons]
    return [
        "# Generated crystals: WyCryst beside its baselines",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        *table_lines(rows),
        "",
        "## Speed",
        "",
        *table_lines(speed),
        "",
        *(["## Draws of as many genes", "", *table_lines(lost), ""] if draws else []),
        "## Notes",
        "",
        *(f"- {line}" for line in notes(n_relax)),
    ]


def notes(n_relax: int) -> list[str]:
    """Return what has to be known to read the tables."""
    return [
        "Shares are of everything asked for: what a generator does not make fails every test. Shares after relaxation "
        f"are measured on a random part of at most {n_relax} crystals and stand for all that was made; crystals whose "
        "atoms are too close are not relaxed and fail, as does a relaxation that does not converge. With 200 crystals "
        "the standard error of a share of 50 % is 3.5 %.",
        f"Relaxed with CHGNet 0.3.0 to 0.03 eV/Å in at most {MAX_STEPS} steps, cell included. The space group before "
        "is that of the gene; for generators without genes that of the crystal as made, at the same tolerance.",
        "Charge neutral: the campaign's screen (SMACT, ICSD oxidation states, Pauling's test; alloys of metals pass). "
        "Unique and novel: StructureMatcher with default tolerances, against what the generator made before and "
        "against all of mp_train.parquet; after a relaxation, of the relaxed crystals.",
        "Stable: CHGNet's energy against the hull of hull_reference.parquet; a negative energy above the hull by a "
        "surrogate is a guess that DFT has to confirm.",
        "Seconds are CPU seconds of one thread. `ours` and `paper` draw four genes for each that is built and take "
        "the likeliest to be stable by the property branch, as by default; one trial of each gene.",
        f"FTCP: half size, batches of 64, learning rate 2e-3, {FTCP_EPOCHS} epochs.",
    ]


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; everything and a file in docs/results unless told otherwise."""
    names = list(GENERATORS)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="all by default")
    parser.add_argument("--genes", type=int, default=1000, help="crystals asked of each generator")
    parser.add_argument("--relax", type=int, default=200, help="of these, so many are relaxed")
    parser.add_argument("--seed", type=int, default=0, help="of trainings and samples")
    parser.add_argument("--limit", type=int, help="train on so many crystals; all of them by default")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--output", type=Path, default=RESULTS / "wycryst_generation", help=".md and .json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
