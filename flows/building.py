"""From a structure and names to a flow whose jobs are plain records."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from flows.errors import LabelFlowError, LabelInputError
from flows.registry import ENGINES, LABEL_FLOWS, build

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jobflow import Flow, Job
    from pymatgen.core import Structure

LABEL_NAMESPACE = uuid.UUID("6f6b1b4e-6a0f-5f0e-9a55-0d3c1f0a7c11")
"""Namespace of the uuids of label jobs."""


def settings_of(
    flow: str, engine: str, engine_options: dict[str, Any], flow_options: dict[str, Any]
) -> dict[str, Any]:
    """Return what decides the meaning of a label: never cores, commands, folders or numbers of tries.

    Raises:
        FlowsError: The flow or engine is unknown or mis-optioned, or the engine cannot do what the flow needs.
    """
    maker = build(flow, LABEL_FLOWS, "label flow", flow_options)
    found = build(engine, ENGINES, "engine", engine_options)
    if hasattr(maker, "refuse"):  # before a campaign begins rather than when its first label does
        maker.refuse(found, engine)
    return {
        "flow": flow,
        "flow_options": maker.config.model_dump(mode="json"),
        "engine": engine,
        "engine_settings": found.settings(),
    }


def settings_hash(settings: dict[str, Any]) -> str:
    """Return a short hash of settings; the order of keys does not matter."""
    return _digest(settings)[:16]


def build_label(
    structure: dict[str, Any],
    flow: str,
    engine: str,
    engine_options: dict[str, Any],
    flow_options: dict[str, Any],
) -> dict[str, Any]:
    """Build the flow of one label.

    The jobs' uuids follow from the structure and the settings, so that building the same label again gives the
    same jobs and finds what they have left in their folders.

    Args:
        structure: pymatgen dictionary of the structure to begin with.
        flow: Name or import path of a label flow.
        engine: Name or import path of an engine.
        engine_options: Options of the engine.
        flow_options: Options of the flow.

    Returns:
        `jobs` (records with uuid, index, name, parents and the job itself), `output_uuid`, `settings`,
        `settings_hash`.

    Raises:
        FlowsError: The flow or engine is unknown or mis-optioned, or the structure cannot be labelled.
    """
    settings = settings_of(flow, engine, engine_options, flow_options)
    maker = build(flow, LABEL_FLOWS, "label flow", flow_options)
    found = build(engine, ENGINES, "engine", engine_options)
    crystal = _crystal(structure, found.unsupported, engine)
    made = maker.make(crystal, found, settings)
    label = {"jobs": job_records(made), "output_uuid": made.output.uuid}
    label = _with_repeatable_uuids(label, _digest([crystal.as_dict(), settings]))
    return {**label, "settings": settings, "settings_hash": settings_hash(settings)}


def job_records(flow: Flow | Job | Sequence[Flow | Job]) -> list[dict[str, Any]]:
    """Return the jobs of a flow as plain records, parents first.

    Parents are all jobs whose output a job refers to and those it follows in a linear flow; `runs_without` says
    that the job also runs when a parent gave no output.

    Raises:
        LabelFlowError: Jobs wait for one another, or belong to several flows.
    """
    from jobflow import Job
    from jobflow.core.flow import get_flow
    from jobflow.core.reference import OnMissing
    from monty.json import MontyEncoder

    alone = isinstance(flow, Job)
    try:
        pairs = [(flow, [])] if alone else list(get_flow(flow, allow_external_references=True).iterflow())
    except ValueError as error:  # jobflow says so of circles, and of jobs that belong to another flow
        raise LabelFlowError(f"a flow cannot be run: {error}", cure="mend how the flow is built") from error
    return [
        {
            "uuid": job.uuid,
            "index": job.index,
            "name": job.name,
            "parents": sorted({*parents, *job.input_uuids} - {job.uuid}),
            "runs_without": job.config.on_missing_references != OnMissing.ERROR,
            "job": json.loads(json.dumps(job, cls=MontyEncoder)),
        }
        for job, parents in pairs
    ]


def _crystal(structure: dict[str, Any], unsupported: Any, engine: str) -> Structure:
    """Return the structure, or refuse what no engine, or not this one, computes."""
    from pymatgen.core import Structure

    try:
        crystal = Structure.from_dict(structure)
    except (KeyError, TypeError, ValueError) as error:
        raise LabelInputError(
            f"a label's structure cannot be read ({type(error).__name__}: {error})",
            cure="give the dictionary of a pymatgen Structure",
        ) from error
    if not crystal.is_ordered or len(crystal) == 0:
        raise LabelInputError(
            "a label needs an ordered structure with atoms",
            value=crystal.formula,
            cure="order its sites first",
        )
    missing = unsupported(sorted({site.specie.symbol for site in crystal}))
    if missing:
        raise LabelInputError(
            f"engine {engine} has no data for some elements",
            value=", ".join(missing),
            cure="leave these elements out of the chemistry, or choose another engine",
        )
    return crystal


def _with_repeatable_uuids(label: dict[str, Any], key: str) -> dict[str, Any]:
    """Give jobs, and the flows that host them, uuids that follow from `key` and their place."""
    hosts = [host for record in label["jobs"] for host in record["job"]["hosts"]]
    old = list(dict.fromkeys([record["uuid"] for record in label["jobs"]] + hosts))
    text = json.dumps(label)
    for place, name in enumerate(_longest_first(old)):
        text = text.replace(name, str(uuid.uuid5(LABEL_NAMESPACE, f"{key}:{place}")))
    renamed: dict[str, Any] = json.loads(text)
    for record in renamed["jobs"]:
        record["parents"].sort()
    return renamed


def _longest_first(names: Iterable[str]) -> list[str]:
    """Return names so that none is replaced within a longer one; equal lengths keep their order."""
    return sorted(names, key=len, reverse=True)


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()
