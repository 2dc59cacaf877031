"""The discovery curves of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from campaign.benchmarking.figures import Array, band

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Told apart by everybody: Okabe and Ito, Color Universal Design (2008)."""


def draw(
    stable: Mapping[str, Array],
    title: str,
    threshold: float,
    pool: tuple[float, int] | None,
    files: list[Path],
) -> None:
    """Draw mean curves with bands of their 95 % confidence intervals.

    Args:
        stable: Variant -> finds (n_seeds, n_labels + 1).
        title: What was benchmarked.
        threshold: Stable is at most this far above the hull [eV/atom].
        pool: Stable crystals and all crystals that a campaign has, for the lines of chance and of the ideal.
        files: Where to write; the suffix says the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = 1.0
    for place, (name, found) in enumerate(stable.items()):
        mean, low, high = band(found)
        labels, colour = np.arange(len(mean)), COLOURS[place % len(COLOURS)]
        style = "-" if place < len(COLOURS) else "--"
        axes.plot(labels, mean, style, color=colour, linewidth=1.8, label=f"{name}: {mean[-1]:.1f}")
        axes.fill_between(labels, low, high, color=colour, alpha=0.15, linewidth=0)
        highest = max(highest, float(high.max()))
    if pool is not None:
        n_labels = len(labels) - 1
        axes.plot(
            [0, n_labels], [0, n_labels * pool[0] / pool[1]], ":", color="0.4", linewidth=1.2, label="chance"
        )
        ideal = min(n_labels, pool[0])
        axes.plot([0, ideal, n_labels], [0, ideal, ideal], "-.", color="0.6", linewidth=1.0, label="ideal")
    axes.set(
        xlabel="labels",
        ylabel=f"stable crystals found (≤ {threshold:g} eV/atom above the hull)",
        title=title,
        xlim=(0, len(labels) - 1),
        ylim=(0, 1.05 * highest),
    )
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="upper left")
    for file in files:
        # No date and no random ids: equal figures give equal files.
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, dpi=160, metadata=metadata)
