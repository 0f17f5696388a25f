"""A request that waits for vLLM's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rigging.local import Outbox
from rigging.local import Ticket as _Ticket
from rigging_vllm._errors import placed
from rigging_vllm._request import Answer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from rigging.error import RiggingError
    from rigging_vllm._request import Request
    from rigging_vllm._spec import EngineSpec

__all__ = ["Ticket", "refuse"]

# How often a ticket looks whether an engine still runs that says nothing when it ends.
_LOOK_S: Final = 1.0


class Ticket(_Ticket[Answer]):
    """A request that waits for vLLM's answer.

    It watches the clock itself, so that a request runs out of time also while its engine
    is loading.

    Args:
        request: What is asked.
        spec: Of which engine.
        streams: Whether pieces of the text are wanted.

    Attributes:
        abort: Ends the request in the engine, from any thread; None before it is there.
    """

    def __init__(self, request: Request, spec: EngineSpec, *, streams: bool = False) -> None:
        super().__init__(request.deadline, streams=streams)
        self.request = request
        self.spec = spec
        self.abort: Callable[[], None] | None = None
        self._watcher: asyncio.TimerHandle | None = None

    def watch(self, fault: Callable[[], RiggingError | None]) -> None:
        """Take a fault of the engine for the answer, as soon as there is one."""
        self._watcher = self.loop.call_later(_LOOK_S, self._look, fault)

    def close(self) -> None:
        """Give up waiting, and abort what is not answered."""
        is_open = not self.is_closed
        # First, since the engine asks whether anybody waits once it is told to abort.
        super().close()
        if is_open and self.abort is not None:
            self.abort()

    def run_out(self) -> None:
        """Take a timeout for the answer, and abort the request."""
        if not self.answer.done():
            self.answer.set_result(placed(self.request.timed_out(), self.spec.model))
            self.close()

    def end(self) -> None:
        """Let nothing more come."""
        super().end()
        if self._watcher is not None:
            self._watcher.cancel()

    def _look(self, fault: Callable[[], RiggingError | None]) -> None:
        error = fault()
        if error is None:
            self.watch(fault)
        else:
            self.receive(placed(error, self.spec.model))


def refuse(tickets: Iterable[Ticket], error: RiggingError) -> None:
    """Let tickets fail, from any thread, each with an error of its own."""
    outbox = Outbox[Answer]()
    for ticket in tickets:
        outbox.put(ticket, placed(error.copy(), ticket.spec.model))
    outbox.send()
