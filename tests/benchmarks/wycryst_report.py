"""Means over seeds and the Markdown of `wycryst_tables`; decides and formats only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.wycryst_data import BAND_GAP
from benchmarks.wycryst_training import HEADS, Plan, Result

from models.data import FORMATION_ENERGY, STABLE

COLUMNS: dict[str, tuple[str, ...]] = {
    "WyCryst `paper`": ("paper",),
    "ours": ("ours", "wyckoff head", "wyckoff discriminator"),
    "ours, property branch alone": ("ours",),
    "FTCP": ("ftcp",),
    "graph network `cgcnn`": ("cgcnn head", "cgcnn discriminator"),
}
"""Columns of the tables and the trainings behind each; where two give a figure, the later one's counts. So the forward
figures of `ours` are those of its forward models, as in the paper, which judges stability by an ensemble as well."""

RECONSTRUCTION = {
    "slot_elements": "element right, per slot",
    "elements": "all three elements right",
    "wyckoff": "Wyckoff sites right (all letters of all slots)",
    "spacegroup": "space group right",
    "formula": "atoms of each slot right (formula)",
    "gene": "whole gene right",
    "not_written": "crystals that the model cannot write (failures above)",
}
FORWARD = {
    f"mae:{FORMATION_ENERGY}": "MAE formation energy [eV/atom]",
    f"mae:{BAND_GAP}": "MAE band gap [eV]",
    "recall": "stability recall",
    "precision": "stability precision",
    "f1": "stability F1",
    "auc": "stability AUC",
    f"not_read:{STABLE}": "crystals that the model cannot read",
}
TRAINING = {
    "weights": "trainable weights (of all members)",
    "cpu_seconds": "CPU seconds",
    "wall_seconds": "seconds of wall time",
}
SUMS = ("weights", "cpu_seconds", "wall_seconds")
"""What is added up over the trainings behind a column."""
LARGE = {"not_written", f"not_read:{STABLE}", *SUMS}
"""Rows without decimals."""

HIDDEN = {"ours, property branch alone": {*RECONSTRUCTION, *TRAINING}}
"""Rows of a column that another one shows already."""

Figure = dict[str, float | int | None]
Table = dict[str, dict[str, Figure]]


def summarise(values: Sequence[float]) -> Figure:
    """Return mean, standard deviation over seeds (of a sample; none of a single one) and their number."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": spread, "n": len(values)}


def aggregate(results: Sequence[Result]) -> Table:
    """Return column -> row -> figure; times and weights of the trainings behind a column are added up."""
    table: Table = {}
    for column, models in COLUMNS.items():
        chosen = [result for result in results if result.model in models]
        sums: dict[str, dict[int, float]] = {}  # row -> seed -> value
        for result in chosen:
            times = {"cpu_seconds": result.cpu_seconds, "wall_seconds": result.wall_seconds}
            for name, value in (result.values | times).items():
                by_seed = sums.setdefault(name, {})
                by_seed[result.seed] = value + (by_seed.get(result.seed, 0.0) if name in SUMS else 0.0)
        hidden = HIDDEN.get(column, set())
        found = {name: summarise(list(v.values())) for name, v in sums.items() if name not in hidden}
        table[column] = found
    return table


def errors_of_mean(results: Sequence[Result]) -> dict[str, float]:
    """Return property -> error of guessing the mean of the held-out values, mean over seeds."""
    found: dict[str, float] = {}
    for prop in (FORMATION_ENERGY, BAND_GAP):
        values = [v for result in results if (v := result.values.get(f"mae_of_mean:{prop}")) is not None]
        if values:
            found[prop] = statistics.fmean(values)
    return found


def table_of(title: str, rows: dict[str, str], table: Table) -> str:
    """Return one Markdown table; a dash where a model has no such figure."""
    columns = [column for column in table if any(row in table[column] for row in rows)]
    lines = [f"## {title}", "", "| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for row, said in rows.items():
        cells = [shown(table[column].get(row), 0 if row in LARGE else 3) for column in columns]
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def shown(figure: Figure | None, decimals: int) -> str:
    """Return "mean ± std", the mean alone where there is one seed, a dash where there is nothing."""
    if figure is None:
        return "–"
    mean, std = figure["mean"], figure["std"]
    return f"{mean:.{decimals}f}" + ("" if std is None else f" ± {std:.{decimals}f}")


def notes(plan: Plan, n_crystals: int, positives: float, mean_errors: dict[str, float]) -> list[str]:
    """Return what has to be known to read the tables."""
    heads = ", ".join(
        f"{name} {options['members']} members of at most {options['max_steps']} steps"
        for name, options in HEADS[plan.tier].items()
    )
    ftcp = (
        "FTCP: half size (64 filters, 512 dense, 128 latent), batches of 64, learning rate 2e-3, 25 epochs: with the "
        "printed batch and rate it does not converge on this amount of data in the time that there is (measured)."
        if plan.tier == "cpu"
        else "FTCP: printed size, batch and rate, 200 epochs."
    )
    shorter = f" All epochs and steps are cut to {plan.share:.3g} of that." if plan.share < 1.0 else ""
    guess = ", ".join(f"{value:.3f} for {name}" for name, value in mean_errors.items())
    return [
        f"{n_crystals} ternaries up to bismuth of the Materials Project; a fifth of the reduced formulas is held out, "
        "other formulas for each seed; figures are on the held-out crystals, mean ± standard deviation over seeds.",
        f"`stable` is an energy above the hull of at most 0; {positives:.1%} of the crystals are. The paper's label is "
        "another one (listed in the ICSD), so its recall of 90.7 % is not to be compared with this one.",
        "Stability of `paper`, FTCP and the property branch is a regression of the label 0/1, called stable from 0.5 "
        "on; discriminators choose their threshold by F1 on formulas that they set aside. A higher recall "
        "costs precision: F1 and AUC weigh both.",
        "`paper`: full size, 48 epochs, its losses as printed (the formula term trains nothing), batches and rate "
        "as printed. `paper`, `ours` and FTCP learn formation energy, band gap and stability in one training.",
        f"Forward models, cut to the time that there is: {heads}.{shorter}",
        ftcp,
        "Reconstruction is from the latent mean. Shares are of all held-out crystals: what a model cannot write "
        "(a 27th letter, too many orbits on one letter, more than 20 atoms for FTCP) is a failure. FTCP knows no "
        "symmetry: its letters and space group are those that spglib finds in the decoded crystal at 0.1 Å, its "
        "formula is that of the cell as given.",
        "Errors are means over the crystals that a model can read; a crystal that it cannot read is not called stable. "
        "Precision is a mean over the seeds in which something is called stable. "
        f"Guessing the mean of the held-out values has errors of {guess}.",
    ]


def page(table: Table, facts: dict[str, object], said: Sequence[str]) -> list[str]:
    """Return the lines of the whole page."""
    return [
        "# Reconstruction and forward tables of WyCryst",
        "",
        "The measures of Zhu et al., Matter 7, 3469 (2024), tables 1 and 2.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
        table_of("Reconstruction", RECONSTRUCTION, table),
        table_of("Forward", FORWARD, table),
        table_of("Training, one seed", TRAINING, table),
        "## Notes",
        "",
        *(f"- {line}" for line in said),
    ]
