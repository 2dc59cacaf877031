"""Small components, named in test campaigns by their import path as a user's own would be.

They are real components: the generator makes crystals, the head learns a number per element, the calculator
computes energies and forces. They are only much faster than the shipped ones.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from pydantic import BaseModel, ConfigDict
from pymatgen.core import Lattice, Structure

from flows.job_context import job_folder
from models.data import Conditions, LabelledStructure
from models.heads.base import Prediction
from models.surrogates.base import Relaxed


class NoOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def face_centred(length: float) -> Lattice:
    """Return the primitive cell of a face-centred cubic lattice."""
    return Lattice(length / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))


class BinaryGenerator:
    """Binary crystals in four simple types, at random lattice parameters; learns which elements did well."""

    Config: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, config: NoOptions | None = None) -> None:
        self.config = config or NoOptions()
        self.liked: dict[str, float] = {}

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:
        self.liked = {}

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        random = np.random.default_rng(seed)
        made = []
        for _ in range(n):
            a, b = random.choice(sorted(conditions.elements), size=2, replace=False)
            length = float(random.uniform(0.95, 1.15))
            kind = random.integers(4)
            half = [[0, 0, 0], [0.5, 0.5, 0.5]]
            if kind == 0:
                made.append(Structure(Lattice.cubic(3.6 * length), [a, b], half))
            elif kind == 1:
                made.append(Structure(face_centred(6.0 * length), [a, b], half))
            elif kind == 2:
                made.append(Structure(face_centred(6.4 * length), [a, b], [[0, 0, 0], [0.25, 0.25, 0.25]]))
            else:
                made.append(Structure(Lattice.tetragonal(3.3 * length, 4.2 * length), [a, b], half))
        return made

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> None:
        for one in labelled:
            self.liked[one.structure.composition.reduced_formula] = float(
                one.properties["e_above_hull"] or 0.0
            )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "liked.json").write_text(json.dumps(self.liked))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        found = cls()
        found.liked = json.loads((Path(folder) / "liked.json").read_text())
        return found


class DeviceGenerator(BinaryGenerator):
    """Writes down which devices its process was given; takes long enough for every worker to get a batch."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        about = {"pid": os.getpid(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        with Path(os.environ["DEVICE_LOG"]).open("a", encoding="utf-8") as log:
            log.write(json.dumps(about) + "\n")
        time.sleep(1.0)
        return super().sample(n, conditions, seed)


class LooseGenerator(BinaryGenerator):
    """The same crystals at eight times their volume: hardly bound, so that none is stable."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        made = super().sample(n, conditions, seed)
        for structure in made:
            structure.scale_lattice(8 * structure.volume)
        return made


class NarrowingGenerator(BinaryGenerator):
    """Once it has learned, it makes nothing but one formula."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        made = super().sample(n, conditions, seed)
        for structure in made if self.liked else ():
            structure.replace(0, sorted(conditions.elements)[0])
            structure.replace(1, sorted(conditions.elements)[1])
        return made


class StuckGenerator(BinaryGenerator):
    """Once it has learned, it makes the same crystals whatever the seed."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        return super().sample(n, conditions, 0 if self.liked else seed)


class RepeatingGenerator(BinaryGenerator):
    """Always the same few crystals."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        few = super().sample(3, conditions, 0)
        return [few[place % len(few)].copy() for place in range(n)]


class ElementHead:
    """Least-squares formation energy per element; its residual is the standard deviation."""

    Config: ClassVar[type[NoOptions]] = NoOptions
    properties = ("formation_energy_per_atom",)

    def __init__(self, config: NoOptions | None = None) -> None:
        self.weights = np.zeros(120)
        self.std = 1.0

    def fit(
        self, train: Sequence[LabelledStructure], valid: Sequence[LabelledStructure], seed: int
    ) -> dict[str, float]:
        known = [one for one in [*train, *valid] if one.properties.get(self.properties[0]) is not None]
        rows = np.array([self._fractions(one.structure) for one in known])
        truth = np.array([one.properties[self.properties[0]] for one in known], dtype=float)
        self.weights = np.linalg.lstsq(rows, truth, rcond=1e-6)[0]
        self.std = float(np.std(rows @ self.weights - truth)) + 0.01
        return {"n_train": float(len(known))}

    def predict(self, structures: Sequence[Structure]) -> Prediction:
        mean = np.array([self._fractions(one) @ self.weights for one in structures])[:, None]
        return Prediction(mean, np.full_like(mean, self.std))

    def evaluate(self, labelled: Sequence[LabelledStructure]) -> dict[str, float]:
        known = [one for one in labelled if one.properties.get(self.properties[0]) is not None]
        if not known:
            return {}
        found = self.predict([one.structure for one in known]).mean[:, 0]
        return {
            "mae": float(
                np.mean(
                    [abs(x - one.properties[self.properties[0]]) for x, one in zip(found, known, strict=True)]
                )
            )
        }

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> dict[str, float]:
        return self.fit([*labelled, *replay], [], seed)

    @staticmethod
    def _fractions(structure: Structure) -> np.ndarray:
        row = np.zeros(120)
        for element, fraction in structure.composition.fractional_composition.items():
            row[element.Z] = fraction
        return row

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.json").write_text(json.dumps({"weights": self.weights.tolist(), "std": self.std}))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        found = cls()
        stored = json.loads((Path(folder) / "weights.json").read_text())
        found.weights, found.std = np.array(stored["weights"]), stored["std"]
        return found


class CountingLennardJones(LennardJones):
    """Lennard-Jones that writes a line to a file whenever it is built, that is once per execution of a job."""

    def __init__(self, log: str, sleep_s: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**{"sigma": 2.5, "epsilon": 0.3, "rc": 6.0, "smooth": True, **kwargs})
        self._sleep_s = sleep_s
        note_execution(log)

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(self._sleep_s)
        super().calculate(*args, **kwargs)


class CountingEMT(EMT):
    """Effective medium theory of metals that writes a line whenever it is built, and takes its time."""

    def __init__(self, log: str, sleep_s: float = 0.0) -> None:
        super().__init__()
        self._sleep_s = sleep_s
        note_execution(log)

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(self._sleep_s)
        super().calculate(*args, **kwargs)


def note_execution(log: str) -> None:
    """Append which job began, in which process and when: one write, whole even if many write at once."""
    about = {"folder": str(job_folder()), "pid": os.getpid(), "time": time.time()}
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(handle, (json.dumps(about) + "\n").encode())
    os.close(handle)


class Fragile(CountingLennardJones):
    """Fails on every compound that holds magnesium."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        symbols = set(self.atoms.get_chemical_symbols())
        if "Mg" in symbols and len(symbols) > 1 and os.environ.get("FRAGILE", "1") == "1":
            raise RuntimeError("magnesium is too much")


class FragileElement(CountingLennardJones):
    """Fails on the element magnesium."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        if set(self.atoms.get_chemical_symbols()) == {"Mg"} and os.environ.get("FRAGILE", "1") == "1":
            raise RuntimeError("magnesium is too much")


class PerovskiteTrials:
    """Cubic perovskites of the formula that is asked, several trials of each of its two genes."""

    Config: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, config: NoOptions | None = None) -> None:
        self.config = config or NoOptions()

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:
        self.seen = sorted({one.structure.composition.reduced_formula for one in train})

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        random = np.random.default_rng(seed)
        amounts = conditions.amounts()
        centre = next(symbol for symbol, amount in amounts.items() if amount == 3)
        pair = sorted(symbol for symbol in amounts if symbol != centre)
        sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        made = []
        for trial in range(n):
            corner, middle = pair if trial % 2 else pair[::-1]
            gene = "|".join(["221", *sorted([f"{corner}:a", f"{middle}:b", f"{centre}:c"])])
            properties = {"gene": gene, "spacegroup": 221, "dof": 0, "trial": trial // 2}
            lattice = Lattice.cubic(float(random.uniform(3.6, 4.2)))
            made.append(Structure(lattice, [corner, middle, *[centre] * 3], sites, properties=properties))
        return [one for one in made if conditions.allows(one)]

    def fine_tune(
        self, labelled: Sequence[LabelledStructure], replay: Sequence[LabelledStructure], seed: int
    ) -> None:
        self.fit([*labelled, *replay], seed)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "seen.json").write_text(json.dumps(self.seen))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        found = cls()
        found.seen = json.loads((Path(folder) / "seen.json").read_text())
        return found


class StillSurrogate:
    """Lennard-Jones energies; its relaxation moves nothing."""

    Config: ClassVar[type[NoOptions]] = NoOptions
    version = "still"

    def __init__(self, config: NoOptions | None = None) -> None:
        self.config = config or NoOptions()

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        found = []
        for structure in structures:
            atoms = structure.to_ase_atoms()
            atoms.calc = LennardJones(sigma=1.7, epsilon=0.3, rc=6.0, smooth=True)
            found.append(atoms.get_potential_energy() / len(atoms))
        return np.array(found)

    def relax(self, structures: Sequence[Structure], **_: Any) -> list[Relaxed]:
        numbers = [structure.get_space_group_info(0.1)[1] for structure in structures]
        energies = self.energies(structures).tolist()
        return [
            Relaxed(structure.copy(), energy, 0.0, True, 1, number, number)
            for structure, energy, number in zip(structures, energies, numbers, strict=True)
        ]

    def element_energy(self, symbol: str) -> float:
        return 0.0

    def formation_energies(
        self, structures: Sequence[Structure], energies: Sequence[float] | None = None
    ) -> np.ndarray:
        return self.energies(structures) if energies is None else np.asarray(energies, dtype=float)


class Breaking(LennardJones):
    """Has too little memory for any crystal."""

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        raise MemoryError("Unable to allocate 80 GiB")
