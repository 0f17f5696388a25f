"""Engines that are the caller's own: an `AsyncLLM`, or a `vllm.LLM`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rigging.error import ProviderServerError
from rigging_vllm._batch import Batch
from rigging_vllm._engine import Engine
from rigging_vllm._errors import placed, request_error
from rigging_vllm._responder import Responder
from rigging_vllm._ticket import Outbox

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from rigging_vllm._spec import EngineSpec
    from rigging_vllm._ticket import Ticket

__all__ = ["BorrowedAsyncLLM", "BorrowedLLM"]


class _Borrowed(Engine):
    """What all of them share: they are there already, and stay."""

    is_borrowed = True

    def twin(self) -> Engine:
        """Return itself: there is one engine."""
        return self

    def load(self, spec: EngineSpec) -> None:
        """Do nothing."""

    def unload(self) -> None:
        """Do nothing."""


class BorrowedAsyncLLM(_Borrowed):
    """An `AsyncLLM`, which answers on its own event loop, wherever requests come from.

    Args:
        llm: The engine. Its loop is the one that it was made on or that used it first;
            else the one of the first request.
    """

    def __init__(self, llm: Any) -> None:
        super().__init__()
        self._llm = llm
        self._loop: asyncio.AbstractEventLoop | None = None
        self._responder: Responder | None = None
        self._lock = threading.Lock()  # of the two above

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Have tickets answered. Does not wait for that."""
        with self._lock:
            if self._responder is None or self._loop is None:
                handler = self._llm.output_handler
                self._loop = tickets[0].loop if handler is None else handler.get_loop()
                self._responder = Responder(self._llm, self._loop)
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._responder.accept, tickets)
            return
        for ticket in tickets:
            error = ProviderServerError(
                "the event loop of the AsyncLLM given to from_obj() does not run any more, and "
                "the engine cannot move to another"
            )
            ticket.receive(placed(error, ticket.spec.model))


class BorrowedLLM(_Borrowed):
    """A `vllm.LLM`: what waits goes out as one batch, from a thread.

    Args:
        llm: The engine.
    """

    def __init__(self, llm: Any) -> None:
        super().__init__()
        self._llm = llm
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rigging-vllm")
        self._inbox: list[Ticket] = []
        self._is_working = False
        self._lock = threading.Lock()  # of the two above

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Have tickets answered. Does not wait for that."""
        with self._lock:
            self._inbox += tickets
            if not self._is_working:
                self._is_working = True
                self._thread.submit(self._work)

    def _work(self) -> None:
        while tickets := self._take():
            try:
                Batch(self._llm).run(tickets)
            except Exception as error:  # noqa: BLE001 (told to all who wait)
                outbox = Outbox()
                for ticket in tickets:
                    outbox.put(ticket, request_error(error, ticket.spec.model))
                outbox.send()

    def _take(self) -> list[Ticket]:
        with self._lock:
            tickets, self._inbox = self._inbox, []
            self._is_working = bool(tickets)
        return tickets
