"""What CHGNet learns from a few hundred DFT frames, on frames that it was not taught, and what it forgets.

    python tests/benchmarks/surrogate_tuning.py --frames dft_frames.parquet --output docs/results/surrogate_tuning

Every error is that of crystals nobody was trained on. The baseline is not CHGNet with the frames' raw energies, which
have another zero, but CHGNet after the shift of energies that was fitted to the training frames.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from results_page import facts_of, say, table_lines, write_page

from models.splitting import split_by_composition
from models.surrogates.chgnet import CHGNetConfig, CHGNetSurrogate
from models.surrogates.frames import Frame, fit_shift
from models.surrogates.mp2020 import corrections
from models.surrogates.tuning_config import TuningConfig

EV_PER_ANG3_IN_GPA = 160.21766208
REPLAY_SET = "mptrj-random-1k"
MOST_STRESS_GPA = 100.0
"""Frames beyond are left out: a relaxation meets no such stress, and some are outliers."""

BEFORE = """\
CHGNet 0.3.0 is fine-tuned on a few PBE frames and judged on frames that it was not taught: mean absolute errors.
*Packaged, shifted* is the baseline: the packaged weights after the shift of energies that was fitted to the training
frames, so that another zero of energy counts for no gain. *Replay* are frames of MPtrj of held-out formulas, and tells
what is forgotten; others of MPtrj are shown again in training. All energies carry the MP2020 corrections that pymatgen
gives for the composition.""".splitlines()

BETWEEN = """\
What it took, one thread, beside other work (so the CPU time counts). *Part of the way* is how far the weights were
moved from the packaged to the learned ones, as held-out formulas wanted it; 0 keeps the packaged:""".splitlines()

AFTER = f"""\
Sets: hot oxides are those of mpf-TP (MatterSim's DFT of Materials Project crystals at high temperatures and pressures,
MIT), replay is mptrj-random-1k (MIT), elements are mlearn's (Zuo et al. 2020, BSD-3): defects, surfaces, strained and
hot crystals. Frames with stresses above {MOST_STRESS_GPA:g} GPa, and of more than 12 atoms (replay 16, mlearn 64),
are left out.""".splitlines()


@dataclass(frozen=True)
class Case:
    """Frames to learn and frames to judge by."""

    name: str
    train: list[Frame]
    test: list[Frame]


def read_frames(file: Path, name: str, most_atoms: int, most: int, seed: int) -> list[Frame]:
    """Return frames of one set as they are stored, energies per atom with the corrections of MP2020."""
    import pandas as pd
    from pymatgen.core import Element, Lattice, Structure

    rows = pd.read_parquet(file)
    rows = rows[(rows["set"] == name) & (rows["n_atoms"] <= most_atoms)].sample(frac=1.0, random_state=seed)
    frames = []
    for row in rows.itertuples():
        structure = Structure(
            Lattice(np.asarray(row.lattice, float).reshape(3, 3)),
            [Element.from_Z(int(number)) for number in row.atomic_numbers],
            np.asarray(row.frac_coords, float).reshape(-1, 3),
        )
        stress = None if row.stress is None else np.asarray(row.stress, float).reshape(3, 3)
        if stress is not None and np.abs(stress).max() * EV_PER_ANG3_IN_GPA > MOST_STRESS_GPA:
            continue
        forces = np.asarray(row.forces, float).reshape(-1, 3)
        stress = None if stress is None else stress * EV_PER_ANG3_IN_GPA
        frames.append(Frame(structure, row.energy / len(structure), forces, stress))
        if len(frames) == most:
            break
    added = corrections([one.structure for one in frames])
    return [
        replace(one, energy_per_atom=float(one.energy_per_atom + more))
        for one, more in zip(frames, added, strict=True)
        if one.energy_per_atom is not None and np.isfinite(more)
    ]


def formula_of(frame: Frame) -> str:
    """Return the reduced formula."""
    return str(frame.structure.composition.reduced_formula)


def cases(file: Path, size: int, seed: int, elements: Sequence[str]) -> list[Case]:
    """Return what is learned and judged; `size` frames are learned at most, a quarter of them of elements."""
    hot = read_frames(file, "mpf-TP", 12, 10_000, seed)
    oxides = [one for one in hot if "O" in one.structure.composition]
    inside, outside = split_by_composition(oxides, 0.3, seed)
    by_formula: defaultdict[str, list[Frame]] = defaultdict(list)
    for frame in oxides:
        by_formula[formula_of(frame)].append(frame)
    several = [found for found in by_formula.values() if len(found) >= 4]
    taught = [frame for found in several for frame in found[:-1]][:size]
    names = {formula_of(frame) for frame in taught}
    left = [found[-1] for found in several if formula_of(found[-1]) in names]
    made = [
        Case("hot oxides, other frames of these formulas", taught, left),
        Case("hot oxides, other formulas", inside[:size], outside[: size // 2]),
    ]
    for element in elements:
        found = read_frames(file, f"mlearn-{element}", 64, 10_000, seed)
        few = max(4, size // 4)
        made.append(Case(f"{element}, other frames", found[:few], found[few : 2 * few]))
    return made


def on_scale(frames: Sequence[Frame], like: Sequence[Frame]) -> list[Frame]:
    """Return frames on CHGNet's scale, by the shift that was fitted to others."""
    shift = fit_shift(like, CHGNetSurrogate().energies([one.structure for one in like]))
    return shift.onto(frames)


def row_of(case: str, what: str, case_errors: dict[str, float], old: dict[str, float]) -> dict[str, object]:
    """Return a line of the table; energies in meV/atom, forces in meV/Å, stresses in GPa."""

    def figure(errors: dict[str, float], name: str, factor: float) -> object:
        return round(errors[name] * factor, 2 if factor == 1 else 1) if name in errors else "–"

    return {
        "frames": case,
        "CHGNet": what,
        "energy [meV/atom]": figure(case_errors, "energy:mae", 1000.0),
        "force [meV/Å]": figure(case_errors, "force:mae", 1000.0),
        "stress [GPa]": figure(case_errors, "stress:mae", 1.0),
        "replay: energy [meV/atom]": figure(old, "energy:mae", 1000.0),
        "replay: force [meV/Å]": figure(old, "force:mae", 1000.0),
    }


def measure(
    file: Path, size: int, seed: int, elements: Sequence[str], options: dict[str, Any]
) -> tuple[list[dict[str, object]], list[Any]]:
    """Return the rows of the table, and what was taught in each case."""
    reference = read_frames(file, REPLAY_SET, 16, 2 * size, seed)
    reference = on_scale(reference, reference)
    replay, old = split_by_composition(reference, 0.3, seed)
    old_before = CHGNetSurrogate().evaluate_frames(old)
    rows, facts = [], []
    for number, case in enumerate(cases(file, size, seed, elements)):
        test = on_scale(case.test, case.train)
        before = CHGNetSurrogate().evaluate_frames(test)
        rows.append(row_of(case.name, "packaged, shifted", before, old_before))
        variants: list[tuple[str, dict[str, Any], Sequence[Frame]]] = [
            ("fine-tuned", {}, replay),
            ("fine-tuned, nothing held out", {"valid_fraction": 0.0}, replay),
        ]
        if number == 0:
            variants.append(("fine-tuned, nothing held out, no replay", {"valid_fraction": 0.0}, []))
        for name, more, shown in variants:
            surrogate = CHGNetSurrogate(CHGNetConfig(tuning=TuningConfig(**{**options, **more})))
            begin, cpu = time.perf_counter(), time.process_time()
            training = surrogate.fine_tune(case.train, shown, seed)
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
            after = surrogate.evaluate_frames(test)
            rows.append(row_of(case.name, name, after, surrogate.evaluate_frames(old)))
            facts.append(
                {
                    "frames": case.name,
                    "CHGNet": name,
                    "taught": len(case.train),
                    "formulas": len({formula_of(frame) for frame in case.train}),
                    "judged by": len(test),
                    "passes": int(training["epochs"]),
                    "part of the way": training.get("stride", 1.0),
                    "CPU [s]": round(cpu),
                    "wall [s]": round(wall),
                }
            )
            say(str(rows[-2]))
            say(str(rows[-1]))
            say(str(facts[-1]))
    return rows, facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=Path, required=True, help="table of DFT frames (Parquet)")
    parser.add_argument(
        "--size", type=int, default=60, help="frames taught at most; a quarter of large cells"
    )
    parser.add_argument("--elements", nargs="*", default=["Mo", "Si"], help="elements of mlearn as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=None, help="page to write, without its suffix")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    rows, facts = measure(chosen.frames, chosen.size, chosen.seed, chosen.elements, {"epochs": chosen.epochs})
    about = facts_of("surrogate_tuning.py", arguments, time.perf_counter() - begin)
    lines = [
        "# What CHGNet learns from DFT frames",
        "",
        *[f"- {key}: {value}" for key, value in about.items()],
        "",
        *BEFORE,
        "",
        *table_lines(rows),
        "",
        *BETWEEN,
        "",
        *table_lines(facts),
        "",
        *AFTER,
    ]
    write_page(chosen.output, lines, {"rows": rows, "training": facts, "about": about})


if __name__ == "__main__":
    main()
