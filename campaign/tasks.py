"""What runs on workers: top-level functions from plain documents to plain documents.

The one door from `campaign` to `models` and `flows`. Imports are inside the functions, so that naming a task in
the driver imports nothing heavy. No task talks to the store, and each can be repeated: its seed is in its document.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure

Task = dict[str, Any]
Result = dict[str, Any]


def timed(function: Callable[[Task], Result]) -> Callable[[Task], Result]:
    """Add where and how long a task ran: `host`, `pid`, `seconds`, `core_hours`.

    Where its block ends: `ok` false and `failure`.
    """

    @wraps(function)
    def run(task: Task) -> Result:
        from flows.causes import BlockEndedError, failure_of
        from flows.job_context import cores_held
        from flows.job_limits import no_time_left, until_block_ends

        no_time = no_time_left()
        begin = time.monotonic()
        keep_private()
        try:
            if no_time is not None:
                raise no_time
            with until_block_ends():
                result = function(task)
        except BlockEndedError as error:
            result = {"ok": False, "failure": failure_of(error).model_dump(mode="json")}
            if no_time is not None:
                result["seconds"] = 0.0
        seconds = time.monotonic() - begin
        spent = {"seconds": seconds, "core_hours": seconds * cores_held() / 3600}
        return {"host": socket.gethostname(), "pid": os.getpid(), **spent, **result}

    return run


def keep_private() -> None:
    """Let what a worker writes be its user's alone, whatever umask its batch system or FireWorks gave it."""
    os.umask(0o077)


@timed
def sample(task: Task) -> Result:
    """Sample crystals from a generator.

    Args:
        task: `kind`, `options`, `checkpoint`, `n`, `seed`, `conditions` (see `models.data.Conditions.document`).

    Returns:
        `candidates`: id, formula, chemsys, n_atoms, spacegroup, bucket, structure and provenance of each.
    """
    from campaign.judging import load_model
    from campaign.references.fingerprint import describe
    from models.data import Conditions

    generator = load_model("generator", task["kind"], task["checkpoint"])
    found = []
    for structure in generator.sample(task["n"], Conditions.of(task["conditions"]), task["seed"]):
        described = describe(structure)
        if described is not None:
            found.append({**described, "structure": structure.as_dict()})
    return {"candidates": found}


@timed
def screen(task: Task) -> Result:
    """Apply a segment of screens to candidates.

    Args:
        task: `items` [{id, structure, values}], `screens` [[kind, options]], `surrogate` {kind, options, checkpoint},
            `judges` (as for `score`; None where no screen asks them), `reference` (path), `exclude` [formula],
            `earlier` {bucket: [[id, structure]]}, `seed`, `elements`.

    Returns:
        `outcomes`: candidate_id, passed, rejected_by, reason, values, structure (if replaced), seconds.
    """
    from pymatgen.core import Structure

    from campaign.judging import Judges
    from campaign.references.catalogue import load_prepared
    from campaign.screens.contract import ScreenContext, ScreenItem
    from campaign.screens.funnel import run_segment

    items = [
        ScreenItem(one["id"], Structure.from_dict(one["structure"]), one["values"]) for one in task["items"]
    ]
    context = ScreenContext(
        reference=load_prepared(Path(task["reference"]), task["exclude"]),
        surrogate=_LazySurrogate(task["surrogate"]),
        open_surrogate=lambda kind, options: _surrogate(kind, _frozen(options), None),
        judges=Judges(task["judges"], task["reference"]) if task["judges"] is not None else None,
        earlier={
            bucket: [(name, Structure.from_dict(structure)) for name, structure in ones]
            for bucket, ones in task["earlier"].items()
        },
        seed=task["seed"],
        elements=tuple(task["elements"]),
    )
    outcomes = run_segment(items, [(kind, options) for kind, options in task["screens"]], context)
    return {"outcomes": [outcome.document() for outcome in outcomes]}


@timed
def score(task: Task) -> Result:
    """Let property heads and discriminators judge candidates.

    Args:
        task: `items` [{id, structure}], `judges` [{key, role, kind, checkpoint}], `reference` (path).

    Returns:
        `predictions`: id -> {name: {mean, std} or number}; heads of the formation energy also give
        `head_e_above_hull`, against the reference hull.
    """
    from pymatgen.core import Structure

    if not task["items"]:
        return {"predictions": {}}
    return judged(task, [Structure.from_dict(one["structure"]) for one in task["items"]])


def judged(task: Task, structures: Sequence[Structure]) -> Result:
    """Return what `score` does; its crystals are at hand."""
    from campaign.judging import Judges

    judges = Judges(task["judges"], task["reference"])
    predictions = judges.predictions(structures)
    probabilities = judges.first_probability(structures)
    if probabilities is not None:
        for one, probability in zip(predictions, probabilities, strict=True):
            one["stable_probability"] = float(probability)
    return {"predictions": {item["id"]: one for item, one in zip(task["items"], predictions, strict=True)}}


@timed
def build_label(task: Task) -> Result:
    """Build the jobflow flow of a label; see `flows.run.build_label`."""
    from flows.run import build_label as build

    return build(
        task["structure"], task["flow"], task["engine"], task["engine_options"], task["flow_options"]
    )


def run_job(task: Task) -> Result:
    """Run one job of a label; see `flows.run.run_job_once`."""
    from flows.job_limits import Limits
    from flows.run import run_job_once

    keep_private()
    limits = Limits(task["seconds"], task["memory_gb"])
    return run_job_once(task["job"], task["upstream"], task["work_dir"], cures=task["cures"], limits=limits)


@timed
def train(task: Task) -> Result:
    """Fit or fine-tune a model and hold it against its parent; see `campaign.training_task`, `.surrogate_task`."""
    if task["role"] == "surrogate":
        from campaign.surrogate_task import train_surrogate

        return train_surrogate(task)
    from campaign.training_task import train_model

    return train_model(task)


class _LazySurrogate:
    """Loads the surrogate at first use, once per worker: most segments need none."""

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named

    def __getattr__(self, name: str) -> Any:
        named = self._named
        surrogate = _surrogate(named["kind"], _frozen(named["options"]), named.get("checkpoint"))
        return getattr(surrogate, name)


def _frozen(options: Mapping[str, Any]) -> str:
    import json

    return json.dumps(options, sort_keys=True)


@lru_cache(maxsize=3)
def _surrogate(kind: str, options: str, checkpoint: str | None) -> Any:
    import json

    from campaign.surrogate_task import load_surrogate

    return load_surrogate({"kind": kind, "options": json.loads(options), "checkpoint": checkpoint})
