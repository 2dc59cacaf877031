"""What screens say about the crystals of a pool: asked once, and kept for all campaigns.

A screen that looks at candidates one by one, and asks neither heads nor discriminators, says the same in every round
of every campaign. Those that ask the surrogate are worth keeping: an energy takes longer than all else of a campaign.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from campaign.benchmarking.parallel import mapped
from campaign.benchmarking.pool_data import load_pool, write_json
from campaign.components import spec_of
from campaign.config import CampaignConfig
from campaign.errors import ConfigError, ReferenceDataError
from campaign.orders import current_structure
from campaign.plan import Segment

CHUNK = 96
"""Crystals of one task."""

Outcomes = dict[str, dict[str, Any]]
"""Candidate id -> outcome document of a segment (`campaign.screens.funnel.Outcome`)."""


def screen_key(order: Mapping[str, Any]) -> str:
    """Return what decides a segment's outcome for a given crystal, hashed; see `campaign.tasks.screen`."""
    parts = [order["screens"], order["surrogate"], sorted(order["exclude"]), sorted(order["elements"])]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def screen_pool(
    place: Path, reference: Path, configs: Iterable[CampaignConfig], workers: int, predictions: Path | None
) -> None:
    """Apply the screens of campaigns that ask the surrogate to a pool, unless that was done.

    Args:
        place: The prepared pool.
        reference: The prepared reference.
        configs: The campaigns.
        workers: Processes.
        predictions: A file that answers in the place of the surrogate.

    Raises:
        ConfigError: Other screens than `e_above_hull` would have to be answered by the file.
        ReferenceDataError: The file of predictions cannot be read.
    """
    orders = {}
    for config in configs:
        for segment in spec_of(config).segments:
            if _is_kept(segment):
                order = _order(config, segment, reference, predictions)
                orders[screen_key(order)] = order
    for key, order in orders.items():
        if predictions is not None:
            _answer_from(predictions, place, key, order)
        else:
            _ask(place, key, order, workers)


@functools.lru_cache(maxsize=8)
def known_outcomes(place: Path, key: str) -> Outcomes | None:
    """Return what a segment said about the crystals of a pool; None where it was not asked."""
    file = _file(place, key)
    if not file.is_file():
        return None
    return {one["candidate_id"]: one for one in orjson.loads(file.read_bytes())}


def surrogate_name(config: CampaignConfig, predictions: Path | None) -> dict[str, Any]:
    """Return the surrogate of a campaign as orders name it; a file of predictions goes by its content."""
    if predictions is None:
        return config.surrogate.model_dump(mode="json")
    from campaign.references.catalogue import file_sha256

    return {"kind": "file", "options": {"sha256": file_sha256(predictions)}}


def screens_with_surrogate(screens: Iterable[tuple[str, Mapping[str, object]]]) -> list[str]:
    """Return those of the screens that ask the surrogate."""
    from campaign.screens.funnel import resolve_screen

    return [kind for kind, _ in screens if resolve_screen(kind).needs_surrogate]


def _is_kept(segment: Segment) -> bool:
    alone = not segment.campaign_scope and not segment.needs_judges
    return alone and bool(screens_with_surrogate(segment.screens))


def _order(
    config: CampaignConfig, segment: Segment, reference: Path, predictions: Path | None
) -> dict[str, Any]:
    """Return a screening order without crystals; see `campaign.orders`."""
    return {
        "screens": [[kind, dict(options)] for kind, options in segment.screens],
        "surrogate": surrogate_name(config, predictions),
        "judges": None,
        "reference": str(reference),
        "exclude": list(config.reference.exclude),
        "earlier": {},
        "seed": 0,
        "elements": list(config.chemistry.elements),
    }


def _file(place: Path, key: str) -> Path:
    return place / f"screened-{key}.json"


def _ask(place: Path, key: str, order: Mapping[str, Any], workers: int) -> None:
    """Screen the pool in chunks that are kept one by one: energies of thousands of crystals take a while."""
    if _file(place, key).is_file():
        return
    parts = place / f"screened-{key}"
    parts.mkdir(exist_ok=True)
    candidates = load_pool(place).candidates
    chunks = [candidates[start : start + CHUNK] for start in range(0, len(candidates), CHUNK)]
    tasks = [
        {
            "file": str(parts / f"{number:05d}.json"),
            "order": {
                **order,
                "items": [
                    {"id": one["id"], "structure": current_structure(one), "values": {}} for one in chunk
                ],
            },
        }
        for number, chunk in enumerate(chunks)
    ]
    missing = [task for task in tasks if not Path(str(task["file"])).is_file()]
    for _ in mapped(_screen_chunk, missing, workers, f"screens {key}"):
        pass
    found = [one for task in tasks for one in orjson.loads(Path(str(task["file"])).read_bytes())]
    write_json(_file(place, key), found)


def _screen_chunk(task: Mapping[str, Any]) -> None:
    """Screen some crystals and keep the outcomes in a file; on a worker."""
    from campaign.tasks import screen

    write_json(Path(task["file"]), screen(task["order"])["outcomes"])


def _answer_from(predictions: Path, place: Path, key: str, order: Mapping[str, Any]) -> None:
    """Let a file of predictions say what the screen `e_above_hull` would."""
    kinds = [kind for kind, _ in order["screens"]]
    if kinds != ["e_above_hull"]:
        raise ConfigError(
            "a file of predictions answers for the screen e_above_hull alone",
            value=kinds,
            cure="leave the others out, or set predictions: surrogate",
        )
    if _file(place, key).is_file():
        return
    from campaign.screens.energy import EAboveHullOptions

    limits, pool = EAboveHullOptions(**order["screens"][0][1]), load_pool(place)
    known = _predicted(predictions)
    outcomes = []
    for one in pool.candidates:
        above = known.get(pool.source_ids[one["id"]])
        passed = above is not None and limits.min_ev_per_atom <= above <= limits.max_ev_per_atom
        reason = None if passed else "the file holds no prediction" if above is None else "outside the window"
        values = {} if above is None else {"e_above_hull": above, "surrogate": predictions.name}
        outcomes.append(
            {
                "candidate_id": one["id"],
                "passed": passed,
                "rejected_by": None if passed else "e_above_hull",
                "reason": reason,
                "values": values,
                "structure": None,
                "seconds": {},
            }
        )
    write_json(_file(place, key), outcomes)


def _predicted(file: Path) -> dict[str, float]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(file, columns=["material_id", "e_above_hull"]).to_pylist()
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ReferenceDataError(
            f"the file of predictions cannot be read ({error})",
            value=str(file),
            allowed="a Parquet file with the columns material_id and e_above_hull",
        ) from error
    return {
        str(row["material_id"]): float(row["e_above_hull"]) for row in rows if row["e_above_hull"] is not None
    }
