"""The six crystals that `wycryst_leave_one_out` looks for, as measured: no file of the data set holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pymatgen.core import Lattice, Structure


@dataclass(frozen=True)
class Target:
    """A crystal that is to be found."""

    formula: str
    spacegroup: int
    task: Literal["ground state", "polymorph"]
    """A ground state is looked for in all space groups, a polymorph in its own."""
    source: str
    """Of lattice and coordinates."""

    @property
    def name(self) -> str:
        """Formula and space group, as the command line takes it."""
        return f"{self.formula}-{self.spacegroup}"

    def structure(self) -> Structure:
        """Return the crystal."""
        return _STRUCTURES[self.name]()


def _perovskite(a: float, big: str, small: str, anion: str) -> Structure:
    """Return a cubic perovskite, space group 221."""
    from pymatgen.core import Lattice, Structure

    points = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    return Structure(Lattice.cubic(a), [big, small, anion, anion, anion], points)


def _calcium_titanate() -> Structure:
    # Printed in the setting Pbnm, whose axes b, c, a are those of Pnma.
    a, b, c = 5.3796, 5.4423, 7.6401
    sites = {
        "Ca": [(-0.00676, 0.03602, 0.25)],
        "Ti": [(0.0, 0.5, 0.0)],
        "O": [(0.0714, 0.4838, 0.25), (0.7108, 0.2888, 0.0371)],
    }
    from pymatgen.core import Lattice

    moved = {symbol: [(y, z, x) for x, y, z in points] for symbol, points in sites.items()}
    return _in_group("Pnma", Lattice.orthorhombic(b, c, a), moved)


def _chalcopyrite() -> Structure:
    from pymatgen.core import Lattice

    sites = {"Cu": [(0.0, 0.0, 0.0)], "In": [(0.0, 0.0, 0.5)], "S": [(0.214, 0.25, 0.125)]}
    return _in_group("I-42d", Lattice.tetragonal(5.523, 11.141), sites)


def _barium_titanate() -> Structure:
    from pymatgen.core import Lattice, Structure

    near, far = 0.511, 0.018
    oxygen = [[near, near, far], [near, far, near], [far, near, near]]
    points = [[0.0, 0.0, 0.0], [0.487, 0.487, 0.487], *oxygen]
    return Structure(Lattice.rhombohedral(4.0036, 89.839), ["Ba", "Ti", "O", "O", "O"], points)


def _in_group(symbol: str, lattice: Lattice, sites: dict[str, list[tuple[float, float, float]]]) -> Structure:
    from pymatgen.core import Structure

    species = [element for element, points in sites.items() for _ in points]
    return Structure.from_spacegroup(
        symbol, lattice, species, [point for points in sites.values() for point in points]
    ).get_primitive_structure()


_STRUCTURES = {
    "CaTiO3-62": _calcium_titanate,
    "CaTiO3-221": lambda: _perovskite(3.897, "Ca", "Ti", "O"),
    "SrTiO3-221": lambda: _perovskite(3.905, "Sr", "Ti", "O"),
    "CsPbI3-221": lambda: _perovskite(6.289, "Cs", "Pb", "I"),
    "CuInS2-122": _chalcopyrite,
    "BaTiO3-160": _barium_titanate,
}

TARGETS = (
    Target("CaTiO3", 62, "ground state", "Sasaki et al., Acta Cryst. C 43, 1668 (1987)"),
    Target("CaTiO3", 221, "polymorph", "cubic perovskite, a as above 1,600 K: Yashima, Ali (2009)"),
    Target("SrTiO3", 221, "polymorph", "cubic perovskite, a at room temperature"),
    Target("CsPbI3", 221, "polymorph", "cubic perovskite, a at 634 K: Trots, Myagkota (2008)"),
    Target("CuInS2", 122, "polymorph", "chalcopyrite, x(S) of Abrahams, Bernstein (1973)"),
    Target("BaTiO3", 160, "ground state", "Kwei et al., J. Phys. Chem. 97, 2368 (1993)"),
)
"""All of them, in the order of the issue."""
