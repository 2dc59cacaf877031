"""What `campaign launch` shows while it works: a live view in a terminal, plain log lines without one."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from campaign.errors import StoreError
from campaign.storage.outages import LOOK_S
from campaign.views.status import summary
from campaign.views.tables import status_view

if TYPE_CHECKING:
    from campaign.config import CampaignConfig
    from campaign.run_folder import RunFolder
    from campaign.state import CampaignState
    from campaign.storage.outages import Outage
    from campaign.store import CampaignStore

REFRESH_S = 1.0
"""How often the live view is read from the store again [s]."""

LINES_S = 20.0
"""How often a log line with the counts is printed without a terminal [s]."""


OUTAGE_LINE_S = 2.0
"""How long a server is silent before a log line says so; then after each doubling of that [s]."""


class Progress:
    """Reports a campaign's progress on a console; events are printed as they are written.

    Args:
        console: Where to print.
        quiet: Print nothing.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._live: Live | None = None
        self._store: CampaignStore | None = None
        self._name = ""
        self._slots: dict[str, int] = {}
        self._shown = 0.0
        self._last_event = ""
        self._outage_line_s = OUTAGE_LINE_S
        self._view: RenderableType = ""

    def begin(
        self, config: CampaignConfig, folder: RunFolder, store: CampaignStore, slots: dict[str, int]
    ) -> None:
        """Start to report."""
        self._store, self._name, self._slots = store, config.name, slots
        if self._quiet:
            return
        newest = list(store.query("events", fields=["_id"], sort=[("_id", -1)], limit=1))
        self._last_event = newest[0]["_id"] if newest else ""
        pools = ", ".join(f"{pool} {number}" for pool, number in slots.items())
        self._print(f"campaign {config.name} in {folder.path}; slots: {pools}")
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    def on_change(self, state: CampaignState, busy: dict[str, int]) -> None:
        """Report, but not more often than a person can read."""
        if self._quiet or self._store is None:
            return
        current = time.monotonic()
        if current - self._shown < REFRESH_S:
            return
        self._print_events()
        if self._live is not None:
            self._view = status_view(summary(self._store, self._name), self._slots, busy)
            self._live.update(self._view)
            self._shown = current
        elif current - self._shown >= LINES_S:
            self._print(self._line(state, busy))
            self._shown = current

    def on_wait(self, outage: Outage, kept: int, *, stopping: bool) -> None:
        """Say what a driver waits for whose store does not answer.

        Args:
            outage: The server, and how long it has been silent.
            kept: Results that have come and are not recorded yet.
            stopping: Whether a stop was asked for.
        """
        if self._quiet or outage.seconds < LOOK_S:
            self._outage_line_s = OUTAGE_LINE_S
            return
        line = waiting_line(outage, kept, stopping=stopping)
        if self._live is not None:
            self._live.update(Group(self._view, Text(line)))
        elif outage.seconds >= self._outage_line_s:
            self._outage_line_s = 2 * outage.seconds
            self._print(line)

    def end(self) -> None:
        """Show the last state and stop reporting; a store that is gone is the driver's to tell, not ours."""
        with contextlib.suppress(StoreError):
            if self._live is not None and self._store is not None:
                last = status_view(summary(self._store, self._name), self._slots, {})
                self._live.update(last, refresh=True)
            if not self._quiet:
                self._print_events()
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._store = None

    def _print_events(self) -> None:
        if self._store is None:
            return
        filter_: dict[str, Any] = {"_id": {"$gt": self._last_event}} if self._last_event else {}
        for event in self._store.query("events", filter_, sort=[("_id", 1)]):
            self._last_event = event["_id"]
            clock = str(event["time"])[11:19]
            self._print(f"{clock}  {event['kind']:<16} {event['message']}")

    def _print(self, line: str) -> None:
        """Print a line as it is: one line of a log stays one line, and brackets are no markup."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _line(self, state: CampaignState, busy: dict[str, int]) -> str:
        final = sum(label.final for label in state.labels.values())
        slots = " ".join(f"{pool} {busy.get(pool, 0)}/{number}" for pool, number in self._slots.items())
        return f"rounds {len(state.rounds)}  labels {final}/{len(state.labels)}  busy {slots}"


def waiting_line(outage: Outage, kept: int, *, stopping: bool) -> str:
    """Return the line that says what a driver waits for."""
    results = f"{kept} result{'' if kept == 1 else 's'} {'is' if kept == 1 else 'are'} kept"
    line = f"MongoDB at {outage.where} has not answered for {outage.seconds:.0f} s: waiting ({results})"
    return line + "; to leave at once: Ctrl-C again, or `campaign stop --now`" if stopping else line
