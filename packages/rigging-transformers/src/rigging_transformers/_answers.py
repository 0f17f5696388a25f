"""What goes back to the callers: who asked for which row, and what is new of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rigging.local import Outbox
from rigging_transformers._pieces import Pieces
from rigging_transformers._request import Outcome, outcome, placed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rigging.error import RiggingError
    from rigging_transformers._loaded import Loaded
    from rigging_transformers._row import Row
    from rigging_transformers._ticket import Ticket

__all__ = ["Answers"]


class Answers:
    """Hands pieces, results and failures out. Nothing leaves before `send`.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._outbox = Outbox[Outcome]()
        self._tickets: dict[int, Ticket] = {}  # by the id of their row
        self._pieces: dict[int, Pieces] = {}

    def expect(self, ticket: Ticket, row: Row) -> None:
        """Remember who asked for a row."""
        ticket.row = row
        self._tickets[id(row)] = ticket
        if ticket.streams:
            self._pieces[id(row)] = Pieces(row)

    def claim(self, rows: Iterable[Row]) -> list[Row]:
        """Take rows on; those that ran out of time before are left out, and forgotten."""
        claimed = []
        for row in rows:
            if self._tickets[id(row)].claim():
                claimed.append(row)
            else:
                self._forget(row)
        return claimed

    def wanted(self, rows: Sequence[Row]) -> list[Row]:
        """Leave out rows that nobody waits for any more."""
        now = time.monotonic()
        for row in rows:
            if row.is_cancelled():
                row.end = "cancelled"
            elif row.end is None and row.is_late(now):
                row.end = "timeout"
        self.settle([row for row in rows if row.end is not None])
        return [row for row in rows if row.end is None]

    def settle(self, rows: Iterable[Row]) -> None:
        """Give what is new of rows, and the result of those that have ended."""
        for row in rows:
            pieces = self._pieces.get(id(row))
            if pieces is not None and row.end not in ("timeout", "cancelled", "invalid"):
                piece = pieces.next()
                if piece:
                    self._outbox.put(self._tickets[id(row)], piece)
            if row.end is not None and id(row) in self._tickets:
                ticket = self._forget(row)
                if row.end != "cancelled":
                    self._outbox.put(ticket, outcome(self._loaded, ticket.request, row))

    def fail(self, rows: Iterable[Row], failure: RiggingError) -> None:
        """Give a failure to those who asked for rows."""
        self.refuse([self._forget(row) for row in rows], failure)

    def refuse(self, tickets: Iterable[Ticket], failure: RiggingError) -> None:
        """Give a failure to requests that are no rows yet, or not any more."""
        for ticket in tickets:
            self._outbox.put(ticket, placed(failure.copy(), self._loaded))

    def fail_all(self, failure: RiggingError) -> None:
        """Give a failure to all who asked for rows."""
        self.refuse(self._tickets.values(), failure)

    def send(self) -> None:
        """Let what was given leave."""
        self._outbox.send()

    def _forget(self, row: Row) -> Ticket:
        self._pieces.pop(id(row), None)
        ticket = self._tickets.pop(id(row))
        # Whoever keeps the ticket shall not keep the model.
        ticket.row = None
        return ticket
