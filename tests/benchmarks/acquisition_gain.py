"""What policies and batches are worth: stable crystals found per label, replayed on crystals with known labels.

python tests/benchmarks/acquisition_gain.py --output docs/results/acquisition

The candidates are crystals of the WBM set (Wang, Botti and Marques, npj Comput. Mater. 7, 12 (2021), in the file
`wbm_train.parquet`), whose labels are revealed when they are chosen. A Gaussian process on statistics of the elements
believes; what ranks and chooses is the campaign's own code. Rounds look ahead as in a campaign: a choice knows the
labels of the rounds before its term and, of those in between, only that they were chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from results_page import facts_of, say, table_lines, write_page  # noqa: E402

from campaign.acquisition.batches import choose  # noqa: E402
from campaign.acquisition.config import AcquisitionConfig  # noqa: E402
from campaign.acquisition.policies import ChoiceContext  # noqa: E402
from campaign.acquisition.ranking import rank, read  # noqa: E402

Array = npt.NDArray[np.float64]

POLICIES = (
    "random",
    "greedy",
    "ucb",
    "thompson",
    "expected_improvement",
    "probability_of_stability",
    "oracle",
)
DIVERSITIES = ("none", "local_penalisation", "determinantal")
BELIEVABLE = (-0.5, 1.5)
"""Energies above the hull outside of this are errors of the data [eV/atom]."""


@dataclass(frozen=True)
class Size:
    """How large a replay is."""

    candidates: int = 2000
    known: int = 200
    """Labels at the start."""
    per_round: int = 16
    rounds: int = 10


@dataclass(frozen=True)
class Crystals:
    """Candidates with their truth."""

    documents: list[dict[str, Any]]
    truth: Array
    """(n,) e_above_hull [eV/atom]"""
    descriptors: Array
    """(n, n_descriptors) standardised statistics of the elements, and the crystal system."""


def crystals(file: Path, size: Size, seed: int) -> Crystals:
    """Draw crystals: the first `size.known` are those known at the start."""
    from pyarrow import parquet
    from pymatgen.core import Composition, Element

    names = ["material_id", "formula", "n_atoms", "spacegroup", "e_above_hull_ref"]
    rows = parquet.read_table(file, columns=names).to_pylist()
    rows = [row for row in rows if BELIEVABLE[0] < row["e_above_hull_ref"] < BELIEVABLE[1]]
    drawn = np.random.default_rng(seed).permutation(len(rows))[: size.known + size.candidates]
    documents, points = [], []
    for place in drawn:
        row = rows[place]
        composition = Composition(row["formula"])
        documents.append(
            {
                "_id": row["material_id"],
                "formula": composition.reduced_formula,
                "chemsys": composition.chemical_system,
                "n_atoms": row["n_atoms"],
                "spacegroup": row["spacegroup"],
            }
        )
        values = np.array(
            [
                [one.X if one.X == one.X else 1.5, one.row, one.group, one.mendeleev_no]
                for one in map(Element, composition.get_el_amt_dict())
            ],
            dtype=float,
        )
        weights = np.array(list(composition.get_el_amt_dict().values()))
        mean = np.average(values, axis=0, weights=weights)
        spread = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
        system = np.searchsorted((3, 16, 75, 143, 168, 195), row["spacegroup"], side="right")
        points.append([*mean, *spread, *values.max(axis=0), *values.min(axis=0), *np.eye(7)[system]])
    descriptors = np.array(points)
    spread = descriptors.std(axis=0)
    descriptors = (descriptors - descriptors.mean(axis=0)) / np.where(spread > 0, spread, 1)
    truth = np.array([rows[place]["e_above_hull_ref"] for place in drawn])
    return Crystals(documents, truth, descriptors)


class Believer:
    """A Gaussian process with a squared exponential kernel and noise; its lengths come from the first labels."""

    def __init__(self, points: Array, truth: Array) -> None:
        self.points = points
        grid = product((1.0, 2.0, 3.0, 4.0, 6.0), (0.1, 0.3, 0.5, 0.8))
        self.length, self.noise = max(grid, key=lambda one: self._evidence(points, truth, *one))

    def _kernel(self, one: Array, other: Array, length: float) -> Array:
        square = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
        return np.exp(-np.maximum(square, 0) / (2 * length**2))

    def _evidence(self, points: Array, truth: Array, length: float, noise: float) -> float:
        y = (truth - truth.mean()) / truth.std()
        matrix = self._kernel(points, points, length) + noise * np.eye(len(points))
        scale = float(y @ np.linalg.solve(matrix, y)) / len(y)
        return float(-len(y) * np.log(scale) - np.linalg.slogdet(matrix)[1])

    def predict(self, known: Array, truth: Array, points: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation (n,) of the label at points (n, n_descriptors)."""
        y = truth - truth.mean()
        matrix = self._kernel(known, known, self.length) + self.noise * np.eye(len(known))
        across = self._kernel(points, known, self.length)
        scale = float(y @ np.linalg.solve(matrix, y)) / len(y)
        mean = truth.mean() + across @ np.linalg.solve(matrix, y)
        left = 1 + self.noise - (across * np.linalg.solve(matrix, across.T).T).sum(1)
        return mean, np.sqrt(scale * np.maximum(left, 1e-6))


def replay(found: Crystals, size: Size, config: AcquisitionConfig, seed: int) -> tuple[int, int]:
    """Return how many stable crystals the labels found, and in how many chemical systems they lie."""
    elements = sorted({symbol for one in found.documents for symbol in one["chemsys"].split("-")})
    rows = {one["_id"]: row for row, one in enumerate(found.documents)}
    known = np.arange(size.known)
    believer = Believer(found.descriptors[known], found.truth[known])
    rounds: list[list[int]] = []
    for index in range(size.rounds):
        term = max(0, index - config.lookahead_rounds)
        labelled = np.concatenate([known, *(np.array(one, dtype=int) for one in rounds[:term])])
        pending = [row for one in rounds[term:] for row in one]
        chosen = {row for one in rounds for row in one}
        free = [row for row in range(size.known, len(found.truth)) if row not in chosen]
        mean, std = believer.predict(found.descriptors[labelled], found.truth[labelled], found.descriptors)

        def documents(some: Sequence[int], mean: Array = mean, std: Array = std) -> Iterator[dict[str, Any]]:
            for row in some:
                head = {"mean": float(mean[row]), "std": float(std[row])}
                predictions = {"head_e_above_hull": head, "oracle": float(found.truth[row])}
                yield {**found.documents[row], "predictions": predictions}

        candidates, waiting = (
            read(list(documents(some)), config, elements=elements, surrogate_std=1.0)
            for some in (free, pending)
        )
        ranking = rank(candidates, config, ChoiceContext(seed * 1000 + index))
        rounds.append([rows[name] for name in choose(ranking, size.per_round, config, waiting)])
    stable = [row for one in rounds for row in one if found.truth[row] <= 0]
    return len(stable), len({found.documents[row]["chemsys"] for row in stable})


def measure(
    file: Path, size: Size, seeds: int, policies: Sequence[str], lookaheads: Sequence[int]
) -> list[dict[str, object]]:
    """Return one row per policy, batch and lookahead: means over seeds, with the standard error."""
    pools = [crystals(file, size, seed) for seed in range(seeds)]
    rows: list[dict[str, object]] = []
    for ahead, policy, diversity in product(lookaheads, policies, DIVERSITIES):
        config = AcquisitionConfig(policy=policy, diversity=diversity, lookahead_rounds=ahead)
        results = np.array([replay(one, size, config, seed) for seed, one in enumerate(pools)], dtype=float)
        error = results[:, 0].std(ddof=1) / np.sqrt(seeds)
        rows.append(
            {
                "policy": policy,
                "diversity": diversity,
                "rounds ahead": ahead,
                "stable": float(results[:, 0].mean()),
                "± error": float(error),
                "in chemical systems": float(results[:, 1].mean()),
            }
        )
        say(f"{policy}, {diversity}, {ahead} ahead: {results[:, 0].mean():.1f} ± {error:.1f}")
    return rows


def page(rows: Sequence[dict[str, object]], facts: dict[str, object], size: Size, seeds: int) -> list[str]:
    """Return the page in Markdown."""
    rounded = [
        {key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    return [
        "# What acquisition policies and batches are worth",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        f"Stable crystals (at most 0 eV/atom above the hull) that {size.rounds} rounds of {size.per_round} labels find "
        f"among {size.candidates} of the WBM set, with {size.known} labels known at the start; the mean of "
        f"{seeds} draws with its standard error, and the number of chemical systems that they lie in. "
        "Nearly every candidate lies in a chemical system of its own, so a batch hardly repeats itself here: the page "
        "shows what keeping apart costs where it is not needed, not what it gains among crystals that are alike.",
        "",
        *table_lines(rounded),
    ]


def main() -> None:
    """Replay campaigns and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of the crystals (default 5)")
    parser.add_argument("--candidates", type=int, default=2000, help="crystals to choose from (default 2000)")
    parser.add_argument("--ahead", type=int, nargs="+", default=[1], help="lookahead_rounds (default 1)")
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=POLICIES, help="which; all by default"
    )
    parser.add_argument("--output", type=Path, help="also write the page and its figures, .md and .json")
    options = parser.parse_args()
    folder = Path(os.environ.get("CAMPAIGN_TEST_DATA", HERE.parents[2] / "shared" / "data"))
    file = folder / "wbm_train.parquet"
    if not file.exists():
        say(f"skipped: no {file}; set CAMPAIGN_TEST_DATA to the folder of wbm_train.parquet")
        return
    size, begin = Size(candidates=options.candidates), time.perf_counter()
    rows = measure(file, size, options.seeds, options.policies, options.ahead)
    facts = facts_of(Path(__file__).name, None, time.perf_counter() - begin)
    lines = page(rows, facts, size, options.seeds)
    write_page(options.output, lines, {"facts": facts, "rows": rows})


if __name__ == "__main__":
    main()
