"""One request's way from its event loop to the engine's thread, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from threading import Lock, Thread, current_thread, main_thread
from typing import TYPE_CHECKING, TypeAlias

from rigging_transformers._request import Outcome, timed_out

if TYPE_CHECKING:
    from rigging_transformers._request import Request
    from rigging_transformers._row import Row
    from rigging_transformers._source import LoadSpec

__all__ = ["Outbox", "Ticket", "is_lost"]

#: A piece of a stream, or what ends it.
_News: TypeAlias = "str | Outcome | Exception"


class Ticket:
    """A request that waits for its answer on an event loop.

    Until the engine claims it, it may run out of time in the queue; from then on its row
    watches the clock.

    Args:
        request: What is asked.
        spec: Of which model.
        streams: Whether pieces of the text are wanted.

    Attributes:
        answer: An `Outcome` or a failure.
        pieces: Of the text as it comes; None after the last.
        row: What the engine made of the request; None before.
    """

    def __init__(self, request: Request, spec: LoadSpec, *, streams: bool = False) -> None:
        self.request = request
        self.spec = spec
        self.streams = streams
        self.row: Row | None = None
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Outcome | Exception] = self.loop.create_future()
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._is_claimed = False
        self._claiming = Lock()
        self._is_cancelled = False
        self._thread = current_thread()
        self._timer = (
            self.loop.call_later(request.deadline - time.monotonic(), self._run_out)
            if request.deadline is not None
            else None
        )

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        # Python waits for the engine's thread when it exits, so that must not wait for those
        # who can get no answer.
        return self._is_cancelled or self.loop.is_closed() or is_lost(self._thread)

    def claim(self) -> bool:
        """Take the request for oneself; False if somebody else has."""
        with self._claiming:
            free, self._is_claimed = not self._is_claimed, True
        return free

    def receive(self, news: _News) -> None:
        """Take what came of it. In the event loop's thread."""
        if isinstance(news, str):
            self.pieces.put_nowait(news)
            return
        if not self.answer.done():
            self.answer.set_result(news)
        self._close()

    def cancel(self) -> None:
        """Give up waiting. In the event loop's thread."""
        self._is_cancelled = True
        self.claim()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.answer.cancel()
            self._close()

    def _run_out(self) -> None:
        if self.claim():
            self.receive(timed_out(self.request, self.spec.model))

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.pieces.put_nowait(None)


def is_lost(thread: Thread) -> bool:
    """Tell whether Python is exiting, and does not wait for a thread."""
    return not main_thread().is_alive() and (thread.daemon or not thread.is_alive())


class Outbox:
    """What goes back to the callers: one call into each event loop, for all that it gets."""

    def __init__(self) -> None:
        self._news: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, _News]]] = {}

    def put(self, ticket: Ticket, news: _News) -> None:
        """Keep it until `send`."""
        self._news.setdefault(ticket.loop, []).append((ticket, news))

    def send(self) -> None:
        """Hand everything over."""
        for loop, news in self._news.items():
            with contextlib.suppress(RuntimeError):  # it is closed: nobody waits
                loop.call_soon_threadsafe(_receive, news)
        self._news = {}


def _receive(news: list[tuple[Ticket, _News]]) -> None:
    for ticket, item in news:
        ticket.receive(item)
