"""Why a job failed, read from its exception: by its type, by its name, and last by the words that codes use.

Engines are not imported here, so their exceptions are known by name. A named class decides before any words, and
the exceptions that led to an exception (`__cause__`, `__context__`) are asked as well, the innermost last.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator

from flows.schemas import FailureCause, FailureInfo


class IonicNotConvergedError(RuntimeError):
    """A relaxation ended before the forces were small."""


class BadGeometryError(ValueError):
    """A crystal that no engine can compute."""


class MissingSetupError(RuntimeError):
    """A pseudopotential, a PAW dataset or the code itself is missing where the job runs."""


class CodeCrashedError(RuntimeError):
    """The code's own process was killed, or ended with an error that says nothing better."""


class OutputParseError(ValueError):
    """An engine ran, but what it left cannot be read."""


class JobTimeError(RuntimeError):
    """A job used up the time that it was given."""


class BlockEndedError(JobTimeError):
    """The walltime of the worker's block is about to end: the machine's limit, not the job's own."""


class WorkerEndedError(RuntimeError):
    """The worker was told to end (SIGTERM), as batch systems do when they take a node back."""


TYPES: tuple[tuple[type[BaseException], FailureCause], ...] = (
    (IonicNotConvergedError, FailureCause.IONIC_NOT_CONVERGED),
    (BadGeometryError, FailureCause.BAD_GEOMETRY),
    (MissingSetupError, FailureCause.MISSING_SETUP),
    (CodeCrashedError, FailureCause.CODE_CRASHED),
    (OutputParseError, FailureCause.PARSE_ERROR),
    (JobTimeError, FailureCause.WALLTIME),
    (WorkerEndedError, FailureCause.NODE_LOST),
    (MemoryError, FailureCause.OUT_OF_MEMORY),
    (json.JSONDecodeError, FailureCause.PARSE_ERROR),
)
"""Exceptions that are known as classes."""

NAMES: dict[str, FailureCause] = {
    # GPAW
    "KohnShamConvergenceError": FailureCause.SCF_NOT_CONVERGED,
    "PoissonConvergenceError": FailureCause.SCF_NOT_CONVERGED,
    "ConvergenceError": FailureCause.SCF_NOT_CONVERGED,
    "AtomsTooClose": FailureCause.BAD_GEOMETRY,
    "GridBoundsError": FailureCause.BAD_GEOMETRY,
    # ASE
    "SCFError": FailureCause.SCF_NOT_CONVERGED,
    "ReadError": FailureCause.PARSE_ERROR,
    "CalculatorSetupError": FailureCause.MISSING_SETUP,
    "BadConfiguration": FailureCause.MISSING_SETUP,
    "EnvironmentError": FailureCause.MISSING_SETUP,
    "CalculationFailed": FailureCause.CODE_CRASHED,
    # VASP
    "ScfNotConvergedError": FailureCause.SCF_NOT_CONVERGED,
    # accelerators
    "OutOfMemoryError": FailureCause.OUT_OF_MEMORY,
    # executors: the process, the manager or the node went away
    "BrokenProcessPool": FailureCause.NODE_LOST,
    "BrokenThreadPool": FailureCause.NODE_LOST,
    "BrokenExecutor": FailureCause.NODE_LOST,
    "ManagerLost": FailureCause.NODE_LOST,
    "WorkerLost": FailureCause.NODE_LOST,
    "AppTimeout": FailureCause.WALLTIME,
}
"""Exceptions that are known by the name of their class or of one of its bases."""

WORDS: tuple[tuple[FailureCause, tuple[str, ...]], ...] = (
    (FailureCause.OUT_OF_MEMORY, ("out of memory", "cannot allocate memory", "unable to allocate")),
    (FailureCause.SCF_NOT_CONVERGED, ("did not converge in", "scf not converged", "scf did not converge")),
    (FailureCause.BAD_GEOMETRY, ("atoms too close", "atoms are too close")),
    (FailureCause.MISSING_SETUP, ("could not find required paw dataset", "could not find setup")),
)
"""Words of messages, in lower case; the first group of which one occurs decides."""


def classify(error: BaseException) -> FailureCause:
    """Return the cause of a failure."""
    chain = list(_chain(error))
    for one in chain:
        for kind, cause in TYPES:
            if isinstance(one, kind):
                return cause
    for one in chain:
        for base in type(one).__mro__:
            if base.__name__ in NAMES:
                return NAMES[base.__name__]
    for one in chain:
        said = str(one).lower()
        for cause, words in WORDS:
            if any(word in said for word in words):
                return cause
    return FailureCause.UNKNOWN


def failure_of(error: BaseException) -> FailureInfo:
    """Return an exception as a document: cause, one line, end of the traceback."""
    line = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")[:500]
    detail = "".join(traceback.format_exception(error))[-4000:]
    block_ended = any(isinstance(one, BlockEndedError) for one in _chain(error))
    return FailureInfo(cause=classify(error), message=line, detail=detail, block_ended=block_ended)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those that led to it, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
