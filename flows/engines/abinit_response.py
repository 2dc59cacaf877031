"""Responses to displacements of atoms by ABINIT: a ground state, then perturbation theory at one point."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ase.units import Hartree
from jobflow import Maker, job
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from flows.causes import OutputParseError
from flows.cures import iterations
from flows.engines.abinit_calculator import clear, cured_options, ground_state, pseudos_of, run_abinit
from flows.engines.ase_maker import refuse_impossible
from flows.engines.code_calculator import bare_atoms, kpts_for
from flows.engines.code_run import text_of
from flows.job_context import cures, job_folder
from flows.registry import ENGINES, build

GROUND, RESPONSE = "ground", "response"
"""Names of the files of the two runs."""
CONVERGE_GROUND_HA2 = 1e-14
CONVERGE_RESPONSE_HA2 = 1e-8
"""Squared residuals of the potential [Ha²]: a response begins from a ground state that is converged much further."""
ELEMENT = re.compile(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([-\d.DE+]+)\s+([-\d.DE+]+)\s*$", re.MULTILINE)
"""Of ABINIT's derivative database: direction and atom, twice, and the derivative by both."""

Complexes = npt.NDArray[np.complex128]


@dataclass
class AbinitResponseMaker(Maker):
    """Computes the response of a crystal to displacements of its atoms at one point."""

    name: str = "response"
    engine_options: dict[str, Any] = field(default_factory=dict)

    @job
    def make(self, structure: Structure, q_point: list[float], divisors: list[int]) -> dict[str, Any]:
        """Return what `flows.engines.base.DfptEngine` says.

        Raises:
            BadGeometryError: No engine could compute this.
        """
        refuse_impossible(structure)
        engine = build("abinit", ENGINES, "engine", self.engine_options)
        folder, settings, config = job_folder(), engine.settings(), engine.config
        given = AseAtomsAdaptor.get_atoms(structure)
        atoms = bare_atoms(given, spins=settings["spinpol"])
        flipped = -1.0 if np.linalg.det(given.cell) < 0 else 1.0  # then the reciprocal vectors are as well
        kpts = tuple(
            -(-number // divisor) * divisor
            for number, divisor in zip(
                kpts_for(atoms, settings["kpts_per_inverse_ang"]), divisors, strict=True
            )
        )
        pseudos = pseudos_of(atoms, engine.pseudo_dir.absolute())
        base = {**ground_state(settings, atoms, kpts, pseudos), "nstep": iterations(config.max_scf, cures())}
        base |= cured_options(cures())
        steps: dict[str, dict[str, Any]] = {
            GROUND: {"tolvrs": CONVERGE_GROUND_HA2, "optstress": 0},
            RESPONSE: {
                "tolvrs": CONVERGE_RESPONSE_HA2,
                "kptopt": 3,
                "getwfk_filepath": f'"{GROUND}o_WFK"',
                "rfphon": 1,
                "rfatpol": [1, len(atoms)],
                "rfdir": [1, 1, 1],
                "nqpt": 1,
                "qpt": [flipped * one for one in q_point],
                "prtwf": 0,
            },
        }
        try:
            for name, options in steps.items():
                run_abinit(
                    folder, name, config.command, atoms=atoms, options={**base, **options}, pseudos=pseudos
                )
            found = response_in(text_of(folder / f"{RESPONSE}o_DDB"), np.array(atoms.cell))
        finally:
            clear(folder)
        return {"real": found.real.tolist(), "imag": found.imag.tolist()}


def response_in(database: str, lattice: npt.NDArray[np.float64]) -> Complexes:
    """Return C (3 n_atoms, 3 n_atoms) [eV/Å²] in Cartesian axes from the text of a derivative database.

    Args:
        database: Of a single point; derivatives by reduced coordinates [Ha].
        lattice: (3, 3) rows [Å].

    Raises:
        OutputParseError: It does not have all derivatives by two displacements.
    """
    numbers = re.search(r"^\s*natom\s+(\d+)", database, re.MULTILINE)
    n_atoms = int(numbers.group(1)) if numbers else 0
    found = np.full((n_atoms, 3, n_atoms, 3), np.nan, dtype=complex)
    for one, atom, other, other_atom, real, imag in ELEMENT.findall(database.partition("2nd derivatives")[2]):
        if int(atom) <= n_atoms and int(other_atom) <= n_atoms:  # further ones count fields and strains
            value = complex(float(real.replace("D", "E")), float(imag.replace("D", "E")))
            found[int(atom) - 1, int(one) - 1, int(other_atom) - 1, int(other) - 1] = value
    if n_atoms == 0 or not np.isfinite(found).all():
        raise OutputParseError("ABINIT's derivative database lacks derivatives by displacements")
    inverse = np.linalg.inv(lattice)
    cartesian = np.einsum("ai,kilj,bj->kalb", inverse, found, inverse)
    return np.asarray(cartesian.reshape(3 * n_atoms, 3 * n_atoms) * Hartree, dtype=complex)
