"""How many crystals CHGNet relaxes per second: batched here, and one by one with chgnet's own optimiser."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np

N_CRYSTALS = 32
FMAX_EV_PER_ANG = 0.05


def measure() -> list[dict[str, object]]:
    """Return one row per way of relaxing the same crystals, fresh from the substitution generator."""
    import torch
    from chgnet.model import StructOptimizer

    from models.data import Conditions
    from models.registry import GENERATORS, SURROGATES, build
    from models.testing import reference_crystals

    torch.set_num_threads(1)
    generator = build("substitution", GENERATORS, "generator", {"exclude_known": False})
    generator.fit(reference_crystals(), 0)
    elements = ("Li", "Na", "Mg", "Ca", "Sr", "Ba", "Ti", "Zr", "Ni", "Cu", "Zn", "Al", "O", "F", "Cl", "S")
    crystals = generator.sample(N_CRYSTALS, Conditions(elements, (2, 3), 12), 0)
    rng = np.random.default_rng(0)
    for crystal in crystals:  # ideal sites would relax in the cell alone
        for place in range(len(crystal)):
            crystal.translate_sites([place], rng.normal(scale=0.05, size=3), frac_coords=False)
    surrogate = build("chgnet", SURROGATES, "surrogate", {})
    surrogate.energies(crystals[:2])  # loads the weights

    rows: list[dict[str, object]] = []
    begin = time.perf_counter()
    outcomes = surrogate.relax(crystals, fix_symmetry=False, max_steps=300, fmax_ev_per_ang=FMAX_EV_PER_ANG)
    steps = float(np.mean([outcome.n_steps for outcome in outcomes]))
    rows.append(_row("batched (models.relaxation)", len(crystals), time.perf_counter() - begin, steps))
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = StructOptimizer(use_device="cpu", on_isolated_atoms="ignore")
        begin = time.perf_counter()
        lengths = [
            len(
                theirs.relax(c, fmax=FMAX_EV_PER_ANG, steps=300, verbose=False, assign_magmoms=False)[
                    "trajectory"
                ]
            )
            for c in crystals
        ]
    rows.append(
        _row("one by one (chgnet, FIRE)", len(crystals), time.perf_counter() - begin, float(np.mean(lengths)))
    )
    return rows


def _row(way: str, n: int, seconds: float, steps: float) -> dict[str, object]:
    return {
        "way": way,
        "crystals": n,
        "seconds": seconds,
        "crystals per second": n / seconds,
        "evaluations per crystal": steps + 1,
    }
