"""How many candidates each screen judges per second, on crystals that the substitution generator makes."""

from __future__ import annotations

import time

N_CANDIDATES = 200


def measure() -> list[dict[str, object]]:
    """Return one row per screen of the default list: how many came in, went on, and per second."""
    from pathlib import Path

    from campaign.references.catalogue import read_reference
    from campaign.references.fingerprint import describe
    from campaign.screens.contract import ScreenContext, ScreenItem
    from campaign.screens.funnel import run_segment
    from campaign.screens.registry import DEFAULT_SCREEN
    from models.data import Conditions, LabelledStructure
    from models.registry import GENERATORS, SURROGATES, build

    reference = read_reference(["builtin:quickstart"], base_dir=Path.cwd())
    generator = build("substitution", GENERATORS, "generator", {})
    generator.fit([LabelledStructure(structure) for structure in reference.structures], 0)
    conditions = Conditions(("Ca", "Mg", "Si"), (2, 3), 8)
    begin = time.perf_counter()
    made = generator.sample(N_CANDIDATES, conditions, 1)
    rows: list[dict[str, object]] = [
        _row("sample (substitution)", N_CANDIDATES, len(made), time.perf_counter() - begin)
    ]
    begin = time.perf_counter()
    described = [describe(structure) for structure in made]
    rows.append(_row("fingerprint and describe", len(made), len(made), time.perf_counter() - begin))
    surrogate = build("chgnet", SURROGATES, "surrogate", {})
    context = ScreenContext(reference=reference, surrogate=surrogate, elements=conditions.elements)
    items = [
        ScreenItem(known["id"], structure)
        for known, structure in zip(described, made, strict=True)
        if known is not None
    ]
    for kind, options in DEFAULT_SCREEN:
        begin = time.perf_counter()
        outcomes = run_segment(items, [(kind, options)], context)
        passed = [
            ScreenItem(
                item.candidate_id, outcome.structure or item.structure, {**item.values, **outcome.values}
            )
            for item, outcome in zip(items, outcomes, strict=True)
            if outcome.passed
        ]
        rows.append(_row(kind, len(items), len(passed), time.perf_counter() - begin))
        items = passed
    return rows


def _row(stage: str, entered: int, passed: int, seconds: float) -> dict[str, object]:
    return {"stage": stage, "in": entered, "out": passed, "per second": entered / max(seconds, 1e-9)}
