"""The exception tree of the campaign package.

    CampaignError                 a user's mistake or a machine's refusal, told in one line
    ├── ConfigError               campaign.yaml or a site file says something impossible
    ├── ReferenceDataError        the reference crystals cannot serve (missing file, missing elements)
    ├── ComponentError            a named generator, screen, policy, engine... is unknown or mis-optioned
    ├── StoreError                the store cannot be used
    │   ├── StoreUnreachableError     no answer from the server, or no permission on the file
    │   │   └── StoreAwayError            a server that answered before, and may again: a driver waits for it
    │   ├── DocumentRefusedError      no store takes this document, however often it is tried
    │   ├── StoreVersionError         written by a newer version of this software
    │   └── StoreFullError            no space left on the device
    ├── LeaseError                another driver holds, or has taken, this campaign
    ├── QueryError                a filter, field or collection that cannot be queried
    ├── SiteError                 pools cannot be started or sized
    └── RunNotFoundError          no campaign at the given path

Every error says what is wrong, the value that was got, the values allowed, and the cure.
"""

from __future__ import annotations

SHOWN = 400
"""Most characters of a value that an error shows."""


class CampaignError(Exception):
    """A problem that the user can cure; the command line prints it as one line and exits with 2.

    Args:
        what: What is wrong, in one clause.
        value: The value that was got, if there is one.
        allowed: The values that would have been accepted.
        cure: What to do now.
    """

    exit_code = 2

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
            parts.append(f"got {_shortened(repr(self.value))}")
        if self.allowed is not None:
            allowed = self.allowed
            if isinstance(allowed, list | tuple | set | frozenset):
                allowed = ", ".join(str(item) for item in allowed)
            parts.append(f"allowed: {allowed}")
        if self.cure:
            parts.append(f"cure: {self.cure}")
        return " ".join("; ".join(parts).split())


def _shortened(text: str) -> str:
    """Return a text that may be a whole file without its middle."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 50]} ... {text[-40:]}"


def _rebuild(
    kind: type[CampaignError], what: str, value: object, allowed: object, cure: str
) -> CampaignError:
    return kind(what, value=value, allowed=allowed, cure=cure)


class ConfigError(CampaignError):
    """campaign.yaml or a site file says something impossible."""


class ReferenceDataError(CampaignError):
    """The reference crystals cannot serve: a missing file, missing terminal elements, no energies."""


class ComponentError(CampaignError):
    """A named component is unknown, or its options are wrong."""


class StoreError(CampaignError):
    """The store cannot be used."""


class StoreUnreachableError(StoreError):
    """No answer from the database server, or no permission on the store's file."""


class StoreAwayError(StoreUnreachableError):
    """The database server does not answer now, or cannot write now; it may come back by itself."""


class DocumentRefusedError(StoreError):
    """A document is too large, or holds what has no plain form; the store itself is well."""


class StoreVersionError(StoreError):
    """The store was written by a newer version of this software."""


class StoreFullError(StoreError):
    """There is no space left where the store writes."""


class LeaseError(CampaignError):
    """Another driver holds this campaign, or has taken it over."""


class QueryError(CampaignError):
    """A filter, field list or collection name that cannot be queried."""


class SiteError(CampaignError):
    """The site's pools cannot be started or sized."""


class RunNotFoundError(CampaignError):
    """There is no campaign at the path that was given."""
