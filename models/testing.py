"""The contract that every generator and every surrogate must pass, runnable by anybody.

Outsiders put this into a test of their own package:

    from models.testing import check_generator
    check_generator(MyGenerator, {"an_option": 3})

A breach raises `ContractError`, which says what is wrong, what was got and what the contract allows. The
project's own tests run the same checks over `models.registry`.
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data import E_ABOVE_HULL, FORMATION_ENERGY, STABLE, SYMPREC, Conditions, LabelledStructure
from models.errors import ContractError, ModelsError, OptionsError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from models.surrogates.base import Relaxed

ENERGY_TOLERANCE = 2e-3
"""Energies [eV/atom] of the same crystal, told in two ways, may differ by this much."""


def reference_crystals() -> list[LabelledStructure]:
    """Return 30 textbook crystals with made-up labels, enough to fit a generator on."""
    from pymatgen.core import Lattice, Structure

    found: list[Structure] = []
    fcc = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])

    def add(lattice: np.ndarray, edge: float, symbols: str, *places: float | tuple[float, ...]) -> None:
        coords = [(place,) * 3 if isinstance(place, float) else place for place in places]
        found.append(Structure(Lattice(lattice * edge), symbols.split(), coords))

    for pair, edge in [
        ("Na Cl", 5.64), ("Li F", 4.03), ("K Br", 6.60), ("Mg O", 4.21), ("Ca O", 4.81), ("Sr S", 6.02),
        ("Ba Se", 6.60), ("Ti N", 4.24), ("Zr C", 4.70),
    ]:  # rock salt  # fmt: skip
        add(fcc, edge, pair, 0.0, 0.5)
    for pair, edge in [("Zn S", 5.41), ("Ga As", 5.65), ("Cd Te", 6.48), ("Al P", 5.46)]:  # zinc blende
        add(fcc, edge, pair, 0.0, 0.25)
    for pair, edge in [("Cs Cl", 4.12), ("Ni Al", 2.89), ("Cu Zn", 2.95), ("Ca Mg", 3.9)]:  # caesium chloride
        add(np.eye(3), edge, pair, 0.0, 0.5)
    for triple, edge in [
        ("Ca F F", 5.46),
        ("Si Mg Mg", 6.35),
        ("Ce O O", 5.41),
        ("O Li Li", 4.62),
    ]:  # fluorite
        add(fcc, edge, triple, 0.0, 0.25, 0.75)
    faces = ((0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
    for five, edge in [
        ("Ca Ti O O O", 3.9), ("Sr Zr O O O", 4.1), ("K Mg F F F", 3.99), ("Ba Li F F F", 4.0),
    ]:  # perovskite  # fmt: skip
        add(np.eye(3), edge, five, 0.0, 0.5, *faces)
    for symbol, edge in [("Cu", 3.61), ("Al", 4.05), ("Ca", 5.58), ("Ni", 3.52), ("Sr", 6.08)]:
        add(fcc, edge, symbol, 0.0)
    return [
        LabelledStructure(
            crystal,
            {
                FORMATION_ENERGY: -0.1 * (number % 7),
                E_ABOVE_HULL: 0.03 * (number % 4),
                STABLE: float(number % 4 == 0),
            },
        )
        for number, crystal in enumerate(found)
    ]


def check_generator(
    cls: type[Any],
    options: Mapping[str, Any] | None = None,
    *,
    train: Sequence[LabelledStructure] | None = None,
    conditions: Conditions | None = None,
    n: int = 8,
) -> None:
    """Hold a generator to `models.generators.base.Generator`.

    Args:
        cls: The class, as `models.registry.resolve` gives it.
        options: Fields of its `Config`; choose them so that fitting takes seconds.
        train: Reference crystals to fit on. Default: `reference_crystals()`.
        conditions: What to ask for. Default: up to three of seven common elements.
        n: How many crystals to ask for.

    Raises:
        ContractError: The contract is broken.
    """
    train = list(train) if train is not None else reference_crystals()
    conditions = conditions or Conditions(("Ca", "Mg", "Sr", "Ti", "O", "F", "Cl"), (2, 3), 12)
    check_config(cls, options)
    model = cls(cls.Config(**(options or {})))
    _expect_error("sample before fit", lambda: model.sample(1, conditions, 0))
    _expect_error("save before fit", lambda: model.save(Path(tempfile.gettempdir()) / "never-written"))
    _expect_error("fit on no crystals", lambda: cls(cls.Config(**(options or {}))).fit([], 0))
    with _no_global_randomness("fit"):
        model.fit(train, 0)
    with _no_global_randomness("sample"):
        first = model.sample(n, conditions, 1)
    _require(len(first) > 0, "sample gives nothing on ordinary conditions", first, "1 crystal or more")
    _check_crystals(first, conditions, n)
    _require(
        _documents(first) == _documents(model.sample(n, conditions, 1)), "equal seeds give other crystals"
    )
    _require(
        _documents(first) != _documents(model.sample(n, conditions, 2)),
        "another seed gives the same crystals",
    )
    _require(model.sample(0, conditions, 1) == [], "asked for no crystal, one comes")
    for narrow in _narrower(conditions, first[0]):  # nothing may come back, but nothing else either
        with contextlib.suppress(OptionsError):  # a model may say that it cannot keep to them
            _check_crystals(model.sample(n, narrow, 3), narrow, n)
    with tempfile.TemporaryDirectory() as folder:
        _check_round_trip(cls, model, conditions, n, Path(folder) / "first")
        labelled = [
            LabelledStructure(crystal, {E_ABOVE_HULL: 0.05 * place, STABLE: float(place == 0)})
            for place, crystal in enumerate(first)
        ]
        with _no_global_randomness("fine_tune"):
            model.fine_tune(labelled, train, 4)
        tuned = model.sample(n, conditions, 5)
        _check_crystals(tuned, conditions, n)
        _require(2 * len(tuned) >= len(first), "fine_tune lets samples dry up", len(tuned), len(first))
        _check_round_trip(cls, model, conditions, n, Path(folder) / "second")


def check_surrogate(cls: type[Any], options: Mapping[str, Any] | None = None) -> None:
    """Hold a surrogate to `models.surrogates.base.Surrogate`. Takes a minute with CHGNet on one core.

    Raises:
        ContractError: The contract is broken.
    """
    check_config(cls, options)
    model = cls(cls.Config(**(options or {})))
    _require(isinstance(model.version, str) and model.version != "", "version is no text", model.version)
    crystals = [item.structure for item in reference_crystals()[:22:7]]
    bad = _broken_crystals()
    with _no_global_randomness("energies"):
        energies = model.energies([*crystals, *bad])
    _require(
        np.shape(energies) == (len(crystals) + len(bad),), "energies has another shape", np.shape(energies)
    )
    good = np.asarray(energies[: len(crystals)])
    _require(bool(np.isfinite(good).all()), "no energy for an ordinary crystal", good)
    _require(bool(np.isnan(energies[len(crystals) :]).all()), "a broken crystal has an energy", energies)
    _check_invariances(model, crystals[0], float(good[0]))
    alone = np.concatenate([model.energies([crystal]) for crystal in crystals])
    _near(alone, good, "energies depend on what else is in the batch")
    _require(len(model.energies([])) == 0 and _relax(model, []) == [], "an empty batch gives something")
    _check_relaxations(model, crystals, bad, good)
    _require(np.isfinite(model.element_energy("Ca")), "no energy for elemental calcium")
    _expect_error("element_energy of no element", lambda: model.element_energy("Xx"))
    formation = model.formation_energies(crystals)
    _near(model.formation_energies(crystals, good), formation, "given energies give other formation energies")
    base = [
        sum(
            model.element_energy(s) * x
            for s, x in c.composition.fractional_composition.get_el_amt_dict().items()
        )
        for c in crystals
    ]
    _near(formation, good - np.array(base), "formation_energies is not energy minus element_energy")


def check_config(cls: type[Any], options: Mapping[str, Any] | None = None) -> None:
    """Hold a component's `Config` to the house's rules.

    Raises:
        ContractError: It is no frozen pydantic model, allows unknown keys, or an option has no description.
    """
    from pydantic import BaseModel, ValidationError

    config = getattr(cls, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise ContractError(f"{cls.__name__} has no Config that is a pydantic model", value=config)
    _require(
        bool(config.model_config.get("frozen")), "Config is not frozen", config.model_config, "frozen=True"
    )
    _require(
        config.model_config.get("extra") == "forbid",
        "Config lets misspelt options pass",
        config.model_config.get("extra"),
        'extra="forbid"',
    )
    silent = [name for name, field in config.model_fields.items() if not field.description]
    _require(not silent, "options without a description", silent)
    try:
        built = config(**(options or {}))
    except ValidationError as error:
        raise ContractError("the options of the check are not valid", value=str(error)) from error
    document = json.loads(json.dumps(built.model_dump(mode="json")))
    _require(config(**document) == built, "Config does not survive JSON", document)


def _narrower(conditions: Conditions, crystal: Structure) -> list[Conditions]:
    """Return conditions that leave less; `crystal`, made under `conditions`, shows what is possible."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    formula = crystal.composition.reduced_formula
    group = SpacegroupAnalyzer(crystal, symprec=SYMPREC).get_space_group_number()
    return [
        replace(conditions, max_atoms=2),
        replace(conditions, n_elements=(2, 2)),
        replace(conditions, formula=formula),
        replace(conditions, spacegroups=(group,)),
        replace(conditions, formula=formula, spacegroups=(2, group)),
    ]


def _check_crystals(crystals: Sequence[Structure], conditions: Conditions, n: int) -> None:
    """Check what `sample` gives back."""
    from pymatgen.core import Structure

    _require(isinstance(crystals, list), "sample gives no list", type(crystals))
    _require(len(crystals) <= n, "more crystals than asked for", len(crystals), n)
    for crystal in crystals:
        _require(isinstance(crystal, Structure) and crystal.is_ordered, "no ordered Structure", crystal)
        _require(conditions.allows(crystal), "a crystal breaks the conditions", crystal.formula, conditions)
        values = np.concatenate([crystal.lattice.matrix.ravel(), crystal.frac_coords.ravel()])
        _require(bool(np.isfinite(values).all()), "coordinates are not finite", crystal.formula)
        _require(
            crystal.volume / len(crystal) > 1.0, "a collapsed cell [Å³ per atom]", crystal.volume, "above 1"
        )
        try:
            again = Structure.from_dict(json.loads(json.dumps(crystal.as_dict())))
        except TypeError as error:
            raise ContractError("a crystal's properties are not JSON", value=crystal.properties) from error
        _require(again.properties == crystal.properties, "properties do not survive JSON", crystal.properties)
    _require(len(set(_documents(crystals))) == len(crystals), "the same crystal twice in one call")


def _check_round_trip(cls: type[Any], model: Any, conditions: Conditions, n: int, folder: Path) -> None:
    """Save, load, and sample the same; no file may need unpickling of classes."""
    import torch

    model.save(folder)
    loaded = cls.load(folder)
    for seed in (9, 10):
        _require(
            _documents(loaded.sample(n, conditions, seed)) == _documents(model.sample(n, conditions, seed)),
            "a loaded model samples other crystals than the saved one",
        )
    _require(loaded.config == model.config, "a loaded model has other options", loaded.config, model.config)
    for path in folder.rglob("*"):
        if path.suffix in {".pkl", ".pickle"}:
            raise ContractError("a checkpoint holds a pickle", value=path.name)
        if path.suffix in {".pt", ".pth"}:
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                raise ContractError("a checkpoint needs more than weights", value=path.name) from error
    _expect_error("load from an empty folder", lambda: cls.load(folder.with_name("nothing-here")))


def _check_invariances(model: Any, crystal: Structure, energy: float) -> None:
    """Energy per atom must not depend on how the crystal is told."""
    from pymatgen.core import Structure

    shifted = Structure(crystal.lattice, crystal.species, crystal.frac_coords + np.array([0.31, -2.17, 0.05]))
    reversed_order = Structure.from_sites(list(crystal)[::-1])
    _near(model.energies([shifted])[0], energy, "energy changes when the crystal is moved")
    _near(model.energies([reversed_order])[0], energy, "energy changes with the order of the atoms")
    _near(model.energies([crystal * (2, 1, 1)])[0], energy, "energy per atom changes in a supercell")


def _check_relaxations(
    model: Any, crystals: Sequence[Structure], bad: Sequence[Structure], before: np.ndarray
) -> None:
    """Check outcomes of good and bad crystals in one batch, with free and with fixed symmetry."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    mixed = [bad[0], *crystals, *bad[1:]]
    told = [crystal.as_dict() for crystal in mixed]
    for fix_symmetry in (False, True):
        with _no_global_randomness("relax"):
            outcomes = _relax(model, mixed, fix_symmetry=fix_symmetry)
        _require([crystal.as_dict() for crystal in mixed] == told, "relax changes the crystals it is given")
        _require(len(outcomes) == len(mixed), "not one outcome per crystal", len(outcomes), len(mixed))
        for crystal, outcome in zip(mixed, outcomes, strict=True):
            _require(outcome.n_steps <= 60, "more steps than allowed", outcome.n_steps, 60)
            _require(
                outcome.structure.species_and_occu == crystal.species_and_occu,
                "atoms changed their order",
                crystal.formula,
            )
        broken = [outcomes[0], *outcomes[len(crystals) + 1 :]]
        _require(
            all(o.error and not o.converged and np.isnan(o.energy_per_atom) for o in broken),
            "a broken crystal has no error",
            broken,
        )
        for crystal, outcome, energy in zip(crystals, outcomes[1:], before, strict=False):
            _require(outcome.error is None, "an ordinary crystal has an error", outcome.error)
            _require(outcome.converged and outcome.max_force < 0.05, "not converged", outcome.max_force, 0.05)
            _require(
                outcome.energy_per_atom < energy + ENERGY_TOLERANCE, "energy rose", outcome.energy_per_atom
            )
            number = SpacegroupAnalyzer(crystal, symprec=0.1).get_space_group_number()
            _require(
                outcome.spacegroup_before == number, "wrong space group", outcome.spacegroup_before, number
            )
            _near(
                model.energies([outcome.structure])[0], outcome.energy_per_atom, "energy of another crystal"
            )
            if fix_symmetry:
                _require(
                    outcome.spacegroup_after == number, "symmetry lost", outcome.spacegroup_after, number
                )
    fixed_cell = _relax(model, crystals[:1], relax_cell=False)[0]
    same = np.allclose(fixed_cell.structure.lattice.abc, crystals[0].lattice.abc, atol=1e-6)
    _require(same, "the cell moved although relax_cell is off", fixed_cell.structure.lattice.abc)


def _relax(model: Any, crystals: Sequence[Structure], **changes: Any) -> list[Relaxed]:
    arguments = {"fix_symmetry": False, "max_steps": 60, "fmax_ev_per_ang": 0.05, **changes}
    return list(model.relax(crystals, **arguments))


def _broken_crystals() -> list[Structure]:
    """Return crystals that no potential can treat."""
    from pymatgen.core import Lattice, Structure

    return [
        Structure(Lattice.cubic(4.0), ["Na", "Na"], [[0, 0, 0], [0, 0, 0]]),  # on top of each other
        Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),  # disordered
        Structure(Lattice.cubic(30.0), ["Na"], [[0, 0, 0]]),  # no neighbours
        Structure(Lattice.cubic(0.5), ["Na"], [[0, 0, 0]]),  # collapsed
    ]


def _documents(crystals: Sequence[Structure]) -> list[str]:
    return [json.dumps(crystal.as_dict(), sort_keys=True) for crystal in crystals]


def _require(holds: bool, what: str, value: object = None, allowed: object = None) -> None:
    if not holds:
        raise ContractError(what, value=value, allowed=allowed, cure="see models.testing for the contract")


def _near(got: object, expected: object, what: str) -> None:
    _require(
        bool(np.allclose(np.asarray(got), np.asarray(expected), atol=ENERGY_TOLERANCE)), what, got, expected
    )


def _expect_error(what: str, call: Callable[[], object]) -> None:
    """Require that `call` fails with an error of the house, which tells the user what to do."""
    try:
        call()
    except ModelsError:
        return
    except Exception as error:
        raise ContractError(
            f"{what}: an error of another kind", value=repr(error), allowed="ModelsError"
        ) from error
    raise ContractError(f"{what}: no error", allowed="ModelsError")


class _no_global_randomness:  # noqa: N801 - reads as a phrase after `with`
    """Require that a block leaves the global random generators alone: seeds are passed here."""

    def __init__(self, what: str) -> None:
        self.what = what

    def _state(self) -> tuple[Any, ...]:
        import torch

        numpy_state = json.dumps(np.random.get_state(legacy=False), default=str)
        return random.getstate(), numpy_state, torch.random.get_rng_state().tolist()

    def __enter__(self) -> None:
        self.before = self._state()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            _require(self._state() == self.before, f"{self.what} uses or seeds a global random generator")
