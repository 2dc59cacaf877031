"""Quantum ESPRESSO's pw.x as an ASE calculator: a run for each geometry, begun from the density of the one before.

ASE writes the input and reads forces, stress and free energy. The energy is extrapolated to zero smearing width: with
the Fermi-Dirac distribution it is F + TS/2 (M. J. Gillan, J. Phys.: Condens. Matter 1, 689 (1989)).

Plane waves above the cut-off are made costly by a step in the kinetic energy (`ecfixed`, `qcutz`, `q2sigma`;
M. Bernasconi et al., J. Phys. Chem. Solids 56, 501 (1995)), a little below where they really end. They come and go
without a jump as the cell changes, and the stress is the derivative of the recorded energy at a fixed cut-off.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import SCFError
from ase.io.espresso import read_espresso_out, write_espresso_in
from ase.units import Ry

from flows.causes import CodeCrashedError, MissingSetupError, OutputParseError
from flows.cures import Cure
from flows.engines.code_calculator import CodeCalculator, reading
from flows.engines.code_run import run_code, text_of, words_of
from flows.job_context import cures

NAME = "espresso"
"""Of the files `espresso.pwi` (input) and `espresso.pwo` (results), and of the folder `espresso.save`."""
STEP_WIDTH_RY = 2.0
"""Width of the step in the kinetic energy [Ry]."""
STEP_HEIGHT = 2.0
"""Half of its height, in units of the cut-off."""
MARGIN = 3.0
"""How far above the cut-off waves really end, in widths of the step."""
UNCONVERGED = "convergence NOT achieved"
"""What pw.x says where its cycle did not settle; by its version it ends with a status of 2 or 0 then."""
SYMMETRIES: tuple[dict[str, Any], ...] = ({}, {"nosym": True})
"""All symmetry that pw.x finds; none where it cannot use what it finds, as in a crystal that is almost symmetric."""


class EspressoCalculator(CodeCalculator):
    """pw.x; parameters are those of its base.

    Args:
        settings: What `EspressoEngine.settings` gives.
        command: Launch line.
        max_scf: Most electronic iterations at one geometry.
        folder: Absolute folder of its files.
        pseudo_dir: Folder with a pseudopotential for each element; None if nobody said one.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        command: str,
        max_scf: int,
        folder: Path,
        *,
        pseudo_dir: Path | None,
    ) -> None:
        super().__init__(settings, command, max_scf, folder)
        self._pseudo_dir = pseudo_dir
        self._symmetries = list(SYMMETRIES)

    def close(self) -> None:
        """Remove density and wavefunctions, which only the next geometry would have used."""
        shutil.rmtree(self._folder / f"{NAME}.save", ignore_errors=True)
        for pattern in (f"{NAME}.wfc*", f"{NAME}.mix*", f"{NAME}.restart*"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _computed(self, atoms: Atoms, kpts: tuple[int, int, int]) -> dict[str, Any]:
        pseudos = pseudos_of(atoms, self._pseudo_dir)
        known = (self._folder / f"{NAME}.save" / "charge-density.dat").exists()
        while True:
            options = {
                **namelist(self._settings),
                **cycle_options(cures()),
                "electron_maxstep": self._max_scf,
                "tstress": self._wants_stress,
                "pseudo_dir": str(self._pseudo_dir),
                "startingpot": "file" if known else "atomic",
                **self._symmetries[0],
            }
            with (self._folder / f"{NAME}.pwi").open("w", encoding="utf-8") as handle:
                write_espresso_in(
                    handle, atoms, input_data=options, pseudopotentials=pseudos, kpts=kpts, koffset=(0, 0, 0)
                )
            try:
                words = [*words_of(self._command), "-in", f"{NAME}.pwi"]
                run_code(words, self._folder, f"{NAME}.pwo", complaint=complaint_in)
            except CodeCrashedError as error:
                if UNCONVERGED in text_of(self._folder / f"{NAME}.pwo"):
                    # from None: the status that pw.x ended with is no cause of its own
                    raise SCFError(
                        f"pw.x did not converge in {self._max_scf} electronic iterations"
                    ) from None
                if "symm" not in str(error).lower() or len(self._symmetries) == 1:
                    raise
                self._symmetries.pop(0)
            else:
                break
        return results_of(self._folder / f"{NAME}.pwo")


def namelist(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return pw.x's variables for a ground state."""
    ecut = settings["ecut_ev"] / Ry
    wave_end = ecut + MARGIN * STEP_WIDTH_RY
    return {
        "calculation": "scf",
        "prefix": NAME,
        "outdir": ".",
        "disk_io": "nowf",  # the density alone is kept
        "tprnfor": True,
        "ecutwfc": wave_end,
        "ecutrho": settings["density_factor"] * wave_end,
        "ecfixed": ecut,
        "qcutz": STEP_HEIGHT * ecut,
        "q2sigma": STEP_WIDTH_RY,
        "occupations": "smearing",
        "smearing": "fermi-dirac",
        "degauss": settings["smearing_ev"] / Ry,
        "conv_thr": settings["converge_energy_ry"],
    }


def cycle_options(cured: AbstractSet[Cure]) -> dict[str, Any]:
    """Return how the electronic cycle is run, which changes what it takes and not what it gives."""
    other = {"diagonalization": "cg"} if Cure.OTHER_ALGORITHM in cured else {}
    return {"mixing_beta": 0.2 if Cure.SLOW_MIXING in cured else 0.5, **other}


def pseudos_of(atoms: Atoms, folder: Path | None) -> dict[str, str]:
    """Return the file of each element.

    Raises:
        MissingSetupError: There is no folder, or none for an element.
    """
    known = pseudos_in(folder)
    missing = sorted(set(atoms.get_chemical_symbols()) - set(known))
    if missing:
        raise MissingSetupError(f"no pseudopotential *.UPF for {', '.join(missing)} in pseudo_dir {folder}")
    return {element: known[element] for element in sorted(set(atoms.get_chemical_symbols()))}


def pseudos_in(folder: Path | None) -> dict[str, str]:
    """Return the files of a folder by element: «Si.pbe-….UPF», «si_pbe_….upf»; the shortest name where several are."""
    found: dict[str, str] = {}
    paths = (
        [path for path in folder.iterdir() if path.suffix.lower() == ".upf"]
        if folder and folder.is_dir()
        else []
    )
    for path in sorted(paths, key=lambda path: (len(path.name), path.name)):
        found.setdefault(re.split(r"[-_.]", path.name)[0].capitalize(), path.name)
    return found


def results_of(path: Path) -> dict[str, Any]:
    """Read energy, free energy, forces and stress, in ASE's units.

    Raises:
        SCFError: The electronic cycle did not settle.
        OutputParseError: They are not all there.
    """
    said = text_of(path)
    if UNCONVERGED in said:
        raise SCFError("pw.x did not converge in its electronic iterations")
    if "JOB DONE." not in said:
        raise OutputParseError(f"{path.name} is torn: pw.x did not say that its job is done")
    entropic = re.findall(r"smearing contrib\. \(-TS\)\s*=\s*(\S+) Ry", said)
    with reading(path):
        with path.open(encoding="utf-8", errors="replace") as handle:
            found = list(read_espresso_out(handle, index=slice(None)))[-1].calc.results
        free = float(found["free_energy"])
        known = {name: found[name] for name in ("forces", "stress") if found.get(name) is not None}
        energy = free - 0.5 * (float(entropic[-1]) * Ry if entropic else 0.0)
        return {"energy": energy, "free_energy": free, "forces": found["forces"], **known}


def complaint_in(log: str) -> str:
    """Return what pw.x's output tells between lines of per cent signs, on one line."""
    found = re.findall(r"%{20,}\n(.*?)\n\s*%{20,}", log, re.DOTALL)
    return " / ".join(dict.fromkeys(" ".join(one.split()) for one in found))
