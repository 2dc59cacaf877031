"""The exception tree of the models package.

    ModelsError                   a user's mistake or an unusable input, told in one line
    ├── UnknownComponentError     no generator, head, discriminator or surrogate of that name
    ├── OptionsError              the component exists, its options are wrong
    ├── TrainingDataError         the crystals given to `fit` or `fine_tune` cannot serve
    ├── NotFittedError            `sample`, `predict`, `save`... before `fit` or `load`
    ├── CheckpointError           a checkpoint is missing, damaged, or of another kind or version
    ├── GeneError                     a Wyckoff gene that no crystal can have, or text that is none
    ├── DeviceError               the device asked for is not there
    ├── MissingPackageError       an optional package that a component needs is not installed
    └── ContractError             a component breaks the contract in `models.testing`

Every error says what is wrong, the value that was got, the values allowed, and the cure.
"""

from __future__ import annotations


class ModelsError(Exception):
    """A problem that the user of a model can cure.

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


def _rebuild(kind: type[ModelsError], what: str, value: object, allowed: object, cure: str) -> ModelsError:
    return kind(what, value=value, allowed=allowed, cure=cure)


class UnknownComponentError(ModelsError):
    """No generator, head, discriminator or surrogate goes by that name, or its module does not import."""


class OptionsError(ModelsError):
    """A component's options, or the conditions given to it, are wrong."""


class TrainingDataError(ModelsError):
    """The crystals given to `fit` or `fine_tune` cannot serve."""


class NotFittedError(ModelsError):
    """The model was asked for something before `fit` or `load`."""


class CheckpointError(ModelsError):
    """A checkpoint is missing, damaged, or of another kind or version."""


class GeneError(ModelsError):
    """A Wyckoff gene that no crystal can have, or a text that does not spell one."""


class DeviceError(ModelsError):
    """The device asked for is not on this machine."""


class MissingPackageError(ModelsError):
    """An optional package that a component needs is not installed."""


class ContractError(ModelsError):
    """A component breaks the contract that `models.testing` checks."""
