"""The page of a benchmark: Markdown for people, JSON with every figure, a picture of the curves."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml

from campaign.benchmarking.config import BenchmarkConfig
from campaign.benchmarking.figures import Array, curves, paired, variant_figures
from campaign.benchmarking.plot import draw
from campaign.benchmarking.pool_data import KnownPool
from campaign.run_folder import write_atomic

COLUMNS = {
    "finds": "stable found",
    "enhancement": "enhancement",
    "acceleration": "acceleration",
    "area_over_baseline": "area / baseline's",
    "area_chance_to_ideal": "area, chance 0 to ideal 1",
    "sun_per_label": "S.U.N. per label",
}
"""Figures of the first table."""


def write_report(
    config: BenchmarkConfig,
    documents: Mapping[str, Mapping[str, Any]],
    outcomes: Sequence[Mapping[str, Any]],
    pool: KnownPool | None,
    folder: Path,
) -> Iterator[str]:
    """Write report.md, report.json, report.png and report.svg; yields the page's lines.

    Args:
        config: The benchmark.
        documents: Variant -> campaign.yaml.
        outcomes: Of every campaign, see `campaign.benchmarking.outcomes`.
        pool: The pool, where there is one.
        folder: The benchmark's folder.
    """
    stable, sun = _curves(config, outcomes, "stable"), _curves(config, outcomes, "sun")
    threshold = _threshold(documents[config.baseline])
    counts = None
    if pool is not None:
        counts = (sum(one <= threshold for one in pool.e_above_hull.values()), len(pool.candidates))
    available = None if counts is None or config.pool is None else _per_campaign(counts, config.pool.draw)
    figures = variant_figures(stable, sun, config.baseline, available)
    ratios = paired(stable)
    lines = _page(config, figures, ratios, outcomes, counts, threshold, pool)
    document = {
        "benchmark": config.model_dump(mode="json"),
        "threshold_ev_per_atom": threshold,
        "pool": None
        if counts is None
        else {"stable": counts[0], "crystals": counts[1], "left_out": pool and pool.left_out},
        "figures": figures,
        "paired": ratios,
        "curves": {
            name: {"stable": found.tolist(), "sun": sun[name].tolist()} for name, found in stable.items()
        },
        "seconds": [{"variant": one["variant"], "seed": one["seed"], **one["seconds"]} for one in outcomes],
    }
    draw(stable, config.name, threshold, available, [folder / "report.png", folder / "report.svg"])
    write_atomic(folder / "report.json", orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    write_atomic(folder / "report.md", "\n".join([*lines, ""]))
    yield from lines
    yield f"written: {folder / 'report.md'}, report.json, report.png, report.svg"


def _curves(config: BenchmarkConfig, outcomes: Sequence[Mapping[str, Any]], flag: str) -> dict[str, Array]:
    """Return variant -> finds (n_seeds, n_labels + 1), the seeds in the benchmark's order."""
    found = {(one["variant"], one["seed"]): [label[flag] for label in one["labels"]] for one in outcomes}
    return {
        name: curves([found[name, seed] for seed in config.seeds], config.labels) for name in config.policies
    }


def _per_campaign(counts: tuple[int, int], draw: int | None) -> tuple[float, int]:
    """Return the stable crystals, on average, and all crystals that a campaign has to choose from."""
    stable, crystals = counts
    return (stable, crystals) if draw is None or draw >= crystals else (stable * draw / crystals, draw)


def _threshold(document: Mapping[str, Any]) -> float:
    from campaign.benchmarking.variants import checked

    return checked(document, "baseline").labels.stable_ev_per_atom


def _page(
    config: BenchmarkConfig,
    figures: Mapping[str, Mapping[str, Any]],
    ratios: Mapping[str, Mapping[str, Any]],
    outcomes: Sequence[Mapping[str, Any]],
    counts: tuple[int, int] | None,
    threshold: float,
    pool: KnownPool | None,
) -> list[str]:
    shown = [key for key in COLUMNS if key in figures[config.baseline]]
    table = [["variant", *(COLUMNS[key] for key in shown)]]
    table += [[name, *(_words(row[key]) for key in shown)] for name, row in figures.items()]
    others = [["finds of / over those of", *ratios]]
    others += [
        [one, *(_words(row[other]) if other in row else "–" for other in ratios)]
        for one, row in ratios.items()
    ]
    return [
        f"# Benchmark {config.name}",
        "",
        *_about(config, counts, threshold, pool),
        "",
        "![discovery curves](report.png)",
        "",
        *_table(table),
        "",
        f"Means over {len(config.seeds)} seeds with 95 % bootstrap intervals over seeds. Stable: at most {threshold:g} "
        f"eV/atom above the reference's hull, of all {config.labels} labels that were submitted. Enhancement: finds over "
        f"those of `{config.baseline}` with as many labels; acceleration: labels that `{config.baseline}` needs for its "
        "finds over those needed to find as many (Rohr et al., Chem. Sci. 11, 2696 (2020)). Area: under the curve of finds "
        "by labels. S.U.N.: stable, unlike those found before in the campaign, and unlike every crystal of the reference.",
        "",
        "## Variants against one another",
        "",
        *_table(others),
        "",
        "Ratios of finds at the budget, the same seeds drawn for both; an interval that leaves out 1 tells them apart.",
        "",
        "## Variants",
        "",
        "```yaml",
        yaml.safe_dump(config.policies, sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
        "## Seconds of a campaign",
        "",
        *_table(_seconds(config, outcomes)),
    ]


def _about(
    config: BenchmarkConfig, counts: tuple[int, int] | None, threshold: float, pool: KnownPool | None
) -> list[str]:
    lines = [
        f"- {config.labels} labels in rounds of {config.labels_per_round}; seeds {', '.join(map(str, config.seeds))}"
    ]
    if counts is None or pool is None or config.pool is None:
        return [*lines, "- truth: energies above the hull after relaxation with the surrogate"]
    share = 100 * counts[0] / counts[1]
    lines.append(
        f"- pool: {config.pool.file.name}, {counts[1]} crystals, {counts[0]} of them ({share:.1f} %) stable "
        f"(at most {threshold:g} eV/atom above the hull)"
    )
    if config.pool.draw is not None:
        lines.append(
            f"- each campaign has {config.pool.draw} of them, drawn with its seed, the same for all variants"
        )
    if pool.left_out:
        lines.append(
            "- rows left out: " + ", ".join(f"{number} {why}" for why, number in pool.left_out.items())
        )
    asked = config.predictions if isinstance(config.predictions, str) else config.predictions.name
    return [*lines, f"- predictions that candidates carry from the start: {asked}"]


def _seconds(config: BenchmarkConfig, outcomes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the median seconds of each variant's campaigns by kind of task."""
    kinds = list(outcomes[0]["seconds"]) if outcomes else []
    rows = [["variant", *kinds, "versions promoted", "refused"]]
    for name in config.policies:
        own = [one for one in outcomes if one["variant"] == name]
        medians = [f"{statistics.median(one['seconds'][kind] for one in own):.1f}" for kind in kinds]
        counts = [f"{statistics.mean(one[key] for one in own):.1f}" for key in ("promoted", "refused")]
        rows.append([name, *medians, *counts])
    return rows


def _words(figure: Mapping[str, float | None]) -> str:
    if figure["value"] is None:
        return "–"
    if figure["low"] is None or figure["high"] is None:
        return f"{figure['value']:.3g}"
    return f"{figure['value']:.3g} ({figure['low']:.3g} to {figure['high']:.3g})"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    written = ["| " + " | ".join(row) + " |" for row in rows]
    return [written[0], "|" + "---|" * len(rows[0]), *written[1:]]
