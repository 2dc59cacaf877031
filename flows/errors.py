"""Errors of the flows package: what is wrong, the value got, the values allowed, and the cure.

FlowsError
├── UnknownFlowError       no such label flow or engine
├── EngineOptionsError     an engine's or a flow's options are wrong
├── ConditionError         a condition on label fields cannot be read, or does not fit their values
├── LabelInputError        a structure that no label can be computed for
├── LabelFlowError         a flow that cannot be run, such as one whose jobs wait for one another
├── JobStoreError          a JobStore lacks an additional store that a job saves to
├── JobFolderError         a job's folder cannot be used, or belongs to another job
└── ContractError          an engine breaks the contract in `flows.testing`
"""

from __future__ import annotations


class FlowsError(Exception):
    """A problem that the user can cure.

    Args:
        what: What is wrong, in one clause.
        value: The value that was got, if there is one.
        allowed: The values that would have been accepted.
        cure: What to do now.
    """

    def __init__(self, what: str, *, value: object = None, allowed: object = None, cure: str = "") -> None:
        self.what = what
        self.value = value
        self.allowed = allowed
        self.cure = cure
        super().__init__(self.one_line())

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Keep the four parts when an error crosses a process border."""
        return _rebuild, (type(self), self.what, self.value, self.allowed, self.cure)

    def one_line(self) -> str:
        """Return «what; got …; allowed: …; cure: …» on a single line."""
        parts = [self.what]
        if self.value is not None:
            parts.append(f"got {self.value!r}")
        if self.allowed is not None:
            allowed = self.allowed
            if isinstance(allowed, list | tuple | set | frozenset):
                allowed = ", ".join(str(item) for item in allowed)
            parts.append(f"allowed: {allowed}")
        if self.cure:
            parts.append(f"cure: {self.cure}")
        return " ".join("; ".join(parts).split())


def _rebuild(kind: type[FlowsError], what: str, value: object, allowed: object, cure: str) -> FlowsError:
    return kind(what, value=value, allowed=allowed, cure=cure)


class UnknownFlowError(FlowsError):
    """There is no such label flow or engine."""


class EngineOptionsError(FlowsError):
    """The options of an engine or a flow are wrong."""


class ConditionError(FlowsError):
    """A condition on label fields cannot be read, or does not fit their values."""


class LabelFlowError(FlowsError):
    """A flow that cannot be run."""


class JobStoreError(FlowsError):
    """A JobStore lacks an additional store that a job saves to."""


class LabelInputError(FlowsError):
    """No label can be computed for this structure: it is disordered, or holds elements the engine lacks."""


class JobFolderError(FlowsError):
    """A job's folder cannot be used, or belongs to another job."""


class ContractError(FlowsError):
    """An engine breaks the contract that `flows.testing` checks."""
