"""A request that waits for the answer of the engine's thread."""

from __future__ import annotations

from threading import Lock, Thread, current_thread, main_thread
from typing import TYPE_CHECKING

from rigging.local import Ticket as _Ticket
from rigging_transformers._request import Outcome, timed_out

if TYPE_CHECKING:
    from rigging_transformers._request import Request
    from rigging_transformers._row import Row
    from rigging_transformers._source import LoadSpec

__all__ = ["Ticket", "is_lost"]


class Ticket(_Ticket[Outcome]):
    """A request that waits for the answer of the engine's thread.

    Until the engine claims it, it may run out of time in the queue; from then on its row
    watches the clock.

    Args:
        request: What is asked.
        spec: Of which model.
        streams: Whether pieces of the text are wanted.

    Attributes:
        row: What the engine made of the request; None before.
    """

    def __init__(self, request: Request, spec: LoadSpec, *, streams: bool = False) -> None:
        super().__init__(request.deadline, streams=streams)
        self.request = request
        self.spec = spec
        self.row: Row | None = None
        self._is_claimed = False
        self._claiming = Lock()
        self._thread = current_thread()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        # Python waits for the engine's thread when it exits, so that must not wait for those
        # who can get no answer.
        return self.is_closed or self.loop.is_closed() or is_lost(self._thread)

    def claim(self) -> bool:
        """Take the request for oneself; False if somebody else has."""
        with self._claiming:
            free, self._is_claimed = not self._is_claimed, True
        return free

    def close(self) -> None:
        """Give up waiting."""
        self.claim()
        super().close()

    def run_out(self) -> None:
        """Take a timeout for the answer, unless the engine has claimed the request."""
        if self.claim():
            self.receive(timed_out(self.request, self.spec.model))


def is_lost(thread: Thread) -> bool:
    """Tell whether Python is exiting, and does not wait for a thread."""
    return not main_thread().is_alive() and (thread.daemon or not thread.is_alive())
