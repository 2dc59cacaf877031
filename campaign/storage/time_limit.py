"""Bounds how long a query may take in this process, whatever its filter: a regular expression can go wild."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from campaign.errors import QueryError


def too_long(seconds: float) -> QueryError:
    """Return the error of a query that was ended."""
    return QueryError(
        f"the query took longer than {seconds:g} s and was ended",
        cure="use a simpler filter: no nested repeats in a $regex, and a field with an index beside it",
    )


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End a `with` block by an alarm; Python's matching of a regular expression looks for one as it goes.

    Only the main thread can be interrupted so, and only on Unix: elsewhere there is no limit.

    Raises:
        QueryError: The block took longer.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise too_long(seconds)

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
