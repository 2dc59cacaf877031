"""Training on a worker: fit a first model, or fine-tune one on labels and hold it against its parent.

Part of the door to `models` (see `campaign.tasks`). What decides is `campaign.gating`: on crystals whose formulas are
never trained on, a version must not do worse than its parent, neither on the reference nor on labels. Labels in
quarantine do not come here. Labels enter on the scale of the reference hull (hull energy + DFT e_above_hull), so that
an engine's other zero of energy is not learned as chemistry.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from pymatgen.core import Structure

    from campaign.gating import Verdict
    from campaign.references.entries import ReferenceEntry, ReferenceSet
    from campaign.references.hull import ReferenceHull
    from models.data import LabelledStructure

GATE_METRIC = {"head": "mae", "discriminator": "log_loss"}
"""Error, crystal by crystal, that decides on a promotion; its mean is the metric of this name."""


LEAST_CHANCE = 1e-6
"""No probability counts as smaller: a single miss must not decide alone."""


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
    """Of held-out formulas: those that the parent knew of."""
    fresh_held_out: list[LabelledStructure]
    """Of held-out formulas: the new ones."""
    labelled_ids: list[str]
    """Ids of `labelled`."""
    fresh: list[LabelledStructure]
    """Labels of either side that the parent has not seen."""

    @property
    def every_held_out_label(self) -> list[LabelledStructure]:
        """Labels of held-out formulas, old and new."""
        return [*self.labelled_held_out, *self.fresh_held_out]


def train_model(task: Mapping[str, Any]) -> dict[str, Any]:
    """Train one version and judge it.

    Args:
        task: See `campaign.orders.OrderBook`.

    Returns:
        `promoted`, `verdict`, `gate`, `conflict`, `metrics_before`, `metrics_after`, `labels`, `checkpoint`,
        `sha256`, `trained` (when it ended).
    """
    from campaign.documents import now
    from models.errors import TrainingDataError

    if task["parent"] is None and task.get("given") is not None:
        return _given_version(task)
    sets = training_sets(task)
    try:
        if task["parent"] is None:
            result = _first_fit(task, sets)
        elif not sets.fresh or not sets.labelled:
            result = _refused(_nothing_new(task))
        elif task["role"] == "generator":
            result = _fine_tune_generator(task, sets)
        else:
            result = _fine_tune_judge(task, sets)
    except TrainingDataError as error:
        # For example a reference of stable crystals only: there is nothing to tell apart yet.
        result = _refused(error.one_line())
    return result | {"trained": now()}


def _nothing_new(task: Mapping[str, Any]) -> str:
    held = ", ".join(map(str, task["quarantined"]))
    return "no new labels to learn from" + (f": those of round {held} raised an alarm" if held else "")


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
    from models.splitting import split_by_key

    reference = load_prepared(Path(task["reference"]), task["exclude"])
    hull, limit = hull_of(reference), task["stable_ev_per_atom"]
    if task["role"] == "generator":
        known, formulas = _known(reference, generator=True, most=None, seed=0, limit=limit)
    else:
        known, formulas = _known_to_judges(reference, task["max_reference"], task["split_seed"], limit)
    labelled, ids = [], []
    for one in task["labelled"]:
        structure = Structure.from_dict(one["structure"])
        above = float(one["e_above_hull"])
        energy = hull.hull_energy_per_atom(structure.composition) + above
        labelled.append(LabelledStructure(structure, _properties(energy, above, limit), campaign=True))
        ids.append(one["id"])
    named = [one.structure.composition.reduced_formula for one in labelled]
    every = [*formulas, *named]
    held = set(split_by_key(every, every, task["holdout_fraction"], task["split_seed"])[1])
    fresh = [one["fresh"] for one in task["labelled"]]
    own = list(zip(labelled, ids, named, fresh, strict=True))
    reference_rows = list(zip(known, formulas, strict=True))
    return Sets(
        train=[one for one, formula in reference_rows if formula not in held],
        held_out=[one for one, formula in reference_rows if formula in held],
        labelled=[one for one, _, formula, _ in own if formula not in held],
        labelled_held_out=[one for one, _, formula, new in own if formula in held and not new],
        fresh_held_out=[one for one, _, formula, new in own if formula in held and new],
        labelled_ids=[name for _, name, formula, _ in own if formula not in held],
        fresh=[one for one, _, _, new in own if new],
    )


@lru_cache(maxsize=1)
def _known_to_judges(
    reference: ReferenceSet, most: int, seed: int, limit: float
) -> tuple[list[LabelledStructure], list[str]]:
    """Return what heads and discriminators learn from; kept, as they learn anew from it in every round."""
    return _known(reference, generator=False, most=most, seed=seed, limit=limit)


def _known(
    reference: ReferenceSet, *, generator: bool, most: int | None, seed: int, limit: float
) -> tuple[list[LabelledStructure], list[str]]:
    """Return the reference crystals that a model learns from, and their reduced formulas.

    Args:
        reference: All that is known.
        generator: A generator learns from every crystal; heads and discriminators from those with an energy.
        most: Largest number, drawn with the seed; None: all.
        seed: Decides which ones are drawn.
        limit: A crystal is stable when its e_above_hull is at most this [eV/atom].
    """
    from campaign.references.hull import hull_of
    from models.data import LabelledStructure

    def usable(entry: ReferenceEntry) -> bool:
        return entry.raw is not None and (generator or entry.formation_energy_per_atom is not None)

    entries, hull = [entry for entry in reference if usable(entry)], hull_of(reference)
    if most is not None and len(entries) > most:
        places = sorted(random.Random(seed).sample(range(len(entries)), most))
        entries = [entries[place] for place in places]
    found, formulas = [], []
    for entry in entries:
        structure = entry.structure
        if structure is not None:
            energy, above = entry.formation_energy_per_atom, _above(entry, structure, hull)
            found.append(LabelledStructure(structure, _properties(energy, above, limit)))
            formulas.append(structure.composition.reduced_formula)
    return found, formulas


def _above(entry: ReferenceEntry, structure: Structure, hull: ReferenceHull) -> float | None:
    """Return a reference crystal's e_above_hull [eV/atom], given or worked out; None where it is not known."""
    from campaign.errors import ReferenceDataError

    if entry.e_above_hull is not None or entry.formation_energy_per_atom is None:
        return entry.e_above_hull
    try:
        return hull.e_above_hull(structure.composition, entry.formation_energy_per_atom)
    except ReferenceDataError:
        return None  # an element of this crystal has no entry: its stability is unknown


def _properties(energy: float | None, above: float | None, limit: float) -> dict[str, float | None]:
    stable = None if above is None else float(above <= limit)
    return {"formation_energy_per_atom": energy, "e_above_hull": above, "stable": stable}


def _first_fit(task: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Fit on the reference; a first version has nothing to be held against and is promoted."""
    from campaign.gating import Verdict, judge_first
    from models.registry import DISCRIMINATORS, GENERATORS, HEADS, build

    registry = {"generator": GENERATORS, "head": HEADS, "discriminator": DISCRIMINATORS}[task["role"]]
    model = build(task["kind"], registry, task["role"], task["options"])
    if task["role"] == "generator":
        model.fit([*sets.train, *sets.held_out], task["seed"])
        metrics: dict[str, Any] = {"crystals": len(sets.train) + len(sets.held_out)}
        said = (
            f"first version, fitted on {metrics['crystals']} reference crystals; no parent to hold it against"
        )
    else:
        model.fit([*sets.train, *sets.labelled], [], task["seed"])
        found = model.evaluate(sets.held_out) if sets.held_out else {}
        metrics, said = {"reference": found}, judge_first(found, GATE_METRIC[task["role"]])
    return _kept(task, model, [], ({}, metrics), Verdict(True, said))


def _given_version(task: Mapping[str, Any]) -> dict[str, Any]:
    """Take a checkpoint that the user gave as the first version."""
    from campaign.gating import Verdict
    from models.checkpoint import folder_sha256

    given = Path(task["given"])
    model = model_class(task["role"], task["kind"]).load(given)
    verdict = f"first version, read from {given} (sha256 {folder_sha256(given)})"
    return _kept(task, model, [], ({}, {}), Verdict(True, verdict))


def _fine_tune_judge(task: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Fine-tune a head or discriminator, and hold it against its parent on held-out crystals."""
    from campaign.calibrating import foresee, recalibrate
    from campaign.gating import NEW, judge

    kind = model_class(task["role"], task["kind"])
    parent, child = kind.load(Path(task["parent"])), kind.load(Path(task["parent"]))
    foreseen = foresee(child, sets.fresh, sets.every_held_out_label)
    child.fine_tune(sets.labelled, sets.train, task["seed"])
    recalibrated = recalibrate(child, sets.held_out, sets.every_held_out_label)
    before = _held_out_metrics(parent, sets) | foreseen
    after = _held_out_metrics(child, sets) | recalibrated
    # So that neither has the advantage of a calibration on these very crystals.
    recalibrate(parent, sets.held_out, sets.every_held_out_label)
    held_out = {"reference": sets.held_out, "labels": sets.labelled_held_out, NEW: sets.fresh_held_out}
    losses = _head_losses if task["role"] == "head" else _discriminator_losses
    groups = {name: (losses(parent, group), losses(child, group)) for name, group in held_out.items()}
    verdict = judge(groups, GATE_METRIC[task["role"]], task["gate_tolerance"])
    return _kept(task, child, sets.labelled_ids, (before, after), verdict)


def _held_out_metrics(model: Any, sets: Sets) -> dict[str, Any]:
    groups = {"reference": sets.held_out, "labels": sets.every_held_out_label}
    return {name: model.evaluate(group) for name, group in groups.items() if group}


def _head_losses(head: Any, group: Sequence[LabelledStructure]) -> npt.NDArray[np.float64]:
    """Return the absolute errors (n,) of a head's first property, in its unit, where the truth is known."""
    import numpy as np

    name = head.properties[0]
    known = [one for one in group if one.known(name) is not None]
    if not known:
        return np.zeros(0)
    truth = np.array([one.known(name) for one in known], dtype=np.float64)
    if hasattr(head, "predict_labelled"):  # it may know how a campaign's crystals differ from the reference
        said = head.predict_labelled(known)
    else:
        said = head.predict([one.structure for one in known])
    errors: npt.NDArray[np.float64] = np.abs(said.mean[:, 0] - truth)
    return errors


def _discriminator_losses(model: Any, group: Sequence[LabelledStructure]) -> npt.NDArray[np.float64]:
    """Return the log-losses (n,) of a discriminator, where it is known whether a crystal is stable."""
    import numpy as np

    from models.data import STABLE

    known = [one for one in group if one.known(STABLE) is not None]
    if not known:
        return np.zeros(0)
    stable = np.array([one.known(STABLE) for one in known], dtype=np.float64) > 0.5
    said = np.clip(model.probability([one.structure for one in known]), LEAST_CHANCE, 1 - LEAST_CHANCE)
    return -np.log(np.where(stable, said, 1 - said))


def _fine_tune_generator(task: Mapping[str, Any], sets: Sets) -> dict[str, Any]:
    """Fine-tune a generator on the new labels, the reference shown again; a version that collapses is refused."""
    from campaign.gating import judge_generator
    from campaign.generator_check import ASKED, sample_figures

    kind = model_class("generator", task["kind"])
    parent, child = kind.load(Path(task["parent"])), kind.load(Path(task["parent"]))
    child.fine_tune(sets.fresh, sets.train, task["seed"])
    before, after = sample_figures(parent, task), sample_figures(child, task)
    verdict = judge_generator(before, after, ASKED)
    return _kept(task, child, sets.labelled_ids, (before, after), verdict)


def _kept(
    task: Mapping[str, Any],
    model: Any,
    labels: list[str],
    metrics: tuple[dict[str, Any], dict[str, Any]],
    verdict: Verdict,
) -> dict[str, Any]:
    """Save the version, promoted or not, with its parent's metrics and its own: a refused one is kept, too."""
    from models.checkpoint import folder_sha256

    folder = Path(task["folder"])
    shutil.rmtree(folder, ignore_errors=True)  # of a try that was cut off, or damaged since
    folder.unlink(missing_ok=True)  # a file in its place
    model.save(folder)
    return {
        "promoted": verdict.promoted,
        "verdict": verdict.reason,
        "gate": verdict.figures,
        "conflict": verdict.conflict,
        "metrics_before": metrics[0],
        "metrics_after": metrics[1],
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
