"""The life of one engine: a thread that builds it, serves it, and shuts it down.

`AsyncLLM` belongs to one event loop. That loop runs here, in a thread of its own, so that
callers on any event loop share the engine and none of them ever waits for it. A worker
has one engine for all its life: an engine with other arguments, or the one after a crash,
is another worker's, which begins when the one before it has ended.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import multiprocessing
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from rigging.error import RiggingError
from rigging_vllm._errors import fresh, load_error
from rigging_vllm._loading import build
from rigging_vllm._responder import Responder
from rigging_vllm._ticket import Outbox

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging_vllm._spec import EngineSpec
    from rigging_vllm._ticket import Ticket

__all__ = ["Worker"]

# How long the engine's processes may take to end before they are killed. Killed ones leave
# shared memory behind, so this is more than vLLM's own five seconds.
_SHUTDOWN_S: Final = 30.0


class Worker:
    """Builds one `AsyncLLM`, answers tickets with it until it is told to end.

    Args:
        spec: Which engine.
        after: Ends first: two engines have no room in memory beside each other.
        tickets: The first ones.

    Attributes:
        spec: Which engine.
        loaded: Done when the engine is there; holds the `RiggingError` if it cannot be had.
    """

    def __init__(
        self, spec: EngineSpec, after: Worker | None, tickets: Sequence[Ticket] = ()
    ) -> None:
        self.spec = spec
        self.loaded: Future[None] = Future()
        self._after = after
        self._llm: Any = None
        self._responder: Responder | None = None
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._inbox = list(tickets)
        self._is_open = True
        self._lock = threading.Lock()  # of the two above
        self._thread = threading.Thread(target=self._run, name="rigging-vllm", daemon=True)
        self._thread.start()

    # -- From any thread -----------------------------------------------------------------

    def put(self, tickets: Sequence[Ticket]) -> bool:
        """Hand tickets over; False if the engine has died, or the worker is to end."""
        with self._lock:
            if not self.is_usable():
                return False
            self._inbox += tickets
            self._loop.call_soon_threadsafe(self._accept)
        return True

    def is_usable(self) -> bool:
        """Tell whether it takes tickets."""
        return self._is_open and not (self._llm is not None and self._llm.errored)

    def retire(self) -> None:
        """End once the tickets that it has are answered. Does not wait for that."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                self._loop.call_soon_threadsafe(self._ending.set)

    def join(self) -> None:
        """Wait until the engine is shut down."""
        self._thread.join()

    # -- In the worker's thread ----------------------------------------------------------

    def _run(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())
        gc.collect()  # an engine's parts refer to each other in circles
        multiprocessing.active_children()  # takes notice of those that have ended
        atexit.unregister(self._exit)

    async def _serve(self) -> None:
        try:
            self._load()
        except RiggingError as error:
            self._refuse(error)
        except BaseException as error:
            self._refuse(load_error(error, self.spec.model))
            if not isinstance(error, Exception):
                raise
        if self._responder is not None:
            await self._answer(self._responder)

    def _load(self) -> None:
        # Kept in no local variable: what vLLM's modules keep of their import holds the frames
        # of this call for good, and an engine in one would outlive its shutdown.
        # Building blocks this loop, on which nothing else has begun.
        self._llm = build(self.spec)
        try:
            self._responder = Responder(self._llm, self._loop)
        except Exception as error:
            self._llm.shutdown(_SHUTDOWN_S)
            raise load_error(error, self.spec.model) from error
        # Goes before what vLLM has registered, which would meet an engine at work.
        atexit.register(self._exit)

    async def _answer(self, responder: Responder) -> None:
        self.loaded.set_result(None)
        self._accept()
        await self._ending.wait()
        self._accept()
        await responder.drain()
        self._llm.shutdown(_SHUTDOWN_S)
        self._llm = self._responder = None

    def _accept(self) -> None:
        if self._responder is None:
            return  # the engine is not there yet, or not any more
        with self._lock:
            tickets, self._inbox = self._inbox, []
        self._responder.accept(tickets)

    def _refuse(self, error: RiggingError) -> None:
        with self._lock:
            self._is_open = False
        self.loaded.set_exception(error)
        outbox = Outbox()
        for ticket in self._inbox:
            outbox.put(ticket, fresh(error))
        outbox.send()

    # -- At the interpreter's exit -------------------------------------------------------

    def _exit(self) -> None:
        responder = self._responder
        self.retire()
        if responder is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(responder.abort)
        self._thread.join(_SHUTDOWN_S)
