"""The page of a benchmark: Markdown for people, JSON with every figure, a picture of the curves."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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


@dataclass(frozen=True)
class Findings:
    """What a benchmark found."""

    config: BenchmarkConfig
    outcomes: Sequence[Mapping[str, Any]]
    """Of every campaign, see `campaign.benchmarking.outcomes`."""
    pool: KnownPool | None
    threshold: float
    """Stable is at most this far above the hull [eV/atom]."""

    @cached_property
    def stable(self) -> dict[str, Array]:
        """Variant -> finds (n_seeds, n_labels + 1)."""
        return _curves(self.config, self.outcomes, "stable")

    @cached_property
    def sun(self) -> dict[str, Array]:
        """The same of crystals that are stable, unique and novel."""
        return _curves(self.config, self.outcomes, "sun")

    @cached_property
    def counts(self) -> tuple[int, int] | None:
        """Stable crystals and all crystals of the pool."""
        if self.pool is None:
            return None
        above = self.pool.e_above_hull.values()
        return sum(one <= self.threshold for one in above), len(self.pool.candidates)

    @property
    def available(self) -> tuple[float, int] | None:
        """Stable crystals, on average, and all crystals that a campaign has to choose from."""
        if self.counts is None or self.config.pool is None:
            return None
        (stable, crystals), draw = self.counts, self.config.pool.draw
        return (stable, crystals) if draw is None or draw >= crystals else (stable * draw / crystals, draw)

    @cached_property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Variant -> its figures."""
        return variant_figures(self.stable, self.sun, self.config.baseline, self.available)

    @cached_property
    def ratios(self) -> dict[str, dict[str, Any]]:
        """Variant -> other variant -> ratio of finds."""
        return paired(self.stable)

    def document(self) -> dict[str, Any]:
        """Return every figure as JSON has it."""
        pool = None
        if self.counts is not None and self.pool is not None:
            pool = {"stable": self.counts[0], "crystals": self.counts[1], "left_out": self.pool.left_out}
        return {
            "benchmark": self.config.model_dump(mode="json"),
            "threshold_ev_per_atom": self.threshold,
            "pool": pool,
            "figures": self.figures,
            "paired": self.ratios,
            "curves": {
                name: {"stable": found.tolist(), "sun": self.sun[name].tolist()}
                for name, found in self.stable.items()
            },
            "seconds": [
                {"variant": one["variant"], "seed": one["seed"], **one["seconds"]}
                | {"first_use": one.get("first_use_seconds", [])}
                for one in self.outcomes
            ],
        }


def write_report(findings: Findings, folder: Path) -> Iterator[str]:
    """Write report.md, report.json, report.png and report.svg into a folder; yields the page's lines."""
    lines, pictures = _page(findings), [folder / "report.png", folder / "report.svg"]
    draw(findings.stable, findings.config.name, findings.threshold, findings.available, pictures)
    text = orjson.dumps(findings.document(), option=orjson.OPT_INDENT_2).decode()
    write_atomic(folder / "report.json", text + "\n")
    write_atomic(folder / "report.md", "\n".join([*lines, ""]))
    yield from lines
    yield f"written: {folder / 'report.md'}, report.json, report.png, report.svg"


def _curves(config: BenchmarkConfig, outcomes: Sequence[Mapping[str, Any]], flag: str) -> dict[str, Array]:
    """Return variant -> finds (n_seeds, n_labels + 1), the seeds in the benchmark's order."""
    found = {(one["variant"], one["seed"]): [label[flag] for label in one["labels"]] for one in outcomes}
    return {
        name: curves([found[name, seed] for seed in config.seeds], config.labels) for name in config.policies
    }


def _page(findings: Findings) -> list[str]:
    config, figures, ratios = findings.config, findings.figures, findings.ratios
    shown = [key for key in COLUMNS if key in figures[config.baseline]]
    table = [["variant", *(COLUMNS[key] for key in shown)]]
    table += [[name, *(_words(row[key]) for key in shown)] for name, row in figures.items()]
    others = [["finds of / over those of", *ratios]]
    for one, row in ratios.items():
        others.append([one, *(_words(row[other]) if other in row else "–" for other in ratios)])
    return [
        f"# Benchmark {config.name}",
        "",
        *_about(findings),
        "",
        "![discovery curves](report.png)",
        "",
        *_table(table),
        "",
        f"Means over {len(config.seeds)} seeds with 95 % bootstrap intervals over seeds. Stable: at most "
        f"{findings.threshold:g} eV/atom above the reference's hull, of all {config.labels} labels submitted. "
        f"Enhancement: finds over those of `{config.baseline}` with as many labels; acceleration: labels that "
        f"`{config.baseline}` needs for its finds over those needed to find as many (Rohr et al., Chem. Sci. 11, 2696 "
        "(2020)). Area: under the curve of finds by labels. S.U.N. per label: stable, unlike those found before in the "
        "campaign, and unlike every crystal of the reference.",
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
        *_table(_seconds(findings)),
        "",
        "Medians over seeds. Trained to first use: from the end of a version's training to the first candidates that "
        "it has judged, over all versions that were used.",
    ]


def _about(findings: Findings) -> list[str]:
    config, counts, pool = findings.config, findings.counts, findings.pool
    seeds = ", ".join(map(str, config.seeds))
    lines = [f"- {config.labels} labels in rounds of {config.labels_per_round}; seeds {seeds}"]
    if counts is None or pool is None or config.pool is None:
        return [*lines, "- truth: energies above the hull after relaxation with the surrogate"]
    share = 100 * counts[0] / counts[1]
    lines.append(
        f"- pool: {config.pool.file.name}, {counts[1]} crystals, {counts[0]} of them ({share:.1f} %) stable "
        f"(at most {findings.threshold:g} eV/atom above the hull)"
    )
    if config.pool.draw is not None:
        lines.append(
            f"- each campaign has {config.pool.draw} of them, drawn with its seed, the same for all variants"
        )
    if pool.left_out:
        reasons = ", ".join(f"{number} {why}" for why, number in pool.left_out.items())
        lines.append(f"- rows left out: {reasons}")
    asked = config.predictions if isinstance(config.predictions, str) else config.predictions.name
    return [*lines, f"- predictions that candidates carry from the start: {asked}"]


def _seconds(findings: Findings) -> list[list[str]]:
    """Return the median seconds of each variant's campaigns by kind of task."""
    outcomes = findings.outcomes
    kinds = list(outcomes[0]["seconds"]) if outcomes else []
    rows = [["variant", *kinds, "versions promoted", "refused", "trained to first use"]]
    for name in findings.config.policies:
        own = [one for one in outcomes if one["variant"] == name]
        medians = [f"{statistics.median(one['seconds'][kind] for one in own):.1f}" for kind in kinds]
        counts = [f"{statistics.mean(one[key] for one in own):.1f}" for key in ("promoted", "refused")]
        waits = [wait for one in own for wait in one.get("first_use_seconds", ())]
        rows.append([name, *medians, *counts, f"{statistics.median(waits):.2f}" if waits else "–"])
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
