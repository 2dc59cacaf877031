"""From a structure and names to a flow whose jobs are plain records."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from flows.registry import ENGINES, LABEL_FLOWS, build

if TYPE_CHECKING:
    from jobflow import Flow, Job


def settings_of(
    flow: str, engine: str, engine_options: dict[str, Any], flow_options: dict[str, Any]
) -> dict[str, Any]:
    """Return what decides the meaning of a label: never cores, commands or folders.

    Raises:
        FlowsError: The flow or engine is unknown or mis-optioned.
    """
    maker = build(flow, LABEL_FLOWS, "label flow", flow_options)
    found = build(engine, ENGINES, "engine", engine_options)
    return {
        "flow": flow,
        "flow_options": maker.config.model_dump(mode="json"),
        "engine": engine,
        "engine_settings": found.settings(),
    }


def settings_hash(settings: dict[str, Any]) -> str:
    """Return a short hash of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def build_label(
    structure: dict[str, Any],
    flow: str,
    engine: str,
    engine_options: dict[str, Any],
    flow_options: dict[str, Any],
) -> dict[str, Any]:
    """Build the flow of one label.

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
        FlowsError: The flow or engine is unknown or mis-optioned.
    """
    from pymatgen.core import Structure

    settings = settings_of(flow, engine, engine_options, flow_options)
    maker = build(flow, LABEL_FLOWS, "label flow", flow_options)
    made = maker.make(
        Structure.from_dict(structure), build(engine, ENGINES, "engine", engine_options), settings
    )
    return {
        "jobs": job_records(made),
        "output_uuid": made.output.uuid,
        "settings": settings,
        "settings_hash": settings_hash(settings),
    }


def job_records(flow: Flow | Job) -> list[dict[str, Any]]:
    """Return the jobs of a flow as plain records, parents first."""
    from jobflow import Job
    from jobflow.core.flow import get_flow
    from monty.json import MontyEncoder

    jobs = [(flow, flow.input_uuids)] if isinstance(flow, Job) else list(get_flow(flow).iterflow())
    return [
        {
            "uuid": job.uuid,
            "index": job.index,
            "name": job.name,
            "parents": sorted(set(parents)),
            "job": json.loads(json.dumps(job, cls=MontyEncoder)),
        }
        for job, parents in jobs
    ]
