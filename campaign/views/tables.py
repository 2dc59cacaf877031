"""Tables for people: the status, the results, the checks. Nothing here reads the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from campaign.views.status import FUNNEL

JOBS_SHOWN = 6
"""Most ids of batch jobs in a line of the status."""


def results_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Return the table of labelled candidates; energies in eV/atom."""
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for heading in ("formula", "space\ngroup", "generator", "round"):
        table.add_column(heading)
    for heading in ("predicted\ne_above_hull", "DFT\ne_above_hull", "core-\nhours"):
        table.add_column(heading, justify="right")
    for row in rows:
        predicted, std = row["predicted_e_above_hull"], row["predicted_std"]
        belief = "–" if predicted is None else f"{predicted:+.3f}±{std:.3f}"
        found = _verdict(row) if row["e_above_hull"] is not None else _without(row)
        style = "bold green" if row["stable"] else ""
        table.add_row(
            row["formula"], str(row["spacegroup"] or "–"), row["generator"], str(row["round"]), belief, found,
            f"{row['core_hours']:.3f}", style=style,
        )  # fmt: skip
    return table


def _verdict(row: Mapping[str, Any]) -> str:
    return f"{row['e_above_hull']:+.3f}" + (f" {row['rung']}" if row["rung"] else "")


def _without(row: Mapping[str, Any]) -> str:
    return f"failed: {row['cause']}" if row["state"] == "failed" else "no hull"


def status_view(
    status: Mapping[str, Any], slots: Mapping[str, int], busy: Mapping[str, int]
) -> RenderableType:
    """Return the live view: funnel, label slots, best so far, budgets."""
    counts = status["candidates"]
    head = Text.assemble(
        (status["name"], "bold"), "  ", (status["state"], "cyan"), f"  {status['reason']}".rstrip()
    )
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    if status["driver"] and not slots:
        table.add_row("driver", _driver_text(status["driver"]))
    if status.get("batch"):
        table.add_row("batch jobs", Text(status["batch"]))
    table.add_row(
        "candidates", "  ".join(f"{name} {counts[name]}" for name in FUNNEL if counts.get(name)) or "none yet"
    )
    if status["rejected_by"]:
        rejected = sorted(status["rejected_by"].items(), key=lambda item: -item[1])
        table.add_row("rejected by", "  ".join(f"{name} {number}" for name, number in rejected))
    table.add_row("labels", _counts(status["labels"]) + f"  stable {status['stable']}")
    for rung, of_rung in status["ladder"].items():
        table.add_row(f"rung {rung}", _counts(of_rung))
    table.add_row("references", _counts(status["references"]))
    if status["failures"]:
        table.add_row("failures", _counts(status["failures"]))
    if slots:
        table.add_row("slots busy", "  ".join(f"{pool} {busy.get(pool, 0)}/{n}" for pool, n in slots.items()))
    table.add_row("models", _counts(status["models"]))
    for row in status["surrogate"]:
        table.add_row("surrogate", Text(_surrogate_text(row)))
    table.add_row("rounds", "  ".join(_round_text(row) for row in status["rounds"]) or "none yet")
    for row in status["alarms"]:
        held = "; nothing learns from them" if row["quarantined"] else ""
        words = f"labels of round {row['round']} {row['message']}{held}"
        table.add_row(Text("alarm", "bold red"), Text(words))
    for pool, row in status["blocks"].items():
        table.add_row(f"blocks {pool}", Text(_blocks_text(row)))
    table.add_row("used", _usage_text(status["usage"]))
    if status["budgets"]:
        table.add_row("budgets", "  ".join(map(_budget_text, status["budgets"])))
    table.add_row("yield", _yield_text(status["yield"]))
    for number, row in enumerate(status["best"]):
        energy = f"{row['e_above_hull']:+.3f} eV/atom"
        gene = f"  {row['gene']}" if row.get("gene") else ""
        words = f"{row['formula']} ({row['spacegroup']})  {energy}{gene}"
        table.add_row("best" if number == 0 else "", Text(words))
    return Group(head, table)


def _driver_text(driver: Mapping[str, Any]) -> str:
    who = f"process {driver['pid']} on {driver['host']}"
    if driver["live"]:
        return who
    return f"{who} is gone, last heard of {driver['seconds_since_heartbeat']:.0f} s ago: `campaign resume`"


def _counts(counts: Mapping[str, int]) -> str:
    return "  ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none yet"


def _round_text(row: Mapping[str, Any]) -> str:
    chosen = "" if row["selected"] is None else f" → {row['selected']} labels"
    return f"{row['round']}: {row['new']} new{chosen}"


def _blocks_text(row: Mapping[str, Any]) -> str:
    parts = [
        f"{row[state]} {state}" + (f" ({row[f'nodes_{state}']} nodes)" if row[f"nodes_{state}"] else "")
        for state in ("running", "queued")
        if row[state]
    ]
    jobs = [job for job in row["job_ids"] if job]
    more = f" and {len(jobs) - JOBS_SHOWN} more" if len(jobs) > JOBS_SHOWN else ""
    return "  ".join(parts) + (f"  jobs {', '.join(jobs[:JOBS_SHOWN])}{more}" if jobs else "")


def _surrogate_text(row: Mapping[str, Any]) -> str:
    """Return what labels that came after a version of the surrogate say of it."""
    parts = [f"t{row['term']}"]
    if row["mae"] is not None:
        before = f", packaged weights {1000 * row['packaged_mae']:.0f}" if row["term"] else ""
        parts.append(f"{row['labels']} later labels: error {1000 * row['mae']:.0f} meV/atom{before}")
    if row["relaxed_mae"] is not None:
        parts.append(f"e_above_hull of {row['relaxed']} relaxed with it: {1000 * row['relaxed_mae']:.0f}")
    return "  ".join(parts)


def _usage_text(usage: Mapping[str, float]) -> str:
    parts = [
        f"{usage.get('wall_seconds', 0.0) / 60:.1f} min",
        f"{usage.get('core_hours', 0.0):.2f} core-hours",
        f"{usage.get('node_hours', 0.0):.2f} node-hours",
    ]
    return "  ".join(parts)


def _budget_text(budget: Mapping[str, Any]) -> str:
    return f"{budget['name']} {budget['used']:.4g} of {budget['limit']:g} ({budget['percent']:.0f} %)"


def _yield_text(found: Mapping[str, float | None]) -> str:
    """Return labels and stable crystals per hour of a node and of a core."""
    parts = []
    for unit in ("node_hour", "core_hour"):
        labels, stable = found[f"labels_per_{unit}"], found[f"stable_per_{unit}"]
        if labels is not None and stable is not None:
            parts.append(f"{labels:.3g} labels, {stable:.3g} stable per {unit.replace('_', '-')}")
    return "  ".join(parts) or "none yet"


def checks_table(checks: Sequence[Any], title: str) -> Table:
    """Return the table of `campaign doctor`: name, works, what was found, cure."""
    table = Table(title=Text(title), title_justify="left")
    for heading in ("what", "works", "found", "cure"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        mark = Text("yes", "green") if check.ok else Text("no", "red")
        table.add_row(check.name, mark, Text(str(check.found)), Text("" if check.ok else str(check.cure)))
    return table


def documents_table(documents: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> Table:
    """Return documents as a table of the given (dotted) fields."""
    table = Table()
    for field in fields:
        table.add_column(field, overflow="fold")
    for document in documents:
        # Text: brackets in a value are no markup
        table.add_row(*(Text(_cell(dotted(document, field))) for field in fields))
    return table


def dotted(document: Mapping[str, Any], field: str) -> Any:
    """Return the value at a dotted field, None where there is none."""
    value: Any = document
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
