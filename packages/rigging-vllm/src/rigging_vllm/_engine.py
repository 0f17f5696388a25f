"""The engine of one generator, as its callers see it.

Callers live on any number of event loops and threads. What they ask in one turn of their
loop goes over to the engine together, as tickets, and what comes back goes to each loop in
one call.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import itertools
import os
import threading
import weakref
from typing import TYPE_CHECKING

from rigging.error import ProviderServerError, RiggingError
from rigging.local import answers
from rigging_vllm._errors import load_error, placed
from rigging_vllm._spawning import end_if_spawned
from rigging_vllm._ticket import Ticket, refuse
from rigging_vllm._worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from rigging_vllm._request import Answer, Request
    from rigging_vllm._spec import EngineSpec

__all__ = ["Engine", "OwnEngine"]


class Engine(abc.ABC):
    """Answers requests from any event loop."""

    #: Whether the engine is the caller's own: used as it is, never shut down.
    is_borrowed = True

    def __init__(self) -> None:
        # What came in the current turn of each event loop.
        self._gathered: list[Ticket] = []
        # Of that, and of what subclasses have. A finalizer may come in between, in the same
        # thread.
        self._lock = threading.RLock()

    @abc.abstractmethod
    def twin(self) -> Engine:
        """Return an engine for a copy of the generator."""

    @abc.abstractmethod
    def load(self, spec: EngineSpec) -> None:
        """Start the engine, unless it runs. Blocks until it does."""

    @abc.abstractmethod
    def unload(self) -> None:
        """Shut the engine down once the requests before are answered. Blocks until then."""

    @abc.abstractmethod
    def _submit(self, tickets: Sequence[Ticket]) -> None:
        """Have tickets answered. Does not wait for that. The lock is held."""

    @abc.abstractmethod
    def _home(self) -> int | None:
        """Return the id of the process that has the engine, or None if there is none yet."""

    def __deepcopy__(self, memo: object) -> Engine:
        return self.twin()

    async def run(self, spec: EngineSpec, requests: Sequence[Request]) -> list[Answer | Exception]:
        """Answer requests, starting the engine first if need be.

        Cancelling the caller aborts them.

        Returns:
            One answer or failure per request, in order.
        """
        tickets = [Ticket(request, spec) for request in requests]
        self._gather(tickets)
        return await answers(tickets)

    async def stream(
        self, spec: EngineSpec, request: Request
    ) -> AsyncGenerator[str | Answer, None]:
        """Answer one request piece by piece; the answer comes last.

        Raises:
            RiggingError: If it fails.
        """
        ticket = Ticket(request, spec, streams=True)
        self._gather([ticket])
        async with contextlib.aclosing(ticket.stream()) as pieces:
            async for piece in pieces:
                yield piece

    def _gather(self, tickets: Sequence[Ticket]) -> None:
        if self._is_elsewhere():
            refuse(tickets, _forked())
            return
        loop = asyncio.get_running_loop()
        with self._lock:
            # Each loop submits for itself: another one may be busy for long.
            is_due = bool(self._gathered) and self._gathered[-1].loop is loop
            self._gathered += tickets
        if not is_due:
            loop.call_soon(self._submit_gathered)

    def _submit_gathered(self) -> None:
        """Submit what has been gathered, on whichever loop: the first turn takes it all."""
        with self._lock:
            tickets, self._gathered = self._gathered, []
            if tickets:
                self._submit(tickets)

    def _is_elsewhere(self) -> bool:
        """Tell whether this is a forked copy, without the engine's thread and connections."""
        return self._home() not in (None, os.getpid())


def _forked() -> ProviderServerError:
    return ProviderServerError(
        "this process was forked from the one that has the engine, and cannot use it: make a "
        "generator in this process, or start processes by 'spawn'",
        retryable=False,
    )


class OwnEngine(Engine):
    """Starts an `AsyncLLM` on first use, and another after a crash or with other arguments."""

    is_borrowed = False

    def __init__(self) -> None:
        super().__init__()
        self._worker: Worker | None = None
        # Ends the worker when nobody can use it any more.
        self._finalizer: weakref.finalize[[], OwnEngine] | None = None

    def twin(self) -> OwnEngine:
        """Return an engine for a copy of the generator: it starts one of its own."""
        return OwnEngine()

    def load(self, spec: EngineSpec) -> None:
        """Start the engine, unless it runs. Blocks until it does.

        Raises:
            RiggingError: If it cannot be had; see `rigging_vllm._loading.build`.
        """
        self._check_main()
        self._check_thread()
        if self._is_elsewhere():
            raise placed(_forked(), spec.model)
        with self._lock:
            worker = self._worker
            if worker is None or worker.spec != spec or not worker.is_usable():
                worker = self._start(spec)
        worker.loaded.result()

    def unload(self) -> None:
        """Shut the engine down once the requests before are answered. Blocks until then."""
        if self._is_elsewhere():
            return
        self._check_thread()
        with self._lock:
            self._submit_gathered()
            worker = self._worker
            if worker is not None:
                worker.retire()
        if worker is None:
            return
        worker.join()
        with self._lock:
            if self._worker is worker:
                self._worker = None

    def _submit(self, tickets: Sequence[Ticket]) -> None:
        for spec, group in itertools.groupby(tickets, key=lambda ticket: ticket.spec):
            mine = list(group)
            worker = self._worker
            if worker is None or worker.spec != spec or not worker.put(mine):
                try:
                    self._start(spec, mine)
                except Exception as error:  # noqa: BLE001 (told to all who wait)
                    refuse(mine, load_error(error, spec))

    def _home(self) -> int | None:
        return None if self._worker is None else self._worker.pid

    def _gather(self, tickets: Sequence[Ticket]) -> None:
        self._check_main()
        super()._gather(tickets)

    def _check_main(self) -> None:
        if self._worker is None:
            end_if_spawned()

    def _check_thread(self) -> None:
        if self._worker is not None and self._worker.is_asking:
            raise RiggingError(
                "load() and unload() wait for the engine, so what it calls itself, such as a "
                "plugin that is told of the model, cannot call them: start a thread that does"
            )

    def _start(self, spec: EngineSpec, tickets: Sequence[Ticket] = ()) -> Worker:
        before = self._worker
        if before is not None:
            before.retire()
        self._worker = worker = Worker(spec, before, tickets)
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, worker.retire)
        self._finalizer.atexit = False  # the worker sees to that
        return worker
