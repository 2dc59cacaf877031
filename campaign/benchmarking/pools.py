"""The workers of a retrospective campaign: this process, with an oracle in the place of the label engine.

The driver, its plan, its documents and its order of writes are those of any campaign. Tasks run here when they are
submitted, one after the other, so that nothing waits and nothing depends on timing. Three kinds of task are answered
from what was worked out before: sampling from a known pool, screens that say the same in every campaign, and labels.
All others are the campaign's own functions.
"""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaign import tasks
from campaign.benchmarking.oracles import Oracle
from campaign.benchmarking.pool_data import load_pool
from campaign.benchmarking.screened import known_outcomes, screen_key
from campaign.documents import now
from campaign.parallel.pooling import Block

if TYPE_CHECKING:
    from campaign.benchmarking.pool_data import KnownPool

Document = dict[str, Any]

NAMESPACE = uuid.UUID("3c3f6f0e-5f2d-5c0b-8e7a-52b0c1a7d9e4")
"""Namespace of the uuids of the oracle's jobs."""


@dataclass(frozen=True)
class Known:
    """A prepared pool, and what goes with it."""

    place: Path
    """Its folder."""
    predictions: Path | None = None
    """File that answers in the place of the surrogate."""

    @property
    def pool(self) -> KnownPool:
        """The pool; read once per process."""
        return load_pool(self.place)


class OraclePools:
    """Pools of one campaign.

    Args:
        oracle: Answers for the label engine.
        labels_at_once: Labels that may run at a time.
        known: The pool that candidates come from, if they do.
        surrogate: As orders name it, see `screened.surrogate_name`.
        tells_truth: (candidate id, structure) -> what screens write to `predictions.oracle`, for the policy `oracle`.
        candidates: Ids of the candidates of the pool that this campaign has; None: all.
    """

    def __init__(
        self,
        oracle: Oracle,
        labels_at_once: int,
        *,
        known: Known | None = None,
        surrogate: Mapping[str, Any] | None = None,
        tells_truth: Callable[[str, Mapping[str, Any]], float | None] | None = None,
        candidates: AbstractSet[str] | None = None,
    ) -> None:
        self.slots: Mapping[str, int] = {"gpu": 1, "cpu": labels_at_once, "dft": labels_at_once}
        self._oracle, self._known, self._surrogate = oracle, known, surrogate
        self._truth, self._drawn = tells_truth, candidates
        self._functions: dict[Any, Callable[[Document], Document]] = {
            tasks.screen: self._screen,
            tasks.score: self._score,
            tasks.build_label: self._build_label,
            tasks.run_job: self._run_job,
        }
        if known is not None:
            self._functions[tasks.sample] = self._sample

    def submit(
        self,
        pool: str,  # noqa: ARG002
        function: Callable[..., Any],
        /,
        *args: Any,
        expected_s: float | None = None,  # noqa: ARG002
    ) -> Future[Any]:
        """Do a task now."""
        future: Future[Any] = Future()
        try:
            begin = time.perf_counter()
            task: Callable[..., Any] = self._functions.get(function, function)
            result = task(*args)
            future.set_result({"seconds": time.perf_counter() - begin, **result})
        except Exception as error:  # the driver decides, as about a worker's
            future.set_exception(error)
        return future

    def blocks(self) -> list[Block]:
        """Return one block for this process; it has no marker, for it ends with the driver."""
        return [Block("all", "0", str(os.getpid()), "local", platform.node(), "")]

    def close(self, cancel: bool) -> None:
        """Do nothing: nothing is under way."""

    def _sample(self, order: Document) -> Document:
        """Propose the whole pool; the driver keeps those that it does not have yet."""
        candidates = self._known.pool.candidates if self._known is not None else []
        drawn = [one for one in candidates if self._drawn is None or one["id"] in self._drawn]
        return {"candidates": [one for one in drawn if _allowed(one, order["conditions"])]}

    def _screen(self, order: Document) -> Document:
        known = None
        if self._known is not None and self._surrogate is not None and order["judges"] is None:
            order = {**order, "surrogate": self._surrogate}
            known = known_outcomes(self._known.place, screen_key(order))
        told = None if known is None else {"outcomes": [known[item["id"]] for item in order["items"]]}
        result = told or tasks.screen(order)
        if self._truth is None:
            return result
        by_id = {item["id"]: item["structure"] for item in order["items"]}
        outcomes = []
        for one in result["outcomes"]:
            truth = self._truth(one["candidate_id"], by_id[one["candidate_id"]])
            outcomes.append({**one, "values": {**one["values"], "oracle": truth}})
        return {**result, "outcomes": outcomes}

    def _score(self, order: Document) -> Document:
        """Judge crystals; those of a pool are the same objects each time, for models that remember them."""
        if self._known is None:
            return tasks.score(order)
        structures = self._known.pool.structures
        if not all(item["id"] in structures for item in order["items"]):
            return tasks.score(order)
        return tasks.judged(order, [structures[item["id"]] for item in order["items"]])

    def _build_label(self, order: Document) -> Document:
        """Return a flow of one job, which the oracle answers."""
        import orjson

        text = orjson.dumps([order["structure"], order["engine_options"]], option=orjson.OPT_SORT_KEYS)
        name = str(uuid.uuid5(NAMESPACE, text.decode()))
        job = {"structure": order["structure"], "engine": order["engine"], "flow": order["flow"]}
        record = {
            "uuid": name,
            "index": 1,
            "name": "oracle",
            "parents": [],
            "runs_without": False,
            "job": job,
        }
        return {"jobs": [record], "output_uuid": name}

    def _run_job(self, order: Document) -> Document:
        job, about, when = order["job"], order["about"], now()
        found = self._oracle.answer(about["candidate"], job["structure"])
        tried = {
            "wall_seconds": 0.0, "core_hours": 0.0, "host": platform.node(), "pid": os.getpid(), "cures": [],
            "folder": "", "started": when, "ended": when, "reused": False, "geometries": 0,
        }  # fmt: skip
        if isinstance(found, str):
            failure = {"cause": "bad_geometry", "message": found, "detail": "", "block_ended": False}
            return {"ok": False, "failure": failure, **tried}
        output = _label(job, found.structure, found.formation_energy_per_atom, about["formula"])
        document = {"uuid": about["job"], "index": about["index"], "output": output}
        done = {
            "ok": True,
            "docs": [document],
            "data": [],
            "new_jobs": [],
            "stop_children": False,
            "stop_flow": False,
        }
        return done | tried


def _label(job: Mapping[str, Any], structure: Document, energy_per_atom: float, formula: str) -> Document:
    """Return the label as engines write theirs (`flows.schemas.LabelDoc`)."""
    import numpy as np

    from flows.schemas import LabelDoc

    n_atoms = len(structure["sites"])
    volume = abs(float(np.linalg.det(structure["lattice"]["matrix"])))
    return LabelDoc(
        flow=job["flow"], engine=job["engine"], engine_version="oracle", fidelity="dft", settings={}, settings_hash="",
        structure=structure, formula=formula, n_atoms=n_atoms, energy=energy_per_atom * n_atoms,
        energy_per_atom=energy_per_atom, volume=volume, volume_per_atom=volume / n_atoms, spacegroup_before=0,
        spacegroup_after=0, converged=True, wall_seconds=0.0, core_hours=0.0,
    ).model_dump(mode="json")  # fmt: skip


def _allowed(described: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """Return whether a candidate keeps to a campaign's chemistry, as generators do (`models.data.Conditions`)."""
    symbols, (low, high) = described["chemsys"].split("-"), conditions["n_elements"]
    groups, formula = conditions.get("spacegroups"), conditions.get("formula")
    return (
        set(symbols) <= set(conditions["elements"])
        and low <= len(symbols) <= high
        and described["n_atoms"] <= conditions["max_atoms"]
        and (not groups or described["spacegroup"] in groups)
        and (not formula or described["formula"] == formula)
    )
