"""The engine of one generator: a thread that loads the model and answers all requests.

All that touches the model happens in that one thread. Requests join those that run;
loading and unloading wait for the requests that were there before, and those that come
after wait for them. So they never meet, whichever threads and event loops they are asked
for from, and no event loop ever waits.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import os
import time
import weakref
from collections import deque
from concurrent.futures import Future
from threading import Lock, Thread, current_thread
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from rigging.error import MissingDependencyError, ProviderServerError, RiggingError
from rigging.events import ModelLoaded, ModelUnloaded
from rigging.local import Outbox, answers, check_hub_token, drop_frames
from rigging.plugins import manager
from rigging_transformers._request import Outcome
from rigging_transformers._source import PROVIDER, LoadSpec, locate, require_modules
from rigging_transformers._ticket import Ticket, is_lost

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import AsyncGenerator, Callable, Sequence

    from rigging_transformers._loaded import Loaded
    from rigging_transformers._memory import Capacity
    from rigging_transformers._request import Request

__all__ = ["Engine"]

_log: Final = logging.getLogger(__name__)

# All there are, for a forked child to begin anew with.
_ENGINES: Final[weakref.WeakSet[Engine]] = weakref.WeakSet()

# Held where one of them begins, or makes sure that no other runs.
_BEGINNING: Final = Lock()


class _Task(NamedTuple):
    """Something to do between requests."""

    call: Callable[[], object]
    done: Future[None]


class Engine:
    """Loads on first use, answers requests, and gives the memory back on demand.

    Args:
        borrowed: A model that is the caller's own: used as it is, never unloaded.

    Attributes:
        max_rows: How many requests are generated for at once.
    """

    # Held while any of them loads: transformers replaces functions of its own and of torch's
    # meanwhile, for all threads.
    _loading: ClassVar[LockType] = Lock()

    def __init__(self, borrowed: Loaded | None = None) -> None:
        self.max_rows = 1
        self._borrowed = borrowed
        self._own: Loaded | None = None
        self._capacity: Capacity | None = None  # of the model, across its idle spells
        # What comes in one turn of an event loop goes into the inbox together.
        self._gathered: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[Ticket]] = (
            weakref.WeakKeyDictionary()
        )
        self._begin()
        with _BEGINNING:
            _ENGINES.add(self)

    def _begin(self) -> None:
        self._thread: Thread | None = None  # while there is work
        self._inbox: deque[Ticket | _Task] = deque()
        self._lock = Lock()  # of the two above

    @property
    def is_borrowed(self) -> bool:
        """Whether the model is the caller's own."""
        return self._borrowed is not None

    def __deepcopy__(self, memo: object) -> Engine:
        return self.twin()

    def twin(self) -> Engine:
        """Return an engine for a copy of the generator: it loads a model of its own.

        One that is borrowed has one engine, since a model may keep something of what it read.
        """
        return Engine() if self._borrowed is None else self

    def load(self, spec: LoadSpec) -> None:
        """Load the model, unless it is loaded. Blocks until it is.

        Raises:
            RiggingError: If it cannot be had; see `locate`, `require_modules` and
                `rigging_transformers._loading.load`.
        """
        self._do(lambda: self._ensure(spec))

    def unload(self) -> None:
        """Drop the model once the requests before have been answered. Blocks until then."""
        with self._lock:
            is_idle = self._own is None and self._thread is None
        # Else, what runs may be loading.
        if not is_idle:
            self._do(self._free)

    async def run(self, spec: LoadSpec, requests: Sequence[Request]) -> list[Outcome | Exception]:
        """Answer requests, loading the model first if need be.

        Cancelling the caller frees their places within one decoding step.

        Returns:
            One outcome or failure per request, in order.
        """
        tickets = [Ticket(request, spec) for request in requests]
        self._gather(tickets)
        return await answers(tickets)

    async def stream(self, spec: LoadSpec, request: Request) -> AsyncGenerator[str | Outcome, None]:
        """Answer one request piece by piece; the outcome comes last.

        Raises:
            RiggingError: If it fails.
        """
        ticket = Ticket(request, spec, streams=True)
        self._gather([ticket])
        async with contextlib.aclosing(ticket.stream()) as pieces:
            async for piece in pieces:
                yield piece

    def join(self) -> None:
        """Wait until there is no more work. Blocks until then."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()

    # -- In the calling thread -----------------------------------------------------------

    def _gather(self, tickets: Sequence[Ticket]) -> None:
        loop = asyncio.get_running_loop()
        if loop not in self._gathered:
            loop.call_soon(self._put_gathered, loop)
        self._gathered.setdefault(loop, []).extend(tickets)

    def _put_gathered(self, loop: asyncio.AbstractEventLoop) -> None:
        gathered = self._gathered.pop(loop)
        if is_lost(current_thread()):
            self._refuse(gathered, _cannot_run("Python is exiting"))
        elif current_thread() is self._thread:
            self._refuse(gathered, _cannot_run("it waits for its own thread, which asks"))
        else:
            try:
                self._put(gathered)
            except RuntimeError as error:  # no thread can be started
                self._refuse(gathered, _cannot_run(error))

    def _do(self, call: Callable[[], object]) -> None:
        if current_thread() is self._thread:
            raise RiggingError(
                "load() and unload() wait for the engine, so what it calls itself, such as a "
                "plugin that is told of the model, cannot call them: start a thread that does"
            )
        task = _Task(call, Future())
        self._put([task])
        task.done.result()

    def _put(self, items: Sequence[Ticket | _Task]) -> None:
        with self._lock:
            if self._thread is None:
                # No daemon: Python must not end under a model that is running.
                thread = Thread(target=self._work, name="rigging-transformers", daemon=False)
                with _BEGINNING:
                    thread.start()
                    self._thread = thread
            self._inbox += items

    # -- In the engine's thread ----------------------------------------------------------

    def _work(self) -> None:
        """Do what is in the inbox, until it is empty: an idle engine keeps no thread."""
        while True:
            with self._lock:
                if not self._inbox:
                    self._thread = None
                    return
                head = self._inbox[0]
                if isinstance(head, _Task):
                    self._inbox.popleft()
            if isinstance(head, _Task):
                _settle(head)
            else:
                self._serve(head.spec)
            del head

    def _serve(self, spec: LoadSpec) -> None:
        """Answer the requests at the head of the inbox, whatever happens."""
        try:
            self._answer(spec)
        # Such as a handler of a log that raises. The thread has to go on: others will ask.
        except BaseException as error:  # noqa: BLE001 (nobody shall wait for ever)
            self._refuse(self._take(spec), _cannot_run(error))

    def _take(self, spec: LoadSpec) -> list[Ticket]:
        """Take the requests at the head of the inbox that are for one model."""
        taken = []
        with self._lock:
            while self._inbox:
                head = self._inbox[0]
                if isinstance(head, _Task) or head.spec != spec:
                    break
                self._inbox.popleft()
                taken.append(head)
        return taken

    def _answer(self, spec: LoadSpec) -> None:
        try:
            loaded = self._ensure(spec)
            # Imports torch.
            from rigging_transformers._loop import DecodingLoop  # noqa: PLC0415

            loop = DecodingLoop(loaded, lambda: self._take(spec), self._room)
        except RiggingError as error:
            self._refuse(self._take(spec), error)
        except BaseException as error:  # noqa: BLE001 (nobody shall wait for ever)
            failure = ProviderServerError(
                f"the engine failed: {type(error).__name__}: {error}",
                provider=PROVIDER,
                model=spec.model,
                retryable=False,
            )
            failure.__cause__ = error
            self._refuse(self._take(spec), failure)
            _log.debug("the engine of %s failed", spec.model, exc_info=error)
            drop_frames(error)  # these hold the model
        else:
            loop.run()

    def _room(self) -> Capacity:
        from rigging_transformers._memory import Capacity  # noqa: PLC0415

        if self._capacity is None or self._capacity.most != self.max_rows:
            self._capacity = Capacity(self.max_rows)
        return self._capacity

    def _refuse(self, tickets: Sequence[Ticket], error: RiggingError) -> None:
        outbox = Outbox[Outcome]()
        for ticket in tickets:
            if ticket.claim():
                outbox.put(ticket, error.copy())
        outbox.send()

    def _ensure(self, spec: LoadSpec) -> Loaded:
        if self._borrowed is not None:
            return self._borrowed
        # A field that was assigned since makes it another model.
        if self._own is not None and self._own.spec != spec:
            self._free()
        if self._own is None:
            source = locate(
                spec.model,
                adapter=spec.adapter,
                revision=spec.revision,
                subfolder=str(spec.model_kwargs.get("subfolder", "")),
            )
            check_hub_token(spec.token, provider=PROVIDER, model=spec.model)
            require_modules(spec, source)
            try:
                from rigging_transformers._loading import load  # noqa: PLC0415
            except ImportError as error:
                raise MissingDependencyError(
                    PROVIDER,
                    f"torch or transformers is installed, but does not import: {error}",
                    error.name or "transformers",
                ) from error
            began = time.perf_counter()
            with Engine._loading:
                self._own = load(spec, source)
            event = ModelLoaded(PROVIDER, spec.model, time.perf_counter() - began)
            manager.tell("rigging_model_loaded", event)
        return self._own

    def _free(self) -> None:
        if self._own is None:
            return
        from rigging_transformers._memory import free_memory, free_workspaces  # noqa: PLC0415

        model, name = self._own.model, self._own.name
        weights = [weakref.ref(weight) for weight in (*model.parameters(), *model.buffers())]
        del model
        self._own = self._capacity = None
        # Modules may refer to each other in circles. A full collection holds the interpreter,
        # and with it every event loop, for a fifth of a second.
        if any(weight() is not None for weight in weights):
            gc.collect()
        with _BEGINNING:
            if all(engine._thread is None for engine in _ENGINES if engine is not self):
                free_workspaces()
        free_memory()
        manager.tell("rigging_model_unloaded", ModelUnloaded(PROVIDER, name))


def _begin_anew() -> None:
    """Let a forked child use the engines: their threads and callers are the parent's."""
    _BEGINNING.release()
    Engine._loading = Lock()
    for engine in _ENGINES:
        engine._begin()


def _join_all() -> None:
    """Let no engine run while Python takes itself apart, which would abort the process.

    Python itself waits only for threads that it knew of when it began to exit.
    """
    for engine in list(_ENGINES):
        engine.join()


atexit.register(_join_all)
if hasattr(os, "register_at_fork"):
    # While another thread holds the lock, a child would wait for it for ever.
    os.register_at_fork(
        before=_BEGINNING.acquire, after_in_parent=_BEGINNING.release, after_in_child=_begin_anew
    )


def _cannot_run(reason: object) -> ProviderServerError:
    return ProviderServerError(f"the engine cannot run: {reason}", provider=PROVIDER)


def _settle(task: _Task) -> None:
    try:
        task.call()
    except BaseException as error:  # noqa: BLE001 (raised in the caller's thread)
        task.done.set_exception(error)
    else:
        task.done.set_result(None)
