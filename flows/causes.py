"""Why an engine failed, read from its exception: by type, then by the words that engines use."""

from __future__ import annotations

from flows.schemas import FailureCause

WORDS: tuple[tuple[FailureCause, tuple[str, ...]], ...] = (
    (FailureCause.SCF_NOT_CONVERGED, ("did not converge", "convergenceerror", "scf")),
    (FailureCause.OUT_OF_MEMORY, ("memoryerror", "out of memory", "cannot allocate", "unable to allocate")),
    (
        FailureCause.BAD_GEOMETRY,
        (
            "overlap", "atoms are too close", "too close", "singular matrix", "no setup", "setupnotfound",
            "could not find required paw", "lattice vectors", "zero volume", "gridboundserror",
        ),
    ),
    (FailureCause.PARSE_ERROR, ("parse", "unexpected end of file", "jsondecodeerror")),
)  # fmt: skip
"""Words of messages and exception names, in lower case; the first group that has one decides."""


class IonicNotConvergedError(RuntimeError):
    """A relaxation ended before the forces were small."""


class BadGeometryError(ValueError):
    """A crystal that no engine can compute."""


def classify(error: BaseException) -> FailureCause:
    """Return the cause of a failure."""
    if isinstance(error, IonicNotConvergedError):
        return FailureCause.IONIC_NOT_CONVERGED
    if isinstance(error, BadGeometryError):
        return FailureCause.BAD_GEOMETRY
    if isinstance(error, MemoryError):
        return FailureCause.OUT_OF_MEMORY
    said = f"{type(error).__name__}: {error}".lower()
    for cause, words in WORDS:
        if any(word in said for word in words):
            return cause
    return FailureCause.UNKNOWN
