"""Frames of labels: what their calculations went through, read from the store as plain documents.

A frame is a geometry with energy, forces and stress as the engine found them. Energies are put on the scale of the
reference hull, as `campaign.training_task` does it for heads: the last geometry of a label lies as far above the
reference hull as DFT says that it lies above the engine's, and the others lie relative to it as the engine found
them. So another zero of energy, other pseudopotentials or coarse settings are not learned as chemistry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from campaign.store import CampaignStore

SAME_EV_PER_ATOM = 2e-4
"""Frames of one label whose energies differ by less are near-duplicates if their forces are alike as well."""

SAME_EV_PER_ANG = 0.02
"""Largest difference between forces of near-duplicates [eV/Å]."""

Document = dict[str, Any]


def label_frames(store: CampaignStore, labels: Sequence[Mapping[str, Any]], per_label: int) -> list[Document]:
    """Return frames of finished labels, in the order of the labels and of their calculations.

    Args:
        store: The campaign's.
        labels: With `_id`, `jobs`, `round` and `result.steps`.
        per_label: Most frames of one label: the last, the first, and evenly spaced ones in between.

    Returns:
        For each frame `label`, `round`, `numbers` (n_atoms,), `lattice_ang` (3, 3), `cart_coords_ang` (n_atoms, 3),
        `energy_ev_per_atom` relative to the label's own energy, `forces_ev_per_ang` (n_atoms, 3) or None, and
        `stress_gpa` (3, 3), negative when compressed, or None. A label that kept no trajectory gives none.
    """
    frames: list[Document] = []
    for label in labels:
        found = _relative(list(_trajectories(store, label)))
        about = {"label": label["_id"], "round": label["round"]}
        frames += [{**about, **one} for one in thinned(found, per_label)]
    return frames


def thinned(frames: Sequence[Document], most: int) -> list[Document]:
    """Return the last frame, the first, and evenly spaced ones between them, near-duplicates dropped. Pure."""
    from flows.trajectory import spread_out

    distinct: list[Document] = []
    for one in reversed(frames):  # the last is the best converged, so of two alike the later one stays
        twin = next((place for place, other in enumerate(distinct) if _alike(one, other)), None)
        if twin is None:
            distinct.append(one)
        elif distinct[twin]["stress_gpa"] is None:  # a static does without the stress that the relaxation has
            distinct[twin] = {**distinct[twin], "stress_gpa": one["stress_gpa"]}
    distinct.reverse()
    return [distinct[place] for place in spread_out(len(distinct), most)]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if abs(one["energy_ev_per_atom"] - other["energy_ev_per_atom"]) > SAME_EV_PER_ATOM:
        return False
    mine, theirs = one["forces_ev_per_ang"], other["forces_ev_per_ang"]
    if mine is None or theirs is None:
        return True  # without its forces a frame of the same energy says nothing more
    pairs = zip(_flat(mine), _flat(theirs), strict=True)
    return all(abs(a - b) <= SAME_EV_PER_ANG for a, b in pairs)


def _flat(rows: Iterable[Iterable[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _trajectories(store: CampaignStore, label: Mapping[str, Any]) -> Iterable[Document]:
    """Yield the trajectories of a label's calculations in order; displaced or strained cells are none of these."""
    from flows.trajectory import trajectory_of

    uuids = [job["uuid"] for job in label["jobs"]]
    outputs = {(one["uuid"], one["index"]): one for one in store.query("jobs", {"uuid": {"$in": uuids}})}
    blobs: dict[tuple[str, int], list[Document]] = {}
    for blob in store.query("data", {"job_uuid": {"$in": uuids}}):
        blobs.setdefault((blob["job_uuid"], blob["job_index"]), []).append(blob)
    wanted = [step["name"] for step in (label.get("result") or {}).get("steps") or []]
    for job in label["jobs"]:
        if not wanted or job["name"] != wanted[0]:
            continue
        del wanted[0]
        key = (job["uuid"], job["index"])
        output = (outputs.get(key) or {}).get("output")
        found = trajectory_of(output, blobs.get(key, [])) if isinstance(output, Mapping) else None
        if found is not None:
            yield found


def _relative(trajectories: Sequence[Document]) -> list[Document]:
    """Return frames with energies relative to the last one of all [eV/atom]. Pure.

    Calculations follow one another, each beginning where the one before ended, with a basis of its own: where they
    meet, their energies are set equal, so that a change of basis is not taken for a slope.
    """
    frames: list[Document] = []
    joint = 0.0  # energy of the geometry in which the calculation that was read last, and comes next, began
    for one in reversed(trajectories):
        energies = one["energies_ev"]
        n_atoms = len(one["numbers"])
        levels = [joint + (energy - energies[-1]) / n_atoms for energy in energies]
        frames = [_frame(one, place, level) for place, level in enumerate(levels)] + frames
        joint = levels[0]
    return frames


def _frame(trajectory: Mapping[str, Any], place: int, energy_ev_per_atom: float) -> Document:
    forces, stresses = trajectory["forces_ev_per_ang"], trajectory["stresses_gpa"]
    return {
        "numbers": trajectory["numbers"],
        "lattice_ang": trajectory["lattices_ang"][place],
        "cart_coords_ang": trajectory["cart_coords_ang"][place],
        "energy_ev_per_atom": energy_ev_per_atom,
        "forces_ev_per_ang": None if forces is None else forces[place],
        "stress_gpa": None if stresses is None else stresses[place],
    }
