"""ABINIT as an ASE calculator: a run for each geometry, begun from the wavefunctions of the one before.

ASE writes the input and reads forces, stress and free energy. The energy is extrapolated to zero smearing width: with
the Fermi-Dirac distribution it is F + TS/2 (M. J. Gillan, J. Phys.: Condens. Matter 1, 689 (1989)).

The kinetic energy of plane waves near the cut-off is raised smoothly (`ecutsm`; M. Bernasconi et al., J. Phys. Chem.
Solids 56, 501 (1995)), so that waves enter and leave without a jump as the cell changes. The stress is then the
derivative of the recorded energy at a fixed cut-off, and needs no correction for Pulay's stress.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import SCFError
from ase.io.abinit import read_abinit_out, write_abinit_in
from ase.units import Hartree

from flows.causes import CodeCrashedError, MissingSetupError, OutputParseError
from flows.cures import Cure
from flows.engines.code_calculator import CodeCalculator, reading
from flows.engines.code_run import run_code, text_of, words_of
from flows.job_context import cures

NAME = "abinit"
"""Of the files: `abinit.in`, `abinit.abo` (results), `abinit.log`."""
WAVEFUNCTIONS = "earlier_WFK"
"""Of the geometry before."""
CUTOFF_SMOOTHING_EV = 0.5 * Hartree
"""Width below the cut-off over which the kinetic energy is raised."""
FUNCTIONALS = {"PBE": 11}
"""ABINIT's `ixc`."""
SYMMETRIES: tuple[dict[str, Any], ...] = ({}, {"nsym": 1})
"""All symmetry that ABINIT finds; none where it cannot use what it finds, as in a crystal that is almost symmetric."""


class AbinitCalculator(CodeCalculator):
    """ABINIT with norm-conserving pseudopotentials.

    Args:
        settings: What `AbinitEngine.settings` gives.
        command: Launch line.
        max_scf: Most electronic iterations at one geometry.
        folder: Absolute folder of its files.
        pseudo_dir: Folder with a pseudopotential for each element.
    """

    def __init__(
        self, settings: Mapping[str, Any], command: str, max_scf: int, folder: Path, pseudo_dir: Path
    ) -> None:
        super().__init__(settings, command, max_scf, folder)
        self._pseudo_dir = pseudo_dir
        self._symmetries = list(SYMMETRIES)

    def close(self) -> None:
        """Remove wavefunctions, densities and tables that nobody reads again."""
        clear(self._folder)

    def _computed(self, atoms: Atoms, kpts: tuple[int, int, int]) -> dict[str, Any]:
        pseudos = pseudos_of(atoms, self._pseudo_dir)
        options = ground_state(self._settings, atoms, kpts, pseudos)
        options |= {"nstep": self._max_scf, "optstress": int(self._wants_stress), **cured_options(cures())}
        if (self._folder / WAVEFUNCTIONS).exists():
            options["getwfk_filepath"] = f'"{WAVEFUNCTIONS}"'
        while True:
            try:
                chosen = {**options, **self._symmetries[0]}
                run_abinit(self._folder, NAME, self._command, atoms=atoms, options=chosen, pseudos=pseudos)
            except CodeCrashedError as error:
                if "symmetr" not in str(error).lower() or len(self._symmetries) == 1:
                    raise
                self._symmetries.pop(0)
            else:
                break
        found = results_of(self._folder / f"{NAME}.abo")
        (self._folder / f"{NAME}o_WFK").replace(self._folder / WAVEFUNCTIONS)
        return found


def ground_state(
    settings: Mapping[str, Any], atoms: Atoms, kpts: Sequence[int], pseudos: Mapping[str, Path]
) -> dict[str, Any]:
    """Return ABINIT's variables for a ground state; energies in eV, as ASE writes them."""
    return {
        "ixc": FUNCTIONALS[settings["xc"]],
        "ecut": settings["ecut_ev"],
        "ecutsm": CUTOFF_SMOOTHING_EV / Hartree,
        "kptopt": 1,
        "ngkpt": list(kpts),
        "nshiftk": 1,
        "shiftk": [0.0, 0.0, 0.0],
        "chksymbreak": 0,  # a mesh, or a translation, that fits no symmetry costs time, and is no mistake
        "chksymtnons": 0,
        "occopt": 3,
        "tsmear": settings["smearing_ev"],
        "nband": n_bands(atoms, {element: valence_of(path) for element, path in pseudos.items()}),
        "tolvrs": settings["converge_potential_ha2"],
        "prtden": 0,
        "prteig": 0,
        "prtebands": 0,
    }


def cured_options(cured: AbstractSet[Cure]) -> dict[str, Any]:
    """Return the variables that cures change: less of the new potential; more steps of the eigensolver between two."""
    slow = {"diemix": 0.2} if Cure.SLOW_MIXING in cured else {}
    other = {"nline": 8, "nnsclo": 2} if Cure.OTHER_ALGORITHM in cured else {}
    return {**slow, **other}


def n_bands(atoms: Atoms, valences: Mapping[str, float]) -> int:
    """Return how many bands a smeared calculation needs: the filled ones, a fifth more, and a few for small cells."""
    electrons = sum(valences[element] for element in atoms.get_chemical_symbols())
    magnetic = float(abs(atoms.get_initial_magnetic_moments()).sum()) / 2
    return math.ceil(0.6 * electrons + magnetic + len(atoms) / 2) + 2


def pseudos_of(atoms: Atoms, folder: Path) -> dict[str, Path]:
    """Return the pseudopotential of each element, by atomic number as ABINIT counts the types.

    Raises:
        MissingSetupError: There is none for an element.
    """
    known = pseudos_in(folder)
    elements = [atom.symbol for atom in sorted(atoms, key=lambda atom: atom.number)]
    missing = sorted({element for element in elements if element not in known})
    if missing:
        raise MissingSetupError(f"no pseudopotential *.psp8 for {', '.join(missing)} in {folder}")
    return {element: known[element] for element in elements}


def pseudos_in(folder: Path) -> dict[str, Path]:
    """Return the pseudopotentials of a folder by element: `Si.psp8`; else a variant, as `Zn-sp.psp8`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.psp8"), key=lambda path: (len(path.name), path.name)):
        found.setdefault(re.split(r"[-_.]", path.name)[0], path)
    return found


def valence_of(pseudo: Path) -> float:
    """Return the valence electrons that a pseudopotential stands for: the second number of its second line.

    Raises:
        OutputParseError: It has none there.
    """
    try:
        with pseudo.open(encoding="utf-8", errors="replace") as handle:
            return float((handle.readline(), handle.readline().split())[1][1])
    except (OSError, ValueError, IndexError) as error:
        raise OutputParseError(f"the pseudopotential {pseudo} cannot be read: {error}") from error


def run_abinit(
    folder: Path,
    name: str,
    command: str,
    *,
    atoms: Atoms,
    options: Mapping[str, Any],
    pseudos: Mapping[str, Path],
) -> None:
    """Write `name`.in, run ABINIT on it until it ends, and see that its results `name`.abo are whole.

    Raises:
        SCFError: The electronic cycle, or that of a response, did not settle.
        MissingSetupError: There is no such program.
        MemoryError: Memory ran out.
        CodeCrashedError: ABINIT ended with another error.
        OutputParseError: It ended well, but its results are torn.
    """
    results = folder / f"{name}.abo"
    results.unlink(missing_ok=True)  # else ABINIT takes another name
    with (folder / f"{name}.in").open("w", encoding="utf-8") as handle:
        write_abinit_in(
            handle,
            atoms,
            param=dict(options),
            species=sorted(set(atoms.numbers)),
            pseudos=[str(path) for path in pseudos.values()],
        )
    run_code([*words_of(command), f"{name}.in"], folder, f"{name}.log", complaint=complaint_in)
    text = text_of(results)
    if "not enough SCF cycles to converge" in text:
        raise SCFError(f"ABINIT did not converge in {options.get('nstep')} electronic iterations")
    if "Calculation completed" not in text:
        raise OutputParseError(
            f"{results.name} is torn: ABINIT did not say that it completed the calculation"
        )


def complaint_in(log: str) -> str:
    """Return what ABINIT's log calls errors, on one line."""
    found = re.findall(
        r"ERROR -\n(.*?)\n\n|--- !(?:ERROR|BUG)\n.*?message: \|\n(.*?)\n\.\.\.", log, re.DOTALL
    )
    return " / ".join(" ".join(one.split()) for pair in found for one in pair if one)


def results_of(path: Path) -> dict[str, Any]:
    """Read energy, free energy, forces and stress, in ASE's units.

    Raises:
        OutputParseError: They are not all there.
    """
    entropy = re.search(r"'-kT\*entropy'\s*:\s*(\S+)", text_of(path))
    with reading(path):
        with path.open(encoding="utf-8", errors="replace") as handle:
            found = read_abinit_out(handle)
        free = float(found["energy"])
        energy = free - 0.5 * (float(entropy.group(1)) * Hartree if entropy else 0.0)
        known = {name: found[name] for name in ("forces", "stress") if name in found}
        return {"energy": energy, "free_energy": free, "forces": found["forces"], **known}


def clear(folder: Path) -> None:
    """Remove ABINIT's large files; input, results and log stay."""
    for pattern in ("*_WFK*", "*_1WF*", "*_DEN*", "*_POT*", "*.nc", "*_EIG", "*_DDB"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
