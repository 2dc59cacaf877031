"""CP2K through ASE's calculator: one process for all geometries of a job, each begun from the density before it.

The free energy F is CP2K's. The recorded energy is extrapolated to zero smearing width: with the Fermi-Dirac
distribution it is F + TS/2 (M. J. Gillan, J. Phys.: Condens. Matter 1, 689 (1989)).

K-points are listed one by one, Γ-centred, as CP2K's own meshes of even numbers leave out Γ and with it the symmetry of
the crystal. Of k and -k one is kept; CP2K uses no other symmetry. The basis moves with the atoms, so the stress has no
part that the cut-off would add: the cut-off is that of the grid for the density alone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.calculator import SCFError
from ase.calculators.cp2k import CP2K
from ase.units import Rydberg, kB

from flows.causes import CodeCrashedError, MissingSetupError, OutputParseError
from flows.cures import Cure
from flows.engines.code_calculator import CodeCalculator
from flows.engines.code_run import (
    MEMORY_WORDS,
    bound_to_worker,
    end_group,
    environment,
    last_lines,
    launched,
    text_of,
    words_of,
)
from flows.engines.cp2k_data import Kind
from flows.job_context import cures

NAME = "cp2k"
"""Of the files: `cp2k.inp`, `cp2k.out`, `cp2k.err`."""

TEMPLATE = """
&FORCE_EVAL
  &DFT
{files}
    &QS
      EPS_DEFAULT {eps}
      EXTRAPOLATION USE_PREV_P
    &END QS
    &MGRID
      REL_CUTOFF [Ry] {rel_cutoff}
    &END MGRID
    &KPOINTS
      SCHEME GENERAL
{kpoints}
    &END KPOINTS
    &SCF
      ADDED_MOS {added}
      EPS_SCF {eps_scf}
      &SMEAR ON
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] {kelvin}
      &END SMEAR
      &MIXING
        METHOD {mixing}
        ALPHA {alpha}
      &END MIXING
      &PRINT
        &RESTART OFF
        &END RESTART
      &END PRINT
    &END SCF
  &END DFT
  &SUBSYS
{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""
"""Input that ASE completes with cell, atoms, functional and cut-off."""

MIXING, OTHER_MIXING = "BROYDEN_MIXING", "PULAY_MIXING"
"""How densities are mixed, and how after they did not settle."""
ALPHA, SLOW_ALPHA = 0.4, 0.1
"""How much of the new density is mixed in."""


class Cp2kCalculator(CodeCalculator):
    """CP2K with Gaussians and plane waves.

    Args:
        settings: What `Cp2kEngine.settings` gives.
        command: Launch line, without the `-s` that makes CP2K wait for orders.
        max_scf: Most electronic iterations at one geometry.
        folder: Absolute folder of its files.
        files: Files with basis sets and, last, the one with pseudopotentials.
        kinds: What each element is computed with.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        command: str,
        max_scf: int,
        folder: Path,
        *,
        files: tuple[Path, ...],
        kinds: Mapping[str, Kind],
    ) -> None:
        super().__init__(settings, command, max_scf, folder)
        self._files = files
        self._kinds = dict(kinds)
        self._cp2k: CP2K | None = None

    def close(self) -> None:
        """End CP2K."""
        running, self._cp2k = self._cp2k, None
        if running is not None:
            end_unless_ready(running)
            with warnings.catch_warnings(), contextlib.suppress(AssertionError, OSError, ValueError):
                warnings.simplefilter("ignore")  # about a CP2K that is ended in the midst of its work
                running.close()

    def _computed(self, atoms: Atoms, kpts: tuple[int, int, int]) -> dict[str, Any]:
        self._refuse_missing(atoms)
        out = self._folder / f"{NAME}.out"
        try:
            if self._cp2k is None:
                out.unlink(missing_ok=True)  # CP2K would go on at its end
                self._cp2k = self._started(atoms, kpts)
            atoms.calc = self._cp2k
            free = float(atoms.get_potential_energy())
            found = {"forces": atoms.get_forces(), "stress": atoms.get_stress()}
        # ASE asserts what CP2K answers; a process that has died answers nothing
        except (AssertionError, ValueError, OSError, RuntimeError, AttributeError) as error:
            if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
                raise  # not ASE's: whoever limits this job's time, for one, interrupts it here
            self.close()
            raise crash_told(text_of(out), text_of(self._folder / f"{NAME}.err")) from error
        said = text_of(out)
        if "SCF run NOT converged" in said:
            raise SCFError(f"CP2K did not converge in {self._max_scf} electronic iterations")
        return {"energy": free - 0.5 * entropic_energy_ev(said), "free_energy": free, **found}

    def _refuse_missing(self, atoms: Atoms) -> None:
        words = words_of(self._command)
        if not words or shutil.which(words[0]) is None:
            raise MissingSetupError(
                f"there is no program {self._command!r} here; install CP2K, or set the engine's `command`"
            )
        missing = sorted(set(atoms.get_chemical_symbols()) - set(self._kinds))
        if missing:
            raise MissingSetupError(
                f"no basis set and pseudopotential for {', '.join(missing)} in {self._files}"
            )

    def _started(self, atoms: Atoms, kpts: tuple[int, int, int]) -> CP2K:
        settings = self._settings
        return CP2K(
            label=NAME,  # a project's name with its folder would have to have less than 80 characters
            command=shell_line(words_of(self._command), self._folder),
            xc=settings["xc"],
            cutoff=settings["cutoff_ry"] * Rydberg,
            basis_set=None,
            basis_set_file=None,
            potential_file=str(self._files[-1]),
            pseudo_potential=None,
            max_scf=self._max_scf,
            print_level="MEDIUM",
            stress_tensor=self._wants_stress,
            inp=template(settings, atoms, kpts, self._files[:-1], self._kinds),
        )


def template(
    settings: Mapping[str, Any],
    atoms: Atoms,
    kpts: tuple[int, int, int],
    bases: tuple[Path, ...],
    kinds: Mapping[str, Kind],
) -> str:
    """Return the part of the input that ASE does not write."""
    symbols = atoms.get_chemical_symbols()
    return TEMPLATE.format(
        files="\n".join(f"    BASIS_SET_FILE_NAME {path}" for path in bases),
        eps=settings["eps_default"],
        rel_cutoff=settings["rel_cutoff_ry"],
        kpoints="\n".join(
            f"      KPOINT {x:.12f} {y:.12f} {z:.12f} {weight}" for (x, y, z), weight in half_mesh(kpts)
        ),
        added=empty_bands(sum(kinds[symbol].valence for symbol in symbols), len(atoms)),
        eps_scf=settings["converge_density"],
        mixing=OTHER_MIXING if Cure.OTHER_ALGORITHM in cures() else MIXING,
        alpha=SLOW_ALPHA if Cure.SLOW_MIXING in cures() else ALPHA,
        kelvin=settings["smearing_ev"] / kB,
        kinds="\n".join(
            f"    &KIND {symbol}\n      BASIS_SET {kinds[symbol].basis}\n"
            f"      POTENTIAL {kinds[symbol].potential}\n    &END KIND"
            for symbol in sorted(set(symbols))
        ),
    )


def half_mesh(kpts: tuple[int, int, int]) -> list[tuple[tuple[float, float, float], int]]:
    """Return the Γ-centred mesh in units of the reciprocal vectors, one of k and -k, with weights 1 and 2."""
    weights: dict[tuple[int, ...], int] = {}
    for point in itertools.product(*(range(number) for number in kpts)):
        opposite = tuple(-step % number for step, number in zip(point, kpts, strict=True))
        key = min(point, opposite)
        weights[key] = weights.get(key, 0) + 1
    return [
        ((x / kpts[0], y / kpts[1], z / kpts[2]), weight) for (x, y, z), weight in sorted(weights.items())
    ]


def empty_bands(electrons: int, n_atoms: int) -> int:
    """Return how many bands smeared electrons need above the filled ones: a fifth of them, and a few."""
    return math.ceil(0.1 * electrons + n_atoms / 2) + 2


def shell_line(words: tuple[str, ...], folder: Path) -> str:
    """Return the shell words that start CP2K in a folder, waiting for orders and bound to this worker."""
    settings = environment()
    names = ("OMP_NUM_THREADS", "OMPI_MCA_ess_singleton_isolated")
    session = ["setsid"] if shutil.which("setsid") else []
    variables = [f"{name}={settings[name]}" for name in names]
    command = [*session, "env", *variables, *bound_to_worker([*launched(words), "-s"])]
    return f"cd {shlex.quote(str(folder))} && exec {shlex.join(command)} 2>{NAME}.err"


def end_unless_ready(running: CP2K) -> None:
    """End a CP2K in the midst of its work with all that it has started; ASE would wait for its end without one."""
    shell = running._shell
    child = getattr(shell, "_child", None)
    if child is None or shell.isready or child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(child.pid) == child.pid:
            end_group(child)
        else:  # without `setsid` it shares the group of its worker
            child.kill()


def entropic_energy_ev(out: str) -> float:
    """Return -TS [eV] of the last geometry in CP2K's output.

    Raises:
        OutputParseError: It is not there.
    """
    found = re.findall(r"Electronic entropic energy:\s+(\S+)", out)
    if not found:
        raise OutputParseError(f"no electronic entropy in {NAME}.out")
    return float(found[-1]) * 2 * Rydberg


def crash_told(out: str, errors: str) -> Exception:
    """Return the exception for a CP2K that stopped answering, from its output and its standard error."""
    said = " ".join(re.findall(r"^ ?\*[ *]*((?:\w|\[).*?)[ *]*$", out.rpartition("ABORT")[2], re.MULTILINE))
    message = said.strip() or last_lines(errors) or last_lines(out)
    if any(word in (message + errors).lower() for word in MEMORY_WORDS):
        return MemoryError(f"CP2K ran out of memory: {message}")
    return CodeCrashedError(f"CP2K stopped answering: {message}")
