"""Generator `substitution`: known crystals with their elements exchanged by data-mined likelihood.

The control that every deep generator must beat. A reference crystal is a prototype; its elements are replaced
by the wanted ones in every assignment; each (prototype, assignment) pair has the likelihood that
`models.generators.ionic` gives it. Pairs are drawn without replacement with probability proportional to
likelihood^(1/temperature), through Gumbel noise: the order of `log p / temperature + noise` is such a draw.

A class of prototypes with many members is drawn as often as its members together say, but comes only once per
assignment and call. Crystals that are themselves in the reference are not given back. What the campaign has
labelled moves the odds of whole prototype classes: by exp(-energy above hull / scale), see `fine_tune`.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.data import E_ABOVE_HULL, Conditions, LabelledStructure
from models.errors import NotFittedError, TrainingDataError
from models.generators.assignments import atomic_numbers, choices_in_order, ordered_choices
from models.generators.ionic import N_ELEMENTS, ionic_table
from models.generators.prototypes import (
    Formula,
    PrototypeClass,
    Prototypes,
    classify,
    exchanged_structure,
    fingerprint,
    formula_of,
    label_of,
)
from models.lattices import fit_atomic_volumes

if TYPE_CHECKING:
    from pymatgen.core import Structure

KIND = "generator/substitution"
"""Kind of the checkpoints."""

MOST_LEARNT = 3.0
"""What labels say about one class changes its log-odds by at most this."""

FLOOR_HULL = 5.0
"""The penalty of a prototype far above its own hull stops at this many scales."""


class SubstitutionConfig(BaseModel):
    """Options of the generator `substitution`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(
        default=1.0,
        gt=0.0,
        description="1 draws by likelihood; above 1 dares more, below 1 keeps to the likeliest.",
    )
    hull_scale_ev_per_atom: float = Field(
        default=0.1,
        gt=0.0,
        description="A prototype, or a labelled class, this far above the hull [eV/atom] is e times less likely.",
    )
    exclude_known: bool = Field(
        default=True, description="Whether to leave out crystals that are in the reference already."
    )
    max_pairs: int = Field(
        default=2_000_000,
        gt=0,
        description="Largest number of (prototype, assignment) pairs weighed in one call; of more, a random part "
        "that changes with the seed.",
    )


@dataclass(frozen=True)
class _Pairs:
    """(prototype, assignment) pairs with the same number of elements, as two axes."""

    prototypes: np.ndarray
    """(n_prototypes,) indices."""
    assignments: np.ndarray
    """(n_assignments, n_elements) atomic numbers, in the order of each prototype's formula."""
    log_weight: np.ndarray
    """(n_prototypes, n_assignments); in a draw the weights of one number of elements sum to one."""


class SubstitutionGenerator:
    """Known crystals with their elements exchanged.

    Args:
        config: Options.
    """

    Config = SubstitutionConfig

    def __init__(self, config: SubstitutionConfig | None = None) -> None:
        self.config = config or SubstitutionConfig()
        self._prototypes: Prototypes | None = None
        self._formulas: list[Formula] = []
        self._rows: list[list[int]] = []
        self._volumes = np.zeros(N_ELEMENTS)
        self._by_formula: dict[Formula, list[int]] = {}
        self._classes: dict[int, PrototypeClass | None] = {}
        self._labels: dict[str, tuple[float, int]] = {}

    def fit(self, train: Sequence[LabelledStructure], seed: int) -> None:  # noqa: ARG002 - nothing random here
        """Take the reference crystals as prototypes.

        Raises:
            TrainingDataError: There is no ordered crystal among them.
        """
        prototypes = Prototypes.from_labelled(train)
        if len(prototypes) == 0:
            raise TrainingDataError(
                "no prototypes: there is no ordered crystal in the reference",
                value=f"{len(train)} crystals",
                cure="give reference crystals without partial occupation",
            )
        self._labels = {}
        cells = np.abs(np.linalg.det(prototypes.lattice))
        self._adopt(prototypes, fit_atomic_volumes(prototypes.numbers, prototypes.n_atoms, cells))

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        """Propose at most `n` different crystals; fewer when the reference gives no more.

        Each carries `properties = {"prototype": class, "source": formula, "substitution": {old: new}}`.

        Raises:
            NotFittedError: Before `fit` or `load`.
            OptionsError: An element of the conditions does not exist.
        """
        self._fitted()
        if n <= 0:
            return []
        found: list[Structure] = []
        seen: set[object] = set()
        for index, assignment in self._drawn(conditions, np.random.default_rng(seed)):
            kind = self._class_of(index)
            if kind is None or len(kind.numbers) > conditions.max_atoms:
                continue
            exchange = dict(zip(self._formulas[index].elements, assignment, strict=True))
            arrangement = kind.arrangement(exchange)
            if arrangement in seen or self._is_known(index, arrangement, exchange):
                continue
            seen.add(arrangement)
            lattice, numbers = self._exchanged(kind, exchange)
            key = fingerprint(lattice, kind.frac_coords, numbers)
            if key in seen:  # the same crystal all the same, which its slots did not tell
                continue
            seen.add(key)
            crystal = exchanged_structure(lattice, kind, numbers, exchange, self._formulas[index])
            if not conditions.allows(crystal):  # a tolerance in Å means less in a smaller cell
                continue
            found.append(crystal)
            if len(found) == n:
                break
        return found

    def fine_tune(
        self,
        labelled: Sequence[LabelledStructure],
        replay: Sequence[LabelledStructure],  # noqa: ARG002 - statistics are kept, nothing is forgotten
        seed: int,  # noqa: ARG002
    ) -> None:
        """Move the odds of prototype classes by the energies above the hull of labelled crystals.

        This is weighting by reward in closed form: the odds of a class change by exp(-energy above hull / scale),
        bounded by `MOST_LEARNT`, so that no class dies out. Samples are conditioned on nothing but the conditions.
        `replay` is not needed: the prototypes stay what they are.

        A class's log-odds become (mean over all labels - mean of the class) / scale, shrunk by n / (n + 1)
        where the class has n labels; classes without labels stay where they were. The means run over all
        labels since `fit`. The class is read from the crystal's provenance, or found anew where that is lost.

        Raises:
            NotFittedError: Before `fit` or `load`.
            TrainingDataError: No crystal has an energy above the hull.
        """
        self._fitted()
        used = 0
        for item in labelled:
            energy = item.known(E_ABOVE_HULL)
            label = label_of(item.structure) if energy is not None and np.isfinite(energy) else None
            if label is None or energy is None:
                continue
            total, count = self._labels.get(label, (0.0, 0))
            self._labels[label] = (total + energy, count + 1)
            used += 1
        if not used:
            raise TrainingDataError(
                "nothing to learn from: no labelled crystal has an energy above the hull",
                value=f"{len(labelled)} crystals",
                cure=f"give the property {E_ABOVE_HULL} [eV/atom]",
            )

    def learnt_log_odds(self) -> dict[str, float]:
        """Return what the labels have added to the log-odds of each prototype class."""
        if not self._labels:
            return {}
        overall = sum(total for total, _ in self._labels.values()) / sum(n for _, n in self._labels.values())
        scale = self.config.hull_scale_ev_per_atom
        return {
            label: float(np.clip((overall - total / n) / scale * n / (n + 1), -MOST_LEARNT, MOST_LEARNT))
            for label, (total, n) in self._labels.items()
        }

    def save(self, folder: Path) -> None:
        """Write the prototypes and what was learnt to `folder`.

        Raises:
            NotFittedError: Before `fit` or `load`.
        """
        import torch

        from models.checkpoint import save_checkpoint

        arrays = {**vars(self._fitted()), "volumes": self._volumes}
        save_checkpoint(
            folder,
            KIND,
            self.config.model_dump(mode="json"),
            {"labels": {label: list(entry) for label, entry in self._labels.items()}},
            {name: torch.as_tensor(np.ascontiguousarray(array)) for name, array in arrays.items()},
        )

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:  # noqa: ARG003 - runs on the CPU alone
        """Read what `save` wrote.

        Raises:
            CheckpointError: There is none, or it is of another kind or damaged.
        """
        from models.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(folder, KIND)
        arrays = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
        volumes = arrays.pop("volumes")
        model = cls(cls.Config(**checkpoint.config))
        model._adopt(Prototypes(**arrays), volumes)
        model._labels = {name: (float(e), int(n)) for name, (e, n) in checkpoint.state["labels"].items()}
        return model

    def _fitted(self) -> Prototypes:
        if self._prototypes is None:
            raise NotFittedError("the generator has no prototypes yet", cure="call fit or load first")
        return self._prototypes

    def _adopt(self, prototypes: Prototypes, volumes: np.ndarray) -> None:
        """Index prototypes by formula; classes are found when they are needed."""
        table = ionic_table()
        by_formula: dict[Formula, list[int]] = defaultdict(list)
        rows: dict[Formula, list[int]] = {}
        self._formulas = []
        parts = np.split(prototypes.numbers, np.cumsum(prototypes.n_atoms)[:-1])
        for index, numbers in enumerate(parts):
            formula = formula_of(numbers)
            by_formula[formula].append(index)
            self._formulas.append(formula)
            if formula not in rows:
                rows[formula] = table.rows(formula.elements, formula.amounts)
        self._rows = [rows[formula] for formula in self._formulas]
        self._by_formula = dict(by_formula)
        self._classes = {}
        self._prototypes, self._volumes = prototypes, volumes

    def _class_of(self, index: int) -> PrototypeClass | None:
        if index not in self._classes:
            self._classes[index] = classify(*self._fitted().crystal(index))
        return self._classes[index]

    def _drawn(
        self, conditions: Conditions, rng: np.random.Generator
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (prototype, assignment) in the order of a weighted draw without replacement.

        What labels say about a class is known only once the class is, and that costs time. So every pair
        first stands in line as if its class had the best learnt odds; when its turn comes its class is found,
        and it goes back to where it belongs.
        """
        groups = self._pairs(conditions, rng)
        if not groups:
            return
        keys = [(group.log_weight / self.config.temperature).ravel() for group in groups]
        key = np.concatenate(keys)
        key += rng.gumbel(size=len(key))
        starts = np.cumsum([0] + [len(part) for part in keys])
        learnt = self.learnt_log_odds()
        best = max(0.0, *learnt.values()) if learnt else 0.0
        waiting: list[tuple[float, int]] = []  # (-true key, place): pairs whose class is known

        def pair(place: int) -> tuple[int, tuple[int, ...]]:
            number = int(np.searchsorted(starts, place, side="right")) - 1
            group = groups[number]
            row, column = divmod(place - int(starts[number]), len(group.assignments))
            return int(group.prototypes[row]), tuple(group.assignments[column].tolist())

        for place in np.argsort(-key, kind="stable").tolist():
            if not learnt:
                yield pair(place)
                continue
            optimistic = key[place] + best / self.config.temperature
            while waiting and -waiting[0][0] >= optimistic:
                yield pair(heapq.heappop(waiting)[1])
            kind = self._class_of(pair(place)[0])
            odds = learnt.get(kind.label, 0.0) if kind is not None else 0.0
            heapq.heappush(waiting, (-(key[place] + odds / self.config.temperature), place))
        while waiting:
            yield pair(heapq.heappop(waiting)[1])

    def _pairs(self, conditions: Conditions, rng: np.random.Generator) -> list[_Pairs]:
        """Weigh all pairs that can keep to the conditions, each number of elements being equally likely."""
        wanted = atomic_numbers(conditions.elements)
        amounts = {atomic_numbers([symbol])[0]: n for symbol, n in conditions.amounts().items()}
        low, high = (len(amounts), len(amounts)) if amounts else conditions.n_elements
        groups = []
        for size in range(low, min(high, len(wanted)) + 1):
            fitting = self._fitting(size, conditions, sorted(amounts.values()))
            if len(fitting) == 0:
                continue
            found: list[_Pairs] = []
            if amounts:  # each element where the prototype has as many atoms of one
                orders = [self._formulas[index].amounts for index in fitting]
                for order in sorted(set(orders)):
                    same = fitting[[other == order for other in orders]]
                    found.append(self._weighed(same, choices_in_order(amounts, order)))
            else:
                ways_of = ordered_choices(wanted, size, max(1, self.config.max_pairs // len(fitting)), rng)
                if len(fitting) > self.config.max_pairs:
                    fitting = np.sort(rng.choice(fitting, self.config.max_pairs, replace=False))
                found.append(self._weighed(fitting, ways_of))
            total = np.logaddexp.reduce([np.logaddexp.reduce(one.log_weight, axis=None) for one in found])
            groups += [_Pairs(one.prototypes, one.assignments, one.log_weight - total) for one in found]
        return groups

    def _fitting(self, size: int, conditions: Conditions, amounts: list[int]) -> np.ndarray:
        """Return the prototypes of `size` elements that the conditions leave (n_prototypes,).

        Args:
            size: Number of elements.
            conditions: Limits of cell and space group.
            amounts: Rising numbers of atoms in the formula unit; empty for any.
        """
        n_atoms = self._fitted().n_atoms
        found = [
            index
            for index, formula in enumerate(self._formulas)
            if len(formula.elements) == size
            and sum(formula.amounts) <= conditions.max_atoms
            # a conventional cell holds at most four primitive ones
            and n_atoms[index] <= 4 * conditions.max_atoms
            and (not amounts or sorted(formula.amounts) == amounts)
        ]
        if conditions.spacegroups:  # 2 ms per crystal, once per process
            kinds = {index: self._class_of(index) for index in found}
            found = [i for i, kind in kinds.items() if kind and kind.spacegroup in conditions.spacegroups]
        return np.array(found, dtype=np.int64)

    def _weighed(self, prototypes: np.ndarray, assignments: np.ndarray) -> _Pairs:
        """Weigh every assignment on every prototype."""
        table = ionic_table().log_p
        rows = np.array([self._rows[index] for index in prototypes])  # (n_prototypes, size)
        above = self._fitted().e_above_hull[prototypes] / self.config.hull_scale_ev_per_atom
        weight = np.repeat(-np.minimum(above, FLOOR_HULL)[:, None], len(assignments), axis=1)
        for slot in range(rows.shape[1]):
            weight += table[rows[:, slot, None], assignments[None, :, slot]]
        return _Pairs(prototypes, assignments, weight)

    def _is_known(self, index: int, arrangement: tuple[object, ...], exchange: dict[int, int]) -> bool:
        """Say whether the reference holds this class with these elements on these slots."""
        if not self.config.exclude_known:
            return False
        formula = self._formulas[index]
        changed = sorted(zip((exchange[e] for e in formula.elements), formula.amounts, strict=True))
        target = Formula(tuple(e for e, _ in changed), tuple(a for _, a in changed))
        for other in self._by_formula.get(target, []):
            found = self._class_of(other)
            if found is not None and found.arrangement({e: e for e in target.elements}) == arrangement:
                return True
        return False

    def _exchanged(self, kind: PrototypeClass, exchange: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the lattice, scaled to the new elements' volume, and the new atomic numbers."""
        numbers = np.array([exchange[number] for number in kind.numbers.tolist()], dtype=np.int64)
        ratio = self._volumes[numbers].sum() / self._volumes[kind.numbers].sum()
        return kind.lattice * ratio ** (1 / 3), numbers
