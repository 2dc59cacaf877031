"""Hypothesis strategies, one per noun. Every draw is a real object of its kind."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from models.genes import WyckoffGene
from models.symmetry import LETTERS, tables

ELEMENTS = ("Li", "O", "Na", "Mg", "Al", "Si", "Ca", "Ti", "Fe", "Zn", "Ge", "Sr")


def symbols(allowed: tuple[str, ...] = ELEMENTS) -> st.SearchStrategy[str]:
    return st.sampled_from(allowed)


def chemical_systems(
    low: int = 1, high: int = 3, allowed: tuple[str, ...] = ELEMENTS
) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(symbols(allowed), min_size=low, max_size=high, unique=True).map(
        lambda found: tuple(sorted(found))
    )


@st.composite
def compositions(draw: st.DrawFn, elements: tuple[str, ...] | None = None) -> Composition:
    elements = elements or draw(chemical_systems())
    return Composition({symbol: draw(st.integers(1, 6)) for symbol in elements})


@st.composite
def lattices(draw: st.DrawFn) -> Lattice:
    """Cells that are neither flat nor needles: lengths 3 to 8 Å, angles 65 to 115 degrees."""
    lengths = [draw(st.floats(3.0, 8.0)) for _ in range(3)]
    angles = [draw(st.floats(65.0, 115.0)) for _ in range(3)]
    return Lattice.from_parameters(*lengths, *angles)


@st.composite
def structures(
    draw: st.DrawFn, max_atoms: int = 5, allowed: tuple[str, ...] = ELEMENTS, min_distance_ang: float = 1.0
) -> Structure:
    """Crystals without symmetry, no two atoms closer than `min_distance_ang`."""
    lattice = draw(lattices())
    species = draw(st.lists(symbols(allowed), min_size=1, max_size=max_atoms))
    coords: list[np.ndarray] = []
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    while len(coords) < len(species):
        point = random.random(3)
        if not coords or lattice.get_all_distances([point], coords).min() >= min_distance_ang:
            coords.append(point)
        elif random.random() < 0.01:  # the cell is full
            break
    return Structure(lattice, species[: len(coords)], coords)


def shaken(structure: Structure, amount_ang: float, seed: int = 0) -> Structure:
    """The crystal with every atom moved by this much [Å] in a direction of its own."""
    moves = np.random.default_rng(seed).normal(size=(len(structure), 3))
    moves *= amount_ang / np.linalg.norm(moves, axis=1, keepdims=True)
    coords = structure.cart_coords + moves
    return Structure(structure.lattice, structure.species, coords, coords_are_cartesian=True)


@st.composite
def descriptions(draw: st.DrawFn, structure: Structure, max_atoms: int = 40) -> Structure:
    """The same crystal written otherwise: order of atoms, origin, cell, orientation."""
    order = draw(st.permutations(range(len(structure))))
    shift = [draw(st.floats(0.0, 1.0)) for _ in range(3)]
    other = Structure(
        structure.lattice,
        [structure[i].specie for i in order],
        [structure[i].frac_coords + shift for i in order],
    )
    shear = np.eye(3, dtype=int)
    shear[0, 1], shear[1, 2] = draw(st.integers(-1, 1)), draw(st.integers(-1, 1))
    if 2 * len(structure) <= max_atoms:
        shear[2] *= draw(st.integers(1, 2))
    other.make_supercell(shear)
    rotation, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 999))).normal(size=(3, 3)))
    return Structure(Lattice(other.lattice.matrix @ rotation), other.species, other.frac_coords)


@st.composite
def genes(
    draw: st.DrawFn, spacegroup: int | None = None, max_orbits: int = 4, allowed: tuple[str, ...] = ELEMENTS
) -> WyckoffGene:
    """Wyckoff genes that a crystal can have, of any group unless one is named; not canonical."""
    known = tables()
    group = spacegroup or draw(st.integers(1, 230))
    dof = known.dof[group, : int(known.n_letters[group])].tolist()
    orbits: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, max_orbits))):
        taken = {letter for _, letter in orbits}
        open_letters = [LETTERS[i] for i, free in enumerate(dof) if free or LETTERS[i] not in taken]
        orbits.append((draw(symbols(allowed)), draw(st.sampled_from(open_letters))))
    return WyckoffGene(group, tuple(orbits))


# What no sensible user writes


HOSTILE = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 10**400, 1e308, float("inf"), float("-inf"), float("nan"), 0.5,
    "", " ", "x", "\x1b[2J", "\u202e", "☃", "a" * 5000, "../../etc/passwd", "/dev/null", "env:PATH", "nan", "1e999",
    "os:system", "builtins:eval", "subprocess:Popen", "builtin:none", "{}", "$where", "!!python/name:os.system",
    [], {}, [[]], [None], [1, "a"], {"a": 1}, {"$where": "1"}, {1: 2}, {None: None}, [[[[[[[[1]]]]]]]],
    list(range(300)),
)  # fmt: skip
"""Values that fit hardly anywhere."""


def hostile_values() -> st.SearchStrategy[Any]:
    return (
        st.sampled_from(HOSTILE) | st.text(max_size=20) | st.integers() | st.floats() | st.binary(max_size=9)
    )


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the place of every value inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, inner in items for found in _places(inner, (*place, key)))]


@st.composite
def mutated(draw: st.DrawFn, document: Any) -> Any:
    """A plain document with a few values replaced, left out, moved, or added under odd names."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(_places(changed)[1:] or [(0,)]))
        parent = changed
        for key in way:
            parent = parent[key]
        if not isinstance(parent, dict | list):
            continue
        kind = draw(st.sampled_from(("replace", "replace", "remove", "move", "add")))
        if kind == "remove":
            del parent[last]
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(("x", "", "$a", "a.b", 1, None)))] = draw(hostile_values())
        elif kind == "move":
            parent[last] = copy.deepcopy(document)
        else:
            parent[last] = draw(hostile_values())
        if not changed or not isinstance(changed, dict | list):
            break
    return changed


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with some of them changed, lost, repeated, or cut off."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(("change", "lose", "repeat", "cut", "insert")))
        length = draw(st.integers(1, 40))
        if kind == "change":
            changed[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "lose":
            del changed[place : place + length]
        elif kind == "repeat":
            changed[place:place] = changed[place : place + length]
        elif kind == "insert":
            changed[place:place] = draw(
                st.binary(max_size=10) | st.sampled_from((b"\0", b"\xff\xfe", b"{", b"&a ", b"!!"))
            )
        else:
            del changed[place:]
    return bytes(changed)


def filters() -> st.SearchStrategy[Any]:
    """MongoDB filters, sensible and not, with what runs code on a server among them."""
    fields = st.sampled_from(
        (
            "state",
            "_id",
            "result.e_above_hull",
            "jobs.0.state",
            "jobs.state",
            "attempts",
            "a",
            "",
            ".",
            "$a",
            "a..b",
        )
    )
    known = ["and", "or", "nor", "not", "eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "type"]
    known += ["all", "elemMatch", "size", "regex", "options", "mod"]
    refused = [
        "where",
        "expr",
        "function",
        "accumulator",
        "jsonSchema",
        "text",
        "near",
        "comment",
        "foo",
        "",
        "$",
    ]
    names = st.sampled_from([f"${name}" for name in (*known, *refused)])
    values = st.sampled_from(
        (None, True, 0, 1, -1.5, 2**63, 2**64, 1e308, "", "done", "(a", "[", "\x00", "(?R)", "i")
    )
    return st.recursive(
        values | st.text(max_size=5) | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.dictionaries(fields | names, inner, max_size=3) | st.lists(inner, max_size=3),
        max_leaves=8,
    )
