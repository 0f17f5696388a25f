"""One request's way from its event loop to the engine, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, TypeAlias

from rigging_vllm._errors import fresh, placed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rigging.error import RiggingError
    from rigging_vllm._request import Request, Result
    from rigging_vllm._spec import EngineSpec

__all__ = ["Outbox", "Ticket", "refuse"]

# How often a ticket looks whether an engine still runs that says nothing when it ends.
_LOOK_S: Final = 1.0

#: A piece of a stream, or what ends it.
_News: TypeAlias = "str | Result"


class Ticket:
    """A request that waits for its answer on an event loop.

    It watches the clock itself, so that a request runs out of time also while its engine
    is loading.

    Args:
        request: What is asked.
        spec: Of which engine.
        streams: Whether pieces of the text are wanted.

    Attributes:
        answer: An `Answer` or a failure.
        pieces: Of a stream's text as it comes; None after the last.
        is_closed: Whether nobody waits any more. May be read in any thread.
        abort: Ends the request in the engine, from any thread; None before it is there.
    """

    def __init__(self, request: Request, spec: EngineSpec, *, streams: bool = False) -> None:
        self.request = request
        self.spec = spec
        self.streams = streams
        self.loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Result] = self.loop.create_future()
        if streams:
            self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.is_closed = False
        self.abort: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.TimerHandle | None = None
        if request.deadline is not None:
            left_s = request.deadline - time.monotonic()
            self._timer = self.loop.call_later(left_s, self._run_out)

    def receive(self, news: _News) -> None:
        """Take what came of it. In the event loop's thread."""
        if isinstance(news, str):
            self.pieces.put_nowait(news)
            return
        if not self.answer.done():
            self.answer.set_result(news)
        self._end()

    def watch(self, fault: Callable[[], RiggingError | None]) -> None:
        """Take a fault of the engine for the answer, as soon as there is one."""
        self._watcher = self.loop.call_later(_LOOK_S, self._look, fault)

    def close(self) -> None:
        """Give up waiting, and abort what is not answered. In the event loop's thread."""
        if self.is_closed:
            return
        self.is_closed = True
        if self.abort is not None:
            self.abort()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._end()
            self.answer.cancel()

    def _run_out(self) -> None:
        if not self.answer.done():
            self.answer.set_result(placed(self.request.timed_out(), self.spec.model))
            self.close()

    def _look(self, fault: Callable[[], RiggingError | None]) -> None:
        error = fault()
        if error is None:
            self.watch(fault)
        else:
            self.receive(placed(error, self.spec.model))

    def _end(self) -> None:
        self.is_closed = True
        for timer in (self._timer, self._watcher):
            if timer is not None:
                timer.cancel()
        if self.streams:
            self.pieces.put_nowait(None)


class Outbox:
    """What goes back to the callers: one call into each event loop, for all that it gets."""

    def __init__(self) -> None:
        self._news: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, _News]]] = {}

    def put(self, ticket: Ticket, news: _News) -> bool:
        """Keep it until `send`; return whether it is the first since then."""
        is_first = not self._news
        self._news.setdefault(ticket.loop, []).append((ticket, news))
        return is_first

    def send(self) -> None:
        """Hand everything over."""
        news, self._news = self._news, {}
        for loop, items in news.items():
            with contextlib.suppress(RuntimeError):  # it is closed: nobody waits
                loop.call_soon_threadsafe(_receive, items)


def _receive(items: list[tuple[Ticket, _News]]) -> None:
    for ticket, news in items:
        ticket.receive(news)


def refuse(tickets: Iterable[Ticket], error: RiggingError) -> None:
    """Let tickets fail, from any thread, each with an error of its own."""
    outbox = Outbox()
    for ticket in tickets:
        outbox.put(ticket, placed(fresh(error), ticket.spec.model))
    outbox.send()
