"""Training on a worker: fit a first model, or fine-tune one on labels and hold it against its parent.

Part of the door to `models` (see `campaign.tasks`). The gate: on crystals whose formulas are never trained on,
reference and labelled ones weighing the same, the new version's error must not exceed its parent's by more than
the tolerance. Labels enter on the scale of the reference hull (hull energy + DFT e_above_hull), so that an
engine's other zero of energy is not learned as chemistry.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from campaign.references.entries import ReferenceEntry, ReferenceSet
    from models.data import LabelledStructure

GATE_METRIC = {"head": "mae", "discriminator": "log_loss"}
"""Held-out figure that decides on a promotion; both are better when lower."""

GENERATION_CHECK = 32
"""Crystals that a generator makes before and after fine-tuning; the share of distinct ones must hold up."""


@dataclass(frozen=True)
class Sets:
    """What a model learns from and is judged by; no formula is in both."""

    train: list[LabelledStructure]
    """Reference crystals."""
    held_out: list[LabelledStructure]
    """Reference crystals of the held-out formulas."""
    labelled: list[LabelledStructure]
    """The campaign's own labels."""
    labelled_held_out: list[LabelledStructure]
    labelled_ids: list[str]
    """Ids of `labelled`."""
    fresh: list[LabelledStructure]
    """Labels of either side that the parent has not seen."""


def train_model(task: Mapping[str, Any]) -> dict[str, Any]:
    """Train one version and judge it.

    Args:
        task: See `campaign.orders.OrderBook`.

    Returns:
        `promoted`, `verdict`, `metrics_before`, `metrics_after`, `labels`, `checkpoint`, `sha256`.
    """
    from models.errors import TrainingDataError

    if task["parent"] is None and task.get("given") is not None:
        return _given_version(task)
    sets = training_sets(task)
    try:
        if task["parent"] is None:
            return _first_fit(task, sets)
        if not sets.fresh or not sets.labelled:
            return _refused("no new labels to learn from")
        if task["role"] == "generator":
            return _fine_tune_generator(task, sets)
        return _fine_tune_judge(task, sets)
    except TrainingDataError as error:
        # For example a reference of stable crystals only: there is nothing to tell apart yet.
        return _refused(error.one_line())


def model_class(role: str, kind: str) -> Any:
    """Return the class of a generator, head or discriminator by its name or import path."""
    from models.registry import DISCRIMINATORS, GENERATORS, HEADS, resolve

    registry = {"generator": GENERATORS, "head": HEADS, "discriminator": DISCRIMINATORS}[role]
    return resolve(kind, registry, role)


def training_sets(task: Mapping[str, Any]) -> Sets:
    """Return the crystals of a training task, split by formula with the campaign's split seed."""
    from pymatgen.core import Structure

    from campaign.references.catalogue import load_prepared
    from campaign.references.hull import hull_of
    from models.data import LabelledStructure
    from models.splitting import split_by_composition

    reference = load_prepared(Path(task["reference"]), task["exclude"])
    hull = hull_of(reference)
    known = [
        LabelledStructure(structure, _properties(energy, above, task["stable_ev_per_atom"]))
        for structure, energy, above in _reference_rows(reference, hull, task)
    ]
    labelled, ids = [], []
    for one in task["labelled"]:
        structure = Structure.from_dict(one["structure"])
        above = float(one["e_above_hull"])
        energy = hull.hull_energy_per_atom(structure.composition) + above
        properties = _properties(energy, above, task["stable_ev_per_atom"])
        labelled.append(LabelledStructure(structure, properties, campaign=True))
        ids.append(one["id"])
    _, held = split_by_composition([*known, *labelled], task["holdout_fraction"], task["split_seed"])
    held_formulas = {one.structure.composition.reduced_formula for one in held}

    def is_held(one: LabelledStructure) -> bool:
        return one.structure.composition.reduced_formula in held_formulas

    return Sets(
        train=[one for one in known if not is_held(one)],
        held_out=[one for one in known if is_held(one)],
        labelled=[one for one in labelled if not is_held(one)],
        labelled_held_out=[one for one in labelled if is_held(one)],
        labelled_ids=[name for name, one in zip(ids, labelled, strict=True) if not is_held(one)],
        fresh=[
            one
            for one, document in zip(labelled, task["labelled"], strict=True)
            if document["round"] >= task["parent_term"]
        ],
    )


def _reference_rows(
    reference: ReferenceSet, hull: Any, task: Mapping[str, Any]
) -> list[tuple[Any, float | None, float | None]]:
    """Return (structure, formation energy, e_above_hull) of the reference crystals, at most `max_reference`.

    A generator learns from every crystal; heads and discriminators from those with an energy.
    """
    from campaign.errors import ReferenceDataError

    def usable(entry: ReferenceEntry) -> bool:
        return entry.raw is not None and (
            task["role"] == "generator" or entry.formation_energy_per_atom is not None
        )

    entries = [entry for entry in reference if usable(entry)]
    most = task["max_reference"]
    if task["role"] != "generator" and len(entries) > most:
        places = sorted(random.Random(task["split_seed"]).sample(range(len(entries)), most))
        entries = [entries[place] for place in places]
    rows: list[tuple[Any, float | None, float | None]] = []
    for entry in entries:
        structure, energy, above = entry.structure, entry.formation_energy_per_atom, entry.e_above_hull
        if structure is None:
            continue
        if above is None and energy is not None:
            try:
                above = hull.e_above_hull(structure.composition, energy)
            except ReferenceDataError:
                above = None  # an element of this crystal has no entry: its stability is unknown
        rows.append((structure, energy, above))
    return rows


def _properties(energy: float | None, above: float | None, limit: float) -> dict[str, float | None]:
    stable = None if above is None else float(above <= limit)
    return {"formation_energy_per_atom": energy, "e_above_hull": above, "stable": stable}


def _first_fit(task: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Fit on the reference; a first version has nothing to be held against and is promoted."""
    from models.registry import DISCRIMINATORS, GENERATORS, HEADS, build

    registry = {"generator": GENERATORS, "head": HEADS, "discriminator": DISCRIMINATORS}[task["role"]]
    model = build(task["kind"], registry, task["role"], task["options"])
    if task["role"] == "generator":
        model.fit([*sets.train, *sets.held_out], task["seed"])
        metrics: dict[str, Any] = {"crystals": len(sets.train) + len(sets.held_out)}
    else:
        model.fit([*sets.train, *sets.labelled], [], task["seed"])
        metrics = {"reference": model.evaluate(sets.held_out) if sets.held_out else {}}
    return _kept(
        task, model, [], {}, metrics, promoted=True, verdict="first version, fitted on the reference"
    )


def _given_version(task: Mapping[str, Any]) -> dict[str, Any]:
    """Take a checkpoint that the user gave as the first version."""
    from models.checkpoint import folder_sha256

    given = Path(task["given"])
    model = model_class(task["role"], task["kind"]).load(given)
    verdict = f"first version, read from {given} (sha256 {folder_sha256(given)})"
    return _kept(task, model, [], {}, {}, promoted=True, verdict=verdict)


def _fine_tune_judge(task: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Fine-tune a head or discriminator, and hold it against its parent on held-out crystals."""
    from campaign.calibrating import foresee, recalibrate
    from models.metrics import gate

    kind = model_class(task["role"], task["kind"])
    parent, child = kind.load(Path(task["parent"])), kind.load(Path(task["parent"]))
    foreseen = foresee(child, sets.fresh, sets.labelled_held_out)
    child.fine_tune(sets.labelled, sets.train, task["seed"])
    calibration = recalibrate(child, sets.held_out, sets.labelled_held_out)
    before = _held_out_metrics(parent, sets) | foreseen
    after = _held_out_metrics(child, sets) | calibration
    metric = GATE_METRIC[task["role"]]
    old, new = _gate_figure(before, metric), _gate_figure(after, metric)
    allowed = task["gate_tolerance"] * old.get(metric, 0.0)
    verdict = gate(old, new, metric, allowed)
    return _kept(
        task, child, sets.labelled_ids, before, after, promoted=verdict.passed, verdict=verdict.reason
    )


def _held_out_metrics(model: Any, sets: Sets) -> dict[str, Any]:
    groups = {"reference": sets.held_out, "labels": sets.labelled_held_out}
    return {name: model.evaluate(group) for name, group in groups.items() if group}


def _gate_figure(metrics: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    """Return the mean of the metric over the groups that have it: labels weigh as much as the reference."""
    values = [group[metric] for group in metrics.values() if metric in group]
    return {metric: sum(values) / len(values)} if values else {}


def _fine_tune_generator(task: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Fine-tune a generator; refused when it makes fewer distinct crystals than its parent did."""
    kind = model_class("generator", task["kind"])
    parent, child = kind.load(Path(task["parent"])), kind.load(Path(task["parent"]))
    child.fine_tune(sets.fresh, sets.train, task["seed"])
    before, after = _variety(parent, task), _variety(child, task)
    least = (1 - task["gate_tolerance"]) * before["distinct"] * 0.8
    promoted = after["distinct"] >= least
    verdict = (
        f"distinct crystals of {GENERATION_CHECK} asked: {before['distinct']} before, {after['distinct']} after; "
        f"at least {least:.1f} wanted"
    )
    return _kept(task, child, sets.labelled_ids, before, after, promoted=promoted, verdict=verdict)


def _variety(generator: Any, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many distinct crystals, and formulas, a generator makes of a fixed number asked."""
    from campaign.references.fingerprint import candidate_id
    from models.data import Conditions

    conditions = Conditions.of(task["conditions"])
    made: Sequence[Any] = generator.sample(GENERATION_CHECK, conditions, task["seed"])
    return {
        "returned": len(made),
        "distinct": len({candidate_id(structure) for structure in made}),
        "formulas": len({structure.composition.reduced_formula for structure in made}),
    }


def _kept(
    task: Mapping[str, Any],
    model: Any,
    labels: list[str],
    before: dict[str, Any],
    after: dict[str, Any],
    *,
    promoted: bool,
    verdict: str,
) -> dict[str, Any]:
    """Save the version, promoted or not: a refused one is kept with its figures."""
    from models.checkpoint import folder_sha256

    folder = Path(task["folder"])
    shutil.rmtree(folder, ignore_errors=True)  # of a try that was cut off, or damaged since
    folder.unlink(missing_ok=True)  # a file in its place
    model.save(folder)
    return {
        "promoted": promoted,
        "verdict": verdict,
        "metrics_before": before,
        "metrics_after": after,
        "labels": labels,
        "checkpoint": str(folder),
        "sha256": folder_sha256(folder),
    }


def _refused(why: str) -> dict[str, Any]:
    return {
        "promoted": False,
        "verdict": why,
        "metrics_before": {},
        "metrics_after": {},
        "labels": [],
        "checkpoint": None,
        "sha256": None,
    }
