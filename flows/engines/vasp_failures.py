"""Why a VASP job failed: told from what it left, because custodian and atomate2 tell most of it in one class."""

from __future__ import annotations

import json
import signal
import warnings
from collections import deque
from pathlib import Path

from custodian.custodian import CustodianError, ValidationError
from pymatgen.io.vasp import Vasprun

from flows.causes import (
    BadGeometryError,
    CodeCrashedError,
    IonicNotConvergedError,
    JobTimeError,
    MissingSetupError,
    OutputParseError,
)
from flows.engines.code_run import MEMORY_WORDS

SAID_IN = ("std_err.txt", "vasp.out")
"""Where VASP and its launcher say what went wrong."""
LINES = 8
"""Of each that are told."""
EXIT_CODE = "vasp.exit"
"""File in which the launch line notes how VASP ended."""
KILLED = 128 + signal.SIGKILL
ENDED_FROM_OUTSIDE = 128 + signal.SIGTERM
"""Exit codes as a shell tells them; custodian itself ends a VASP that it watches by the second."""
COMMAND_CURE = "cure: correct engine_options: {command: ...}, or load VASP's module in the site's worker_init"


class VaspSetupError(MissingSetupError):
    """VASP cannot start here: its command, a POTCAR or their settings are missing or wrong."""


class ScfNotConvergedError(RuntimeError):
    """The electronic cycle did not settle."""


class VaspEndedError(CodeCrashedError):
    """VASP ended with an error of its own."""


class VaspMemoryError(MemoryError):
    """VASP says so, or was killed as the kernel kills what uses up the memory."""


def typed(error: Exception, folder: Path) -> Exception:
    """Return the exception that says why a VASP job failed.

    Args:
        error: What custodian, atomate2 or the parsers raised.
        folder: Of the job; holds only this try's files.
    """
    if isinstance(error, JobTimeError | MemoryError):
        return error  # the job's limits
    if missing := missing_setup(error):
        return VaspSetupError(missing)
    if not (folder / "vasp.out").exists():
        return error  # before VASP started
    return ended_badly(folder) or not_converged(error, folder) or not_understood(error, folder)


def missing_setup(error: Exception) -> str:
    """Return what is missing where an exception says so, an empty string otherwise."""
    said = " ".join(str(error).split())
    if type(error).__name__ == "PmgVaspPspDirError" or "PMG_VASP_PSP_DIR" in said:
        return f"{said}; cure: set PMG_VASP_PSP_DIR to a POTCAR library that has it, see `pmg config --help`"
    if isinstance(error, VaspSetupError):
        return said
    if isinstance(error, FileNotFoundError | PermissionError) and error.filename and error.errno:
        return f"{error.filename} cannot be started ({error.strerror}); {COMMAND_CURE}"
    return ""


def ended_badly(folder: Path) -> Exception | None:
    """Return what VASP's exit code means; None if it is 0, not known, or custodian's doing."""
    try:
        code = int((folder / EXIT_CODE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    words = last_words(folder)
    if code in (0, ENDED_FROM_OUTSIDE):
        return None
    if code in (126, 127):
        return VaspSetupError(f"the launch line does not find VASP (exit code {code}){words}; {COMMAND_CURE}")
    if code == KILLED:
        return VaspMemoryError(f"VASP was killed (signal 9), as happens when the memory runs out{words}")
    if any(word in words.lower() for word in MEMORY_WORDS):
        return VaspMemoryError(f"VASP ended with exit code {code}{words}")
    return VaspEndedError(f"VASP ended with exit code {code}{words}")


def not_converged(error: Exception, folder: Path) -> Exception | None:
    """Return which cycle did not converge; None if both did, or vasprun.xml does not say."""
    if type(getattr(error, "handler", None)).__name__ == "NonConvergingErrorHandler":
        return ScfNotConvergedError(f"custodian gave up on the electronic cycle{met(folder)}")
    run = readable_run(folder)
    if run is not None and not run.converged_electronic:
        steps = len(run.ionic_steps[-1]["electronic_steps"])
        return ScfNotConvergedError(f"{steps} electronic iterations were not enough{met(folder)}")
    if run is not None and not run.converged_ionic:
        return IonicNotConvergedError(
            f"forces are still large after {len(run.ionic_steps)} steps; the next try goes on from there"
        )
    return None


def not_understood(error: Exception, folder: Path) -> Exception:
    """Return what is left: errors that custodian could not mend, torn outputs, atoms on top of one another."""
    if isinstance(error, CustodianError) and not isinstance(error, ValidationError):
        return VaspEndedError(f"{error}{met(folder)}{last_words(folder)}")
    run = readable_run(folder)
    if run is None or isinstance(error, ValidationError):
        return OutputParseError(f"vasprun.xml or another output is missing or not whole{last_words(folder)}")
    if not run.final_structure.is_valid():
        return BadGeometryError("VASP moved atoms on top of one another")
    return OutputParseError(f"VASP's outputs cannot be read: {type(error).__name__}: {error}")


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


def met(folder: Path) -> str:
    """Return the errors that custodian met, in order."""
    try:
        runs = json.loads((folder / "custodian.json").read_text(encoding="utf-8"))
        errors = [str(name) for run in runs for one in run["corrections"] for name in one["errors"]]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"; custodian met {', '.join(errors)}" if errors else ""
