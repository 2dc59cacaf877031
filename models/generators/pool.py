"""Generator `pool`: proposes given crystals, each once: those of a file, or those that it was fitted on.

For lists of candidates that somebody else has made, and for retrospective campaigns. It learns nothing; what it reads
of a file is the crystals alone, and no other column.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.data import Conditions, LabelledStructure
from models.errors import CheckpointError, NotFittedError, TrainingDataError

if TYPE_CHECKING:
    from pymatgen.core import Structure

COLUMNS = ("lattice", "atomic_numbers", "frac_coords")
"""Columns of a Parquet file: 9 numbers, rows a, b, c [Å]; n atomic numbers; 3n fractional coordinates."""

KIND = "generator/pool"


class PoolConfig(BaseModel):
    """Options of the generator `pool`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path | None = Field(
        None,
        description="Absolute path of a Parquet file with the columns lattice, atomic_numbers and frac_coords; the "
        "crystals of the reference when left out.",
    )

    @field_validator("file")
    @classmethod
    def _from_anywhere(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("give the absolute path: the generator works in other folders")
        return value


class PoolGenerator:
    """Crystals in a random order, those that keep to the conditions."""

    Config: ClassVar[type[PoolConfig]] = PoolConfig

    def __init__(self, config: PoolConfig | None = None) -> None:
        self.config = config or PoolConfig()
        self._crystals: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:  # noqa: ARG002
        """Read the file; without one, keep the crystals of `train`.

        Raises:
            TrainingDataError: There are no crystals, or the file cannot be read.
        """
        if not train:
            raise TrainingDataError("no crystals to fit on", cure="give reference crystals")
        found = _read(self.config.file) if self.config.file else [_arrays(one.structure) for one in train]
        if not found:
            raise TrainingDataError("the pool holds no crystals", value=str(self.config.file))
        self._crystals = found

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        """Propose at most `n` crystals of the pool, in an order that the seed decides.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        crystals, found = self._fitted(), list[Any]()
        for place in np.random.default_rng(seed).permutation(len(crystals)):
            if len(found) == n:
                break
            structure = _structure(*crystals[place])
            if conditions.allows(structure):
                found.append(structure)
        return found

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> None:
        """Learn nothing: the pool stays what it is."""

    def save(self, folder: Path) -> None:
        """Write the crystals themselves: the file is not needed again.

        Raises:
            NotFittedError: Before `fit` or `load`.
            CheckpointError: The folder cannot be written.
        """
        import torch

        from models.checkpoint import save_checkpoint

        crystals = self._fitted()
        weights = {
            "lattice": torch.from_numpy(np.stack([one[0] for one in crystals])),  # (n_crystals, 3, 3)
            "atomic_numbers": torch.from_numpy(np.concatenate([one[1] for one in crystals])),  # (n_atoms,)
            "frac_coords": torch.from_numpy(np.concatenate([one[2] for one in crystals])),  # (n_atoms, 3)
            "sizes": torch.tensor([len(one[1]) for one in crystals]),  # (n_crystals,)
        }
        save_checkpoint(Path(folder), KIND, self.config.model_dump(mode="json"), {}, weights)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:  # noqa: ARG003
        """Read what `save` wrote.

        Raises:
            CheckpointError: Missing, damaged, of another kind or of a newer format.
        """
        from models.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(Path(folder), KIND)
        try:
            arrays = {name: checkpoint.weights[name].numpy() for name in (*COLUMNS, "sizes")}
            generator = cls(PoolConfig(**checkpoint.config))
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{folder} holds no pool of crystals", value=str(error)) from error
        ends = np.cumsum(arrays["sizes"])[:-1]
        numbers, coords = np.split(arrays["atomic_numbers"], ends), np.split(arrays["frac_coords"], ends)
        generator._crystals = list(zip(arrays["lattice"], numbers, coords, strict=True))
        return generator

    def _fitted(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        if self._crystals is None:
            raise NotFittedError("the pool is empty yet", cure="call fit or load first")
        return self._crystals


def _read(file: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return lattice (3, 3), atomic numbers (n,) and fractional coordinates (n, 3) of each row of a file."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        rows = parquet.read_table(file, columns=list(COLUMNS)).to_pylist()
        return [
            (
                np.array(row["lattice"], dtype=np.float64).reshape(3, 3),
                np.array(row["atomic_numbers"], dtype=np.int64),
                np.array(row["frac_coords"], dtype=np.float64).reshape(-1, 3),
            )
            for row in rows
        ]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingDataError(
            f"the file of the pool cannot be read ({error})",
            value=str(file),
            allowed=f"a Parquet file with the columns {', '.join(COLUMNS)}",
            cure="correct the path or the columns",
        ) from error


def _arrays(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    return np.array(structure.lattice.matrix), numbers, np.array(structure.frac_coords)


def _structure(lattice: np.ndarray, numbers: np.ndarray, coords: np.ndarray) -> Structure:
    from pymatgen.core import Element, Lattice, Structure

    return Structure(Lattice(lattice), [Element.from_Z(int(z)) for z in numbers], coords)
