"""Fine-tuning of the surrogate on a worker: learn the labels' frames, and judge what came of it.

Part of the door to `models` (see `campaign.tasks`). The gate: on labels whose formulas are never trained on the errors
of energies and forces, and on held-out reference crystals that of energies, must not exceed those of the version in
use by more than the tolerance. Energies of labels are on the scale of the reference hull, like those of other models.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.surrogates.frames import Frame

PACKAGED = "packaged weights: the surrogate as it was before the campaign taught it anything"
"""Verdict on the first version."""

JUDGED_BY = {"labels": ("energy:mae", "force:mae"), "reference": ("energy:mae",)}
"""Group of held-out frames -> the figures that decide on a promotion."""


NEGLIGIBLE = {"energy:mae": 0.001, "force:mae": 0.01}
"""What a figure may get worse by in any case [eV/atom, eV/Å]: where symmetry makes forces vanish all else is noise."""


@dataclass(frozen=True)
class FrameSets:
    """What a surrogate learns from and is judged by; no formula is in both."""

    train: list[Frame]
    held_out: list[Frame]
    """Frames of labels of held-out formulas; where there is but one formula, of held-out labels."""
    labels: list[str]
    """Ids of the labels in `train`."""
    replay: list[Frame]
    """Reference crystals."""
    reference_held_out: list[Frame]
    fresh: list[Frame]
    """Last frames of the labels that the version in use has not seen, held out or not: it is judged by them."""


def train_surrogate(task: Mapping[str, Any]) -> dict[str, Any]:
    """Train one version and judge it.

    Args:
        task: `kind`, `options`, `parent` (checkpoint, None for the packaged weights), `term`, `due`,
            `first`, `labelled` (as for other models, with `frames` of `campaign.frames`), `reference`, `exclude`,
            `min_labels`, `max_reference`, `gate_tolerance`, `holdout_fraction`, `split_seed`, `seed`, `folder`.

    Returns:
        As `campaign.training_task.train_model`. `metrics_before["later"]` tells how the version in use, and the
        packaged weights, did on labels that came after it: nobody had learned these.
    """
    from models.errors import TrainingDataError

    if task["first"]:
        return _outcome(PACKAGED, promoted=True)
    if not task["due"]:
        return _outcome("not due in this term")
    fresh = {one["id"] for one in task["labelled"] if one["fresh"]}
    if len(fresh) < task["min_labels"]:
        return _outcome(f"{len(fresh)} new labels, {task['min_labels']} wanted")
    parent, child = load_surrogate(task), load_surrogate(task)
    sets = frame_sets(task, parent, fresh)
    if not sets.train or not sets.held_out:
        return _outcome("two labels with frames are wanted at least, of two formulas unless there is but one")
    before: dict[str, Any] = {**_figures(parent, sets), "later": _later(task, parent, sets)}
    try:
        training = child.fine_tune(sets.train, sets.replay, task["seed"])
    except TrainingDataError as error:
        return _outcome(error.one_line()) | {"metrics_before": before}
    after = _figures(child, sets)
    promoted, verdict = judged(before, after, task["gate_tolerance"])
    after["training"] = training
    found = _outcome(verdict, promoted=promoted) | {"metrics_before": before, "metrics_after": after}
    return found | {"labels": sets.labels} | _saved(child, Path(task["folder"]))


def load_surrogate(task: Mapping[str, Any]) -> Any:
    """Return the version that a task begins with: a checkpoint's, or the packaged one."""
    from models.registry import SURROGATES, build, resolve

    checkpoint = task.get("parent") or task.get("checkpoint")
    if checkpoint is None:
        return build(task["kind"], SURROGATES, "surrogate", task["options"])
    device = task["options"].get("device")
    return resolve(task["kind"], SURROGATES, "surrogate").load(Path(checkpoint), device)


def judged(
    before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]], tolerance: float
) -> tuple[bool, str]:
    """Return whether a version may be used, and why: no figure of `JUDGED_BY` that is known may get worse."""
    from models.metrics import gate

    verdicts = [
        (
            group,
            gate(
                before[group],
                after.get(group, {}),
                metric,
                max(tolerance * before[group][metric], NEGLIGIBLE[metric]),
            ),
        )
        for group, metrics in JUDGED_BY.items()
        for metric in metrics
        if metric in before.get(group, {})
    ]
    said = "; ".join(f"{group}: {verdict.reason}" for group, verdict in verdicts)
    return bool(verdicts) and all(verdict.passed for _, verdict in verdicts), said


def frame_sets(task: Mapping[str, Any], surrogate: Any, fresh: set[str]) -> FrameSets:
    """Return the frames of a task, split by formula with the campaign's split seed."""
    from campaign.references.catalogue import load_prepared
    from campaign.references.hull import hull_of
    from models.surrogates.frames import hold_out

    reference = load_prepared(Path(task["reference"]), task["exclude"])
    hull = hull_of(reference)
    by_label = {one["id"]: _frames_of(one, surrogate, hull) for one in task["labelled"]}
    everything = [frame for frames in by_label.values() for frame in frames]
    fraction, seed = task["holdout_fraction"], task["split_seed"]
    held = {one.group for one in hold_out(everything, fraction, seed)[1]}
    formulas = {one.structure.composition.reduced_formula for one in everything if one.group in held}
    # the reference's crystals of a held-out formula would teach its energy
    known = [
        one
        for one in _reference_frames(task, reference, surrogate)
        if one.structure.composition.reduced_formula not in formulas
    ]
    replay, apart = hold_out(known, fraction, seed)
    taught = [name for name, frames in by_label.items() if frames and name not in held]
    return FrameSets(
        train=[one for name in taught for one in by_label[name]],
        held_out=[one for one in everything if one.group in held],
        labels=taught,
        replay=replay[: task["max_reference"]],
        reference_held_out=apart[: task["max_reference"]],
        fresh=[frames[-1] for name, frames in by_label.items() if frames and name in fresh],
    )


def _frames_of(labelled: Mapping[str, Any], surrogate: Any, hull: Any) -> list[Frame]:
    """Return the frames of a label on the surrogate's scale: the energy of its elements, plus a formation energy."""
    import numpy as np
    from pymatgen.core import Composition, Lattice, Structure

    from models.surrogates.frames import Frame

    def array(values: Any) -> Any:
        return None if values is None else np.asarray(values, dtype=float)

    structures = [
        Structure(
            Lattice(one["lattice_ang"]), one["numbers"], one["cart_coords_ang"], coords_are_cartesian=True
        )
        for one in labelled["frames"]
    ]
    if not structures:
        return []
    level = hull.hull_energy_per_atom(Composition(structures[-1].composition)) + labelled["e_above_hull"]
    level += float(surrogate.of_elements(structures[-1:])[0])
    return [
        Frame(
            structure,
            level + one["energy_ev_per_atom"],
            array(one["forces_ev_per_ang"]),
            array(one["stress_gpa"]),
            own_scale=True,
            group=str(labelled["id"]),
        )
        for structure, one in zip(structures, labelled["frames"], strict=True)
        if np.isfinite(level)
    ]


def _reference_frames(task: Mapping[str, Any], reference: Any, surrogate: Any) -> list[Frame]:
    """Return reference crystals with their energies, drawn with the campaign's split seed."""
    import numpy as np

    from models.surrogates.frames import Frame

    entries = [one for one in reference if one.raw is not None and one.formation_energy_per_atom is not None]
    most = 2 * task["max_reference"]
    if len(entries) > most:
        places = sorted(random.Random(task["split_seed"]).sample(range(len(entries)), most))
        entries = [entries[place] for place in places]
    pairs = [(one.structure, one.formation_energy_per_atom) for one in entries if one.structure is not None]
    bases = surrogate.of_elements([structure for structure, _ in pairs])
    return [
        Frame(structure, float(energy + base), own_scale=True)
        for (structure, energy), base in zip(pairs, bases, strict=True)
        if np.isfinite(base)
    ]


def _outcome(verdict: str, *, promoted: bool = False) -> dict[str, Any]:
    """Return what came of a task that has saved nothing."""
    nothing: dict[str, Any] = {"labels": [], "metrics_before": {}, "metrics_after": {}}
    return {**nothing, "promoted": promoted, "verdict": verdict, "checkpoint": None, "sha256": None}


def _saved(surrogate: Any, folder: Path) -> dict[str, str]:
    """Save a version, promoted or not: a refused one is kept with its figures."""
    from models.checkpoint import folder_sha256

    shutil.rmtree(folder, ignore_errors=True)  # of a try that was cut off, or damaged since
    folder.unlink(missing_ok=True)  # a file in its place
    surrogate.save(folder)
    return {"checkpoint": str(folder), "sha256": folder_sha256(folder)}


def _figures(surrogate: Any, sets: FrameSets) -> dict[str, Any]:
    groups: dict[str, Sequence[Frame]] = {"labels": sets.held_out, "reference": sets.reference_held_out}
    return {name: surrogate.evaluate_frames(frames) for name, frames in groups.items() if frames}


def _later(task: Mapping[str, Any], parent: Any, sets: FrameSets) -> dict[str, float]:
    """Return the errors of energies [eV/atom] on labels that came later than the version in use."""
    if not sets.fresh:
        return {}
    first = load_surrogate({**task, "parent": None}) if task["parent"] else parent
    return {
        "labels": float(len(sets.fresh)),
        "energy:mae": parent.evaluate_frames(sets.fresh).get("energy:mae", float("nan")),
        "packaged:mae": first.evaluate_frames(sets.fresh).get("energy:mae", float("nan")),
    }
