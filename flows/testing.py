"""The contract that every engine must pass, runnable by anybody.

Outsiders put this into a test of their own package:

    from flows.testing import check_engine
    check_engine("my_package.engine:MyEngine", {"an_option": 3}, element="Cu", lattice_ang=3.7)

A breach raises `ContractError`, which says what is wrong, what was got and what the contract allows. The project's
own tests run the same checks over `flows.registry`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.errors import ContractError, EngineOptionsError
from flows.graph import Key, key_of, runnable, with_new_jobs
from flows.registry import ENGINES, build, resolve
from flows.run import build_label, run_job_once, settings_hash, settings_of
from flows.schemas import FailureCause, LabelDoc

if TYPE_CHECKING:
    from pymatgen.core import Structure

SAME_ENERGY = 2e-3
"""Energies [eV/atom] of one crystal, told in two ways, may differ by this much."""


def check_engine(
    engine: str, options: Mapping[str, Any] | None = None, *, element: str = "Cu", lattice_ang: float = 3.7
) -> LabelDoc:
    """Check an engine: its options, its settings, its makers and its failures.

    Args:
        engine: Registered name, or «package.module:Class».
        options: Options that make it quick.
        element: An element that it computes.
        lattice_ang: Edge of the cubic cell of an fcc crystal of that element [Å], a few per cent off its best.

    Returns:
        The label of the relaxed fcc crystal.

    Raises:
        ContractError: The engine breaks the contract.
        FlowsError: There is no such engine, or the options given are wrong.
    """
    chosen = dict(options or {})
    check_options(engine, chosen)
    check_settings(engine, chosen)
    answer = build(engine, ENGINES, "engine", chosen).check()
    if not answer.ok:
        raise ContractError(f"the engine does not work here: {answer.what}", cure=answer.cure)
    with tempfile.TemporaryDirectory() as name:
        return check_labels(engine, chosen, fcc(element, lattice_ang), Path(name))


def check_options(engine: str, options: dict[str, Any]) -> None:
    """Check that options are frozen and that a misspelt one is refused."""
    cls = resolve(engine, ENGINES, "engine")
    config = cls.Config(**options)
    if not config.model_config.get("frozen"):
        raise ContractError("an engine's Config must be frozen", value=cls.Config.__name__)
    try:
        build(engine, ENGINES, "engine", {**options, "no_such_option": 1})
    except EngineOptionsError:
        return
    raise ContractError("an engine's Config must forbid what it does not know", value="no_such_option")


def check_settings(engine: str, options: dict[str, Any]) -> None:
    """Check that settings are plain, repeatable and free of what changes no energy."""
    first, second = (settings_of("relax_static", engine, options, {}) for _ in range(2))
    try:
        same = json.loads(json.dumps(first)) == second
    except TypeError as error:
        raise ContractError(f"settings must be plain JSON ({error})", value=first) from error
    if not same:
        raise ContractError(
            "settings must be plain JSON and the same every time", value=first, allowed=second
        )
    if "max_steps" in resolve(engine, ENGINES, "engine").Config.model_fields:
        more = settings_of("relax_static", engine, {**options, "max_steps": 977}, {})
        if settings_hash(more) != settings_hash(first):
            raise ContractError("the number of steps allowed is no setting: it changes no energy")


def check_labels(engine: str, options: dict[str, Any], crystal: Structure, folder: Path) -> LabelDoc:
    """Check what the makers give: a relaxed label, the same energy for the same crystal, typed failures."""
    before = sorted(os.listdir())  # noqa: PTH208
    start = label(crystal, "static", engine, options, folder)
    found = label(crystal, "relax_static", engine, options, folder)
    if not found.converged or found.energy_per_atom > start.energy_per_atom + SAME_ENERGY:
        raise ContractError(
            "a relaxation must end converged and not above where it began",
            value=(found.converged, found.energy_per_atom),
            allowed=f"at most {start.energy_per_atom} eV/atom",
        )
    if found.spacegroup_after != found.spacegroup_before:
        raise ContractError(
            "a relaxation with fixed symmetry must keep the space group",
            value=found.spacegroup_after,
            allowed=found.spacegroup_before,
        )
    other = label(_told_otherwise(crystal), "static", engine, options, folder)
    if abs(other.energy_per_atom - start.energy_per_atom) > SAME_ENERGY:
        raise ContractError(
            "an energy must not depend on the choice of cell and origin",
            value=other.energy_per_atom,
            allowed=start.energy_per_atom,
        )
    _check_refusal(engine, options, crystal, folder)
    if sorted(os.listdir()) != before:  # noqa: PTH208
        raise ContractError("an engine must write into the job's folder, not the working directory")
    return found


def _check_refusal(engine: str, options: dict[str, Any], crystal: Structure, folder: Path) -> None:
    on_top = crystal.copy()
    on_top.append(crystal[0].specie, crystal[0].frac_coords + 0.01)
    built = build_label(on_top.as_dict(), "static", engine, options, {})
    result = run_job_once(built["jobs"][0]["job"], [], str(folder / built["jobs"][0]["uuid"]))
    if result["ok"] or result["failure"]["cause"] != FailureCause.BAD_GEOMETRY:
        raise ContractError(
            "atoms on top of one another must be refused",
            value=result.get("failure"),
            allowed=FailureCause.BAD_GEOMETRY,
        )


def label(
    crystal: Structure, flow: str, engine: str, options: dict[str, Any], folder: Path, **flow_options: Any
) -> LabelDoc:
    """Compute a label here and now, job after job.

    Raises:
        ContractError: A job failed.
    """
    built = build_label(crystal.as_dict(), flow, engine, options, flow_options)
    records: list[dict[str, Any]] = built["jobs"]
    documents: dict[Key, list[dict[str, Any]]] = {}
    while ready := runnable(records, documents.keys(), frozenset()):
        record = next(one for one in records if key_of(one) == ready[0])
        result = run_job_once(
            record["job"],
            [one for some in documents.values() for one in some],
            str(folder.absolute() / f"{record['uuid']}-{record['index']}"),
        )
        if not result["ok"]:
            raise ContractError(f"job {record['name']} failed: {result['failure']['message']}")
        documents[key_of(record)] = result["docs"] + result["data"]
        records = with_new_jobs(records, record["uuid"], result["new_jobs"])
    outputs = [one for some in documents.values() for one in some if one.get("uuid") == built["output_uuid"]]
    found = LabelDoc(**outputs[-1]["output"])
    if found.settings != built["settings"] or found.settings_hash != built["settings_hash"]:
        raise ContractError("a label must carry the settings it was built with", value=found.settings)
    return found


def fcc(element: str, lattice_ang: float) -> Structure:
    """Return the primitive cell of an fcc crystal."""
    from pymatgen.core import Lattice, Structure

    edge = lattice_ang / 2
    cell = Lattice([[0, edge, edge], [edge, 0, edge], [edge, edge, 0]])
    return Structure(cell, [element], [[0, 0, 0]])


def _told_otherwise(crystal: Structure) -> Structure:
    """Return the same crystal with its lattice vectors in another order and another origin."""
    from pymatgen.core import Lattice, Structure

    order = [1, 2, 0]
    coords = (crystal.frac_coords[:, order] + [0.1, 0.2, 0.3]) % 1.0
    return Structure(Lattice(crystal.lattice.matrix[order]), crystal.species, coords)
