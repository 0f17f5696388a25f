"""Engines that are the caller's own: an `AsyncLLM`, or a `vllm.LLM`."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from rigging.error import ProviderServerError
from rigging_vllm._batch import Batch
from rigging_vllm._ending import is_ending
from rigging_vllm._engine import Engine
from rigging_vllm._errors import request_error
from rigging_vllm._responder import Responder
from rigging_vllm._ticket import refuse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from rigging.error import RiggingError
    from rigging_vllm._spec import EngineSpec
    from rigging_vllm._ticket import Ticket

__all__ = ["BorrowedAsyncLLM", "BorrowedLLM"]


class _Borrowed(Engine):
    """What all of them share: they are there already, and stay."""

    is_borrowed = True

    def __init__(self, llm: Any) -> None:
        super().__init__()
        self._llm = llm
        self._pid = os.getpid()

    def twin(self) -> Engine:
        """Return itself: there is one engine."""
        return self

    def load(self, spec: EngineSpec) -> None:
        """Do nothing."""

    def unload(self) -> None:
        """Do nothing."""

    def _home(self) -> int:
        return self._pid


class BorrowedAsyncLLM(_Borrowed):
    """An `AsyncLLM`, which answers on its own event loop, wherever requests come from.

    Args:
        llm: The engine. Its loop is the one that it was made on or that used it first;
            else the one of the first request.
    """

    def __init__(self, llm: Any) -> None:
        super().__init__(llm)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._responder: Responder | None = None

    def _gather(self, tickets: Sequence[Ticket]) -> None:
        super()._gather(tickets)
        # A loop that stops tells nobody.
        for ticket in tickets:
            ticket.watch(self._fault)

    def _submit(self, tickets: Sequence[Ticket]) -> None:
        try:
            if self._responder is None or self._loop is None:
                handler = self._llm.output_handler
                self._loop = tickets[0].loop if handler is None else handler.get_loop()
                self._responder = Responder(self._llm, self._loop)
            fault = self._fault()
            if fault is None:
                self._loop.call_soon_threadsafe(self._responder.accept, tickets)
        except Exception as error:  # noqa: BLE001 (told to all who wait)
            fault = request_error(error, tickets[0].spec.model)
        if fault is not None:
            refuse(tickets, fault)

    def _fault(self) -> RiggingError | None:
        if self._loop is not None and not self._loop.is_running():
            what = (
                "the event loop of the AsyncLLM given to from_obj() does not run any more, and "
                "the engine cannot move to another"
            )
        elif self._llm.errored:
            what = "the AsyncLLM given to from_obj() has died or was shut down"
        else:
            return None
        return ProviderServerError(f"{what}: make another, and a generator of it", retryable=False)


class BorrowedLLM(_Borrowed):
    """A `vllm.LLM`: what waits goes out as one batch, from a thread.

    Args:
        llm: The engine.
    """

    def __init__(self, llm: Any) -> None:
        super().__init__(llm)
        self._inbox: list[Ticket] = []
        self._thread: threading.Thread | None = None  # while there is something to do
        self._is_exiting = False

    def _submit(self, tickets: Sequence[Ticket]) -> None:
        self._inbox += tickets
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="rigging-vllm", daemon=True)
            # First this, then the question: so the thread does not miss the exit.
            atexit.register(self._exit)
            self._is_exiting = is_ending()
            try:
                thread.start()
            except RuntimeError as error:  # the system has no room for one more
                atexit.unregister(self._exit)
                left, self._inbox = self._inbox, []
                refuse(left, request_error(error, left[0].spec.model))
            else:
                self._thread = thread

    def _work(self) -> None:
        while tickets := self._take():
            try:
                Batch(self._llm).run(tickets, self._is_over)
            # Whatever it is, such as a panic of Rust code: later requests need the thread.
            except BaseException as error:  # noqa: BLE001 (told to all who wait)
                refuse(tickets, request_error(error, tickets[0].spec.model))

    def _take(self) -> list[Ticket]:
        with self._lock:
            tickets, self._inbox = self._inbox, []
            if not tickets:
                self._thread = None
                atexit.unregister(self._exit)
        return tickets

    def _is_over(self) -> bool:
        return self._is_exiting

    def _exit(self) -> None:
        """End without answering, and wait for that."""
        with self._lock:
            self._is_exiting = True
            thread = self._thread
        if thread is not None:
            thread.join()
