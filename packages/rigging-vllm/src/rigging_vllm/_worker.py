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
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from rigging.error import ProviderServerError
from rigging.events import ModelLoaded, ModelUnloaded
from rigging.plugins import manager
from rigging_vllm._ending import ended, is_ending
from rigging_vllm._errors import load_error, placed
from rigging_vllm._loading import build
from rigging_vllm._responder import Responder
from rigging_vllm._source import PROVIDER
from rigging_vllm._ticket import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging.error import RiggingError
    from rigging_vllm._spec import EngineSpec
    from rigging_vllm._ticket import Ticket

__all__ = ["Worker"]

# What the names of vLLM's processes begin with.
_PROCESS: Final = "EngineCore"

# How often an engine that is still starting is told to end, at the interpreter's exit.
_LOOK_S: Final = 1.0

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
        pid: Of the process that it lives in; a forked child has a copy that does nothing.
        loaded: Done when the engine is there; holds the `RiggingError` if it cannot be had.

    Raises:
        ProviderServerError: If the interpreter is ending.
    """

    def __init__(
        self, spec: EngineSpec, after: Worker | None, tickets: Sequence[Ticket] = ()
    ) -> None:
        self.spec = spec
        self.pid = os.getpid()
        self.loaded: Future[None] = Future()
        self._after = after
        self._llm: Any = None
        self._responder: Responder | None = None
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._inbox = list(tickets)
        self._is_open = True
        # Of the two above. A finalizer may come in between, in the same thread.
        self._lock = threading.RLock()
        self._is_exiting = False
        self._thread = threading.Thread(target=self._run, name="rigging-vllm", daemon=True)
        # First this, then the question: so no worker misses the exit.
        atexit.register(self._exit)
        if is_ending():
            atexit.unregister(self._exit)
            self._loop.close()
            raise placed(ended(), spec.model)
        self._thread.start()

    # -- From any thread -----------------------------------------------------------------

    @property
    def is_asking(self) -> bool:
        """Whether it would wait for the calling thread: its own, or that of who ends first."""
        before = self._after
        is_own = threading.current_thread() is self._thread
        return is_own or (before is not None and before.is_asking)

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
        if self.pid != os.getpid():
            return
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
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            self._refuse(ProviderServerError("the engine's thread has ended"))
        gc.collect()  # an engine's parts refer to each other in circles
        multiprocessing.active_children()  # takes notice of those that have ended
        atexit.unregister(self._exit)

    async def _serve(self) -> None:
        try:
            self._load()
        except BaseException as error:  # noqa: BLE001 (told to all who wait)
            self._refuse(load_error(error, self.spec))
            self._shut_down()
            return
        try:
            await self._answer()
        finally:
            self._shut_down()
        manager.tell("rigging_model_unloaded", ModelUnloaded(PROVIDER, self.spec.model))

    def _load(self) -> None:
        # Kept in no local variable: what vLLM's modules keep of their import holds the frames
        # of this call for good, and an engine in one would outlive its shutdown.
        # Building blocks this loop, on which nothing else has begun.
        began = time.perf_counter()
        self._llm = build(self.spec, self._go_on)
        self._responder = Responder(self._llm, self._loop)
        # Again: at exit it goes before what vLLM has registered, which would meet an engine
        # at work.
        atexit.register(self._exit)
        loaded = ModelLoaded(PROVIDER, self.spec.model, time.perf_counter() - began)
        manager.tell("rigging_model_loaded", loaded)

    def _go_on(self) -> None:
        if self._is_exiting:
            raise placed(ended(), self.spec.model)

    async def _answer(self) -> None:
        self.loaded.set_result(None)
        self._accept()
        await self._ending.wait()
        self._accept()
        if self._responder is not None:
            await self._responder.drain()

    def _shut_down(self) -> None:
        if self._llm is not None:
            self._llm.shutdown(_SHUTDOWN_S)
        self._llm = self._responder = None

    def _accept(self) -> None:
        if self._responder is None:
            return  # the engine is not there yet, or not any more
        with self._lock:
            tickets, self._inbox = self._inbox, []
        self._responder.accept(tickets)
        if self._is_exiting:
            self._responder.abort()

    def _refuse(self, error: RiggingError) -> None:
        with self._lock:
            self._is_open = False
            tickets, self._inbox = self._inbox, []
        if not self.loaded.done():
            self.loaded.set_exception(error)
        refuse(tickets, error)

    # -- At the interpreter's exit -------------------------------------------------------

    def _exit(self) -> None:
        """End without answering, and wait for that."""
        if self.pid != os.getpid():
            return
        self._is_exiting = True
        self.retire()
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._accept)
        while self._thread.is_alive():
            if not self.loaded.done():
                _end_processes()  # what waits for them to start fails then
            self._thread.join(_LOOK_S)


def _end_processes() -> None:
    """End vLLM's processes, whichever engine's: the interpreter is ending."""
    for process in multiprocessing.active_children():
        if process.name.startswith(_PROCESS):
            process.terminate()
