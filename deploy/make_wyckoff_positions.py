"""Make models/resources/wyckoff_positions.json.gz: Wyckoff positions of all groups, and what joins their letters.

    pip install pyxtal==1.1.5
    python deploy/make_wyckoff_positions.py

Letters, site symmetries and coordinate triplets come from PyXtal (MIT), the operations from spglib (BSD-3). The
script checks that both mean the same setting in every group. The action of the affine normaliser on letters is
computed here: an affine map x -> W x + w normalises a group if W R W^-1 is among its rotations for every operation
(R, t), and (1 - W R W^-1) w + W t differs from the translation of that operation by a lattice vector. Both are
checked in whole numbers of 1/24. It takes about a minute and a half, and gives the same bytes every time.
"""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import spglib
import torch
from pyxtal.symmetry import Group

from models.symmetry import GRID, LETTERS, Branches, crystal_system, database_operations, expand

RESULT = Path(__file__).resolve().parent.parent / "models" / "resources" / "wyckoff_positions.json.gz"
Affine = tuple[np.ndarray, np.ndarray]
"""W (3, 3) whole numbers, w (3,) in 24ths."""

GENERIC = np.array([0.1372, 0.0819, 0.2953])
"""Parameters that lie on nothing more special than they must."""


def standard_halls() -> dict[int, int]:
    """Return the hall number of every group's setting: origin choice 2, hexagonal axes, else the first."""
    halls: dict[int, int] = {}
    for hall in range(1, 531):
        kind = spglib.get_spacegroup_type(hall)
        if kind.number not in halls or kind.choice in ("2", "H"):
            halls[kind.number] = hall
    return halls


class GroupInTheMaking:
    """One space group: operations in whole numbers, letters in their order from "a"."""

    def __init__(self, number: int, hall: int) -> None:
        self.number, self.hall = number, hall
        self.rotations, self.translations = database_operations(hall)
        self.whole_rotations = np.rint(self.rotations).astype(int)  # (n, 3, 3)
        self.whole_translations = np.rint(self.translations * GRID).astype(int)  # (n, 3)
        source = Group(number)
        ours = {self._key(r, t) for r, t in zip(self.whole_rotations, self.whole_translations, strict=True)}
        theirs = {
            self._key(np.rint(op.rotation_matrix), np.rint(op.translation_vector * GRID))
            for op in source.Wyckoff_positions[0].ops
        }
        if ours != theirs:
            raise SystemExit(f"group {number}: PyXtal and spglib differ in their setting")
        self.letters: list[dict[str, Any]] = []
        self.maps: list[torch.Tensor] = []
        for position in reversed(source.Wyckoff_positions):
            position.get_site_symmetry()
            affine = np.asarray(position.ops[0].affine_matrix)[:3]
            packed = np.rint(affine * np.array([1, 1, 1, GRID])).astype(int)
            maps = expand(affine, self.rotations, self.translations)
            if len(maps) != position.multiplicity or np.abs(packed / [1, 1, 1, GRID] - affine).max() > 1e-6:
                raise SystemExit(f"group {number}{position.letter}: the orbit is not as PyXtal has it")
            self.maps.append(torch.from_numpy(maps))
            self.letters.append(
                {
                    "multiplicity": len(maps),
                    "site": position.site_symm,
                    "map": packed.ravel().tolist(),
                }
            )
        pure = (self.whole_rotations == np.eye(3)).all(axis=(1, 2))
        self.lattice = np.unique(self._code(self.whole_translations[pure]))  # lattice vectors mod 1, as codes
        self.point_group, first = np.unique(self.whole_rotations, axis=0, return_index=True)
        self.point_t = self.whole_translations[first]

    @staticmethod
    def _key(rotation: np.ndarray, translation: np.ndarray) -> tuple[int, ...]:
        return (
            *np.asarray(rotation, dtype=int).ravel().tolist(),
            *(np.asarray(translation, int) % GRID).tolist(),
        )

    @staticmethod
    def _code(translation: np.ndarray) -> np.ndarray:
        return np.asarray((translation % GRID) @ np.array([GRID * GRID, GRID, 1]))

    def in_lattice(self, vectors: np.ndarray) -> np.ndarray:
        """Say which vectors (..., 3) in 24ths are lattice vectors."""
        return np.isin(self._code(vectors), self.lattice)

    def conjugate(self, axes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Return (R', t' - W t) of every rotation R sent to R' = W R W^-1, or None where W does not normalise."""
        inverse = np.rint(np.linalg.inv(axes)).astype(int)
        known = {rotation.tobytes(): t for rotation, t in zip(self.point_group, self.point_t, strict=True)}
        found = []
        for rotation, t in zip(self.point_group, self.point_t, strict=True):
            image = np.ascontiguousarray(axes @ rotation @ inverse)
            if image.tobytes() not in known:
                return None
            found.append((image, known[image.tobytes()] - axes @ t))
        return found

    def origins(self, axes: np.ndarray) -> np.ndarray:
        """Return all w (k, 3) in 24ths with which W normalises the group."""
        pure = self.whole_translations[(self.whole_rotations == np.eye(3)).all(axis=(1, 2))]
        images = self.conjugate(axes)
        if images is None or not self.in_lattice(pure @ axes.T).all():
            return np.zeros((0, 3), dtype=int)
        grid = GRID_POINTS
        for rotation, target in images:
            grid = grid[self.in_lattice(grid @ (np.eye(3, dtype=int) - rotation).T - target)]
        return grid

    def permutation(self, axes: np.ndarray, w: np.ndarray) -> tuple[int, ...]:
        """Return the letter to which each letter is sent."""
        images = []
        for index, maps in enumerate(self.maps):
            first = maps[0].numpy()
            point = torch.from_numpy(axes @ (first[:, :3] @ GENERIC + first[:, 3]) + w / GRID)[None]
            alike = [
                other
                for other, letter in enumerate(self.letters)
                if letter["multiplicity"] == self.letters[index]["multiplicity"]
                and np.linalg.matrix_rank(self.maps[other][0, :, :3]) == np.linalg.matrix_rank(first[:, :3])
                and float((Branches.from_maps(self.maps[other]).nearest(point)[1] - point).abs().max()) < 1e-6
            ]
            if len(alike) != 1:
                raise SystemExit(f"group {self.number}: letter {LETTERS[index]} goes to {alike}")
            images.append(alike[0])
        return tuple(images)


GRID_POINTS = np.array(sorted(itertools.product(range(GRID), repeat=3), key=lambda w: (sum(w), w)))
"""(13824, 3) origins in 24ths, small ones first."""


def candidate_matrices(number: int) -> list[np.ndarray]:
    """Return whole-number matrices of determinant 1 or -1 that may normalise the group, simple ones first.

    Signed permutations and the automorphisms of hexagonal lattices have entries -1, 0 and 1. Monoclinic and
    triclinic axes can also be sheared; letters depend on shears modulo 2 (modulo 4 in centred cells).
    """
    matrices: list[np.ndarray] = []
    if crystal_system(number) == "monoclinic":
        for p, q, r, s, b in itertools.product(
            range(-2, 3), range(-2, 3), range(-2, 3), range(-2, 3), (1, -1)
        ):
            if abs(p * s - q * r) == 1:
                matrices.append(np.array([[p, 0, q], [0, b, 0], [r, 0, s]]))
    else:
        entries = np.array(list(itertools.product((-1, 0, 1), repeat=9))).reshape(-1, 3, 3)
        matrices = list(entries[np.abs(np.rint(np.linalg.det(entries))) == 1])
    matrices.sort(
        key=lambda axes: (
            int((axes != np.eye(3)).any()),
            int(np.abs(axes).sum()),
            int((axes < 0).sum()),
            axes.ravel().tolist(),
        )
    )
    if number == 2:  # only what differs modulo 2
        kinds: dict[bytes, np.ndarray] = {}
        for axes in matrices:
            kinds.setdefault((axes % 2).tobytes(), axes)
        matrices = list(kinds.values())
    return matrices


def normaliser(group: GroupInTheMaking) -> dict[tuple[int, ...], Affine]:
    """Return one affine map for each permutation of letters, identity first."""
    unity = np.eye(3, dtype=int)
    found: dict[tuple[int, ...], Affine] = {}
    if len(group.letters) == 1:
        return {(0,): (unity, np.zeros(3, dtype=int))}
    shifts = group.origins(unity)
    # Origins that differ by a direction which the group leaves free are one.
    fixed = np.rint((unity - group.whole_rotations.mean(axis=0)) @ shifts.T * GRID).T
    _, first = np.unique(fixed, axis=0, return_index=True)
    shifts = shifts[np.sort(first)]
    moves: dict[tuple[int, ...], np.ndarray] = {}
    for shift in shifts:
        moves.setdefault(group.permutation(unity, shift), shift)
    done: set[bytes] = set()
    for axes in candidate_matrices(group.number):
        if axes.tobytes() in done or group.conjugate(axes) is None:
            continue
        done |= {np.ascontiguousarray(rotation @ axes).tobytes() for rotation in group.point_group}
        origins = group.origins(axes)
        if len(origins) == 0:
            continue
        permutation = group.permutation(axes, origins[0])
        for move, shift in moves.items():
            total = tuple(move[letter] for letter in permutation)
            found.setdefault(total, (axes, (origins[0] + shift) % GRID))
    for one, other in itertools.product(found, repeat=2) if len(found) < 200 else ():
        if tuple(one[letter] for letter in other) not in found:
            raise SystemExit(f"group {group.number}: the permutations are not closed")
    return found


def entry(number: int, hall: int) -> dict[str, Any]:
    """Return what the table says of one group."""
    group = GroupInTheMaking(number, hall)
    return {
        "hall": hall,
        "centring": spglib.get_spacegroup_type(hall).international_short[0],
        "letters": group.letters,
        "normaliser": [
            {
                "letters": "".join(LETTERS[letter] for letter in permutation),
                "map": np.concatenate([axes, w[:, None]], axis=1).ravel().tolist(),
            }
            for permutation, (axes, w) in normaliser(group).items()
        ],
    }


def main() -> None:
    """Write the table."""
    groups = []
    for number, hall in sorted(standard_halls().items()):
        groups.append(entry(number, hall))
        sizes = len(groups[-1]["letters"]), len(groups[-1]["normaliser"])
        print(number, *sizes, flush=True)  # noqa: T201
    source = "PyXtal 1.1.5 (MIT) and spglib (BSD-3); made by deploy/make_wyckoff_positions.py"
    text = json.dumps({"source": source, "groups": groups}, separators=(",", ":"))
    RESULT.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
