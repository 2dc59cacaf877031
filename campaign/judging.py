"""What property heads and discriminators say about crystals, on a worker.

Part of the door to `models` (see `campaign.tasks`), which scores candidates and answers screens with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from pymatgen.core import Structure

    from campaign.references.hull import ReferenceHull


class Judges:
    """Model versions that judge together; each is loaded when it is first asked.

    Args:
        named: {key, role, kind, checkpoint} of each, in the order of the configuration.
        reference: Path of the prepared reference, for the hull.
    """

    def __init__(self, named: Sequence[Mapping[str, Any]], reference: str) -> None:
        self._named = named
        self._reference = reference

    def predictions(self, structures: Sequence[Structure]) -> list[dict[str, Any]]:
        """Return {head_NAME: {mean, std}} of each crystal, of several heads for one property the first's.

        `head_e_above_hull` [eV/atom] is what a head says that names e_above_hull; where none does and the formation
        energy is known, it follows from that and the reference hull.
        """
        found: list[dict[str, Any]] = [{} for _ in structures]
        for model in self._models("head"):
            predicted = model.predict(structures)
            for row, one in enumerate(found):
                for column, name in enumerate(model.properties):
                    mean, std = float(predicted.mean[row, column]), float(predicted.std[row, column])
                    one.setdefault(f"head_{name}", {"mean": mean, "std": std})
        hull = (
            reference_hull(self._reference)
            if any("head_formation_energy_per_atom" in one for one in found)
            else None
        )
        for one, structure in zip(found, structures, strict=True):
            energy = one.get("head_formation_energy_per_atom")
            if energy is not None and hull is not None and "head_e_above_hull" not in one:
                above = hull.e_above_hull(structure.composition, energy["mean"])
                one["head_e_above_hull"] = {"mean": above, "std": energy["std"]}
        return found

    def first_probability(self, structures: Sequence[Structure]) -> np.ndarray | None:
        """Return the first discriminator's probabilities (n_crystals,), None if there is none."""
        model = next(self._models("discriminator"), None)
        return None if model is None else model.probability(structures)

    def stable_probability(self, structures: Sequence[Structure]) -> np.ndarray | None:
        """Return the mean probability over the discriminators (n_crystals,), None if there is none."""
        import numpy as np

        found = [model.probability(structures) for model in self._models("discriminator")]
        return np.mean(found, axis=0) if found else None

    def _models(self, role: str) -> Any:
        return (
            load_model(role, one["kind"], one["checkpoint"]) for one in self._named if one["role"] == role
        )


@lru_cache(maxsize=8)
def load_model(role: str, kind: str, checkpoint: str) -> Any:
    """Load a model version once per worker."""
    from campaign.training_task import model_class

    return model_class(role, kind).load(Path(checkpoint))


def reference_hull(reference: str) -> ReferenceHull:
    """Return the hull of a prepared reference; one per content of the file and process."""
    from campaign.references.catalogue import load_prepared
    from campaign.references.hull import hull_of

    return hull_of(load_prepared(Path(reference)))
