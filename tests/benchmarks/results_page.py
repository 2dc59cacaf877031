"""What every page of docs/results begins with, its tables, and how it is written beside its figures."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def say(line: str) -> None:
    """Tell the progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def machine() -> str:
    """Return what the figures were measured on."""
    import torch

    device = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{len(os.sched_getaffinity(0))} cores{device}, {system}, torch {torch.__version__}"


def facts_of(script: str, arguments: Sequence[str] | None, seconds: float) -> dict[str, object]:
    """Return command, date, machine and time of a run that ends now."""
    words = ["python", f"tests/benchmarks/{script}", *(sys.argv[1:] if arguments is None else arguments)]
    return {
        "command": f"`{shlex.join(words)}`",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "wall time": f"{seconds / 60:.1f} minutes",
    }


def table_lines(rows: Sequence[Mapping[str, object]], *, turned: bool = False) -> list[str]:
    """Return the Markdown of rows with equal keys, which become heads, or with `turned` the first column."""
    heads = list(rows[0])
    lines = [heads, *([_cell(row[head]) for head in heads] for row in rows)]
    if turned:
        lines = [list(column) for column in zip(*lines, strict=True)]
    written = ["| " + " | ".join(line) + " |" for line in lines]
    return [written[0], "|" + "---|" * len(lines[0]), *written[1:]]


def write_page(output: Path | None, lines: Sequence[str], document: Mapping[str, object]) -> None:
    """Print a page; with `output` also store it."""
    print("\n".join([*lines, ""]))  # noqa: T201 - printing is what these scripts are for
    if output is not None:
        store_page(output, lines, document)


def store_page(output: Path, lines: Sequence[str], document: Mapping[str, object]) -> None:
    """Write a page to OUTPUT.md, and every figure to OUTPUT.json."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    text = json.dumps(document, indent=1, ensure_ascii=False)
    output.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
