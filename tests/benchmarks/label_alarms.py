"""How often honest labels raise an alarm, and how often poisoned ones do: replayed on crystals with known labels.

python tests/benchmarks/label_alarms.py --output docs/results/label_alarms

Candidates, beliefs and choices are those of `acquisition_gain.py`: crystals of the WBM set, a Gaussian process on
statistics of the elements that sees the revealed labels, the campaign's own ranking and choice. The labels of every
round are inspected with the campaign's own code (`campaign.alarms`). For each round beside the first, it is also asked
what the inspection would have said had this round been poisoned: shifted by a constant, or its formation energies given
to the wrong crystals.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from acquisition_gain import Believer, Crystals, Size, crystals  # noqa: E402
from results_page import facts_of, say, table_lines, write_page  # noqa: E402

from campaign.acquisition.batches import choose  # noqa: E402
from campaign.acquisition.config import AcquisitionConfig  # noqa: E402
from campaign.acquisition.policies import ChoiceContext  # noqa: E402
from campaign.acquisition.ranking import rank, read  # noqa: E402
from campaign.alarms import Inspection, inspect  # noqa: E402
from campaign.quarantine import quarantined  # noqa: E402

Array = npt.NDArray[np.float64]

POISONS = ("honest", "+0.5 eV/atom", "-0.5 eV/atom", "+0.3 eV/atom", "swapped")


def formation_energies(file: Path) -> dict[str, float]:
    """Return the formation energy [eV/atom] of each crystal by its id."""
    from pyarrow import parquet

    rows = parquet.read_table(file, columns=["material_id", "formation_energy_per_atom"]).to_pylist()
    return {row["material_id"]: row["formation_energy_per_atom"] for row in rows}


def poisoned(truth: Array, formation: Array, how: str, rng: np.random.Generator) -> Array:
    """Return e_above_hull (n,) [eV/atom] as poisoned labels would give it."""
    if how == "swapped":
        return truth + np.roll(formation, int(rng.integers(1, len(truth)))) - formation
    return truth + (0.0 if how == "honest" else float(how.split(maxsplit=1)[0]))


def replay(
    found: Crystals, formation: Array, size: Size, config: AcquisitionConfig, seed: int
) -> Iterator[dict[str, bool]]:
    """Yield for each round, beside the first, which poisons would have raised an alarm."""
    elements = sorted({symbol for one in found.documents for symbol in one["chemsys"].split("-")})
    rows = {one["_id"]: row for row, one in enumerate(found.documents)}
    known, rng = np.arange(size.known), np.random.default_rng(seed)
    believer = Believer(found.descriptors[known], found.truth[known])
    rounds: list[list[int]] = []
    history: dict[int, Inspection] = {}
    alarms: dict[int, str] = {}
    for index in range(size.rounds):
        labelled = np.concatenate([known, *(np.array(one, dtype=int) for one in rounds)])
        chosen = {row for one in rounds for row in one}
        free = [row for row in range(size.known, len(found.truth)) if row not in chosen]
        mean, std = believer.predict(found.descriptors[labelled], found.truth[labelled], found.descriptors)
        documents = [
            {
                **found.documents[row],
                "predictions": {"head_e_above_hull": {"mean": float(mean[row]), "std": float(std[row])}},
            }
            for row in free
        ]
        candidates = read(documents, config, elements=elements, surrogate_std=1.0)
        ranking = rank(candidates, config, ChoiceContext(seed * 1000 + index))
        batch = [rows[name] for name in choose(ranking, size.per_round, config)]
        rounds.append(batch)
        held = quarantined(alarms, index)
        earlier = [one for place, one in history.items() if place not in held]
        said = {
            how: inspect(
                mean[batch],
                std[batch],
                poisoned(found.truth[batch], formation[batch], how, rng),
                earlier,
            )
            for how in POISONS
        }
        history[index] = said["honest"]
        alarms[index] = said["honest"].alarm if said["honest"].suspect else ""
        if index:
            yield {how: one.suspect for how, one in said.items()}


def measure(
    file: Path, seeds: int, policies: Sequence[str], per_round: Sequence[int]
) -> list[dict[str, object]]:
    """Return one row per policy and size of a round: percent of rounds with an alarm."""
    energies, table = formation_energies(file), []
    for n in per_round:
        size = Size(candidates=600, per_round=n, rounds=8)
        pools = [crystals(file, size, seed) for seed in range(seeds)]
        for policy in policies:
            config = AcquisitionConfig(policy=policy, lookahead_rounds=0)
            found = [
                one
                for seed, pool in enumerate(pools)
                for one in replay(
                    pool, np.array([energies[each["_id"]] for each in pool.documents]), size, config, seed
                )
            ]
            row: dict[str, object] = {"policy": policy, "labels in a round": n, "rounds": len(found)}
            row |= {how: 100 * float(np.mean([one[how] for one in found])) for how in POISONS}
            table.append(row)
            say(str(row))
    return table


def page(rows: Sequence[dict[str, Any]], facts: dict[str, object]) -> list[str]:
    """Return the page in Markdown."""
    rounded = [
        {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    rounds = sum(row["rounds"] for row in rows)
    false = sum(row["rounds"] * row["honest"] for row in rows) / rounds
    return [
        "# Alarms of honest and of poisoned labels",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        "Percent of rounds whose labels raise an alarm (`campaign/alarms.py`), replayed on 600 crystals of the WBM set "
        "with 200 labels known at the start. What is poisoned is one round; those before it were honest. A swapped "
        f"round has each formation energy at another of its crystals. Of all {rounds} honest rounds {false:.2f} % "
        "raised an alarm.",
        "",
        *table_lines(rounded),
    ]


def main() -> None:
    """Replay campaigns and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="draws of the crystals (default 20)")
    parser.add_argument("--policies", nargs="+", default=["ucb", "greedy", "random"], help="which")
    parser.add_argument("--per-round", type=int, nargs="+", default=[4, 8, 16], help="labels in a round")
    parser.add_argument("--output", type=Path, help="also write the page and its figures, .md and .json")
    options = parser.parse_args()
    folder = Path(os.environ.get("CAMPAIGN_TEST_DATA", HERE.parents[2] / "shared" / "data"))
    file = folder / "wbm_train.parquet"
    if not file.exists():
        say(f"skipped: no {file}; set CAMPAIGN_TEST_DATA to the folder of wbm_train.parquet")
        return
    begin = time.perf_counter()
    rows = measure(file, options.seeds, options.policies, options.per_round)
    facts = facts_of(Path(__file__).name, None, time.perf_counter() - begin)
    write_page(options.output, page(rows, facts), {"facts": facts, "rows": rows})


if __name__ == "__main__":
    main()
