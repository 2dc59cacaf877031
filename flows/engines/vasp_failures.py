"""Why a VASP job failed: told from what it left, because custodian and atomate2 tell most of it in one class."""

from __future__ import annotations

import re
import warnings
from collections import deque
from pathlib import Path

from custodian.custodian import CustodianError, ValidationError
from pymatgen.io.vasp import Vasprun

from flows.causes import BadGeometryError, IonicNotConvergedError, OutputParseError

SAID_IN = ("std_err.txt", "vasp.out")
"""Where VASP and its launcher say what went wrong."""
LINES = 8
"""Of each that are told."""


class VaspSetupError(RuntimeError):
    """VASP cannot start here: its command, a POTCAR or their settings are missing or wrong."""


class ScfNotConvergedError(RuntimeError):
    """The electronic cycle did not settle."""


class VaspEndedError(RuntimeError):
    """VASP ended with an error of its own."""


class VaspMemoryError(MemoryError):
    """VASP was killed as the kernel kills what uses up the memory."""


def typed(error: Exception, folder: Path) -> Exception:
    """Return the exception that says why a VASP job failed.

    Args:
        error: What custodian, atomate2 or the parsers raised.
        folder: Of the job; holds only this try's files.
    """
    if missing := missing_setup(error):
        return VaspSetupError(missing)
    if not isinstance(error, CustodianError) and not (folder / "vasp.out").exists():
        return error  # before VASP started
    ended = ended_badly(error, folder)
    if ended is not None:
        return ended
    run = readable_run(folder)
    if run is None or isinstance(error, ValidationError):
        return OutputParseError(f"vasprun.xml or another output is missing or not whole{last_words(folder)}")
    if not run.converged_electronic:
        return ScfNotConvergedError(
            f"{len(run.ionic_steps[-1]['electronic_steps'])} electronic iterations were not enough ({error})"
        )
    if not run.converged_ionic:
        return IonicNotConvergedError(
            f"forces are still large after {len(run.ionic_steps)} steps; the next try goes on from there"
        )
    if isinstance(error, CustodianError):
        return error
    if not run.final_structure.is_valid():
        return BadGeometryError("VASP moved atoms on top of one another")
    return OutputParseError(f"VASP's outputs cannot be read: {type(error).__name__}: {error}")


def missing_setup(error: Exception) -> str:
    """Return what is missing where an exception says so, an empty string otherwise."""
    said = " ".join(str(error).split())
    if type(error).__name__ == "PmgVaspPspDirError" or "PMG_VASP_PSP_DIR" in said:
        return f"{said}; cure: set PMG_VASP_PSP_DIR to a POTCAR library that has it, see `pmg config --help`"
    if isinstance(error, VaspSetupError):
        return said
    if isinstance(error, FileNotFoundError | PermissionError) and error.filename and error.errno:
        return f"{error.filename} cannot be started ({error.strerror}); cure: correct engine_options: {{command: ...}}"
    return ""


def ended_badly(error: Exception, folder: Path) -> Exception | None:
    """Return what a return code other than 0 means; None if there was none."""
    found = re.search(r"return code is (-?\d+)", str(error))
    if found is None:
        return None
    code, words = int(found[1]), last_words(folder)
    if code == 127 or (code == 126):
        return VaspSetupError(f"the launch line does not find VASP (exit code {code}){words}")
    if code in (-9, 137):
        return VaspMemoryError(f"VASP was killed (signal 9), as happens when the memory runs out{words}")
    return VaspEndedError(f"VASP ended with exit code {code}{words}")


def readable_run(folder: Path) -> Vasprun | None:
    """Return what vasprun.xml says; None if it is missing or not whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Vasprun(folder / "vasprun.xml", parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    except Exception:  # whatever a torn file makes of a parser
        return None
    return run if run.ionic_steps else None


def last_words(folder: Path) -> str:
    """Return the ends of what VASP and its launcher printed."""
    told = []
    for name in SAID_IN:
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as handle:
                told += [line.strip() for line in deque(handle, maxlen=LINES) if line.strip()]
        except OSError:
            continue
    return f": {' | '.join(told)}" if told else ""
