"""The engine of one generator: a thread that loads the model and runs every batch.

All that touches the model happens in that one thread, in the order in which it was asked
for. So loading, generating and unloading never meet, whichever threads and event loops
they are asked for from, and no event loop ever waits.
"""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from rigging.error import MissingDependencyError
from rigging_transformers._batch import Outcome, Request, run, timed_out
from rigging_transformers._source import PROVIDER, LoadSpec, locate, require_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rigging_transformers._loaded import Loaded

__all__ = ["Engine"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Engine:
    """Loads on first use, answers requests, and gives the memory back on demand.

    Args:
        borrowed: A model that is the caller's own: used as it is, never unloaded.
    """

    def __init__(self, borrowed: Loaded | None = None) -> None:
        self._borrowed = borrowed
        self._own: Loaded | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._starting = Lock()

    @property
    def is_borrowed(self) -> bool:
        """Whether the model is the caller's own."""
        return self._borrowed is not None

    def __deepcopy__(self, memo: object) -> Engine:
        return self.twin()

    def twin(self) -> Engine:
        """Return an engine for a copy of the generator: it loads a model of its own."""
        return Engine(self._borrowed)

    def load(self, spec: LoadSpec) -> None:
        """Load the model, unless it is loaded. Blocks until it is.

        Raises:
            RiggingError: If it cannot be had; see `locate`, `require_modules` and
                `rigging_transformers._loading.load`.
        """
        self._submit(self._ensure, spec).result()

    def unload(self) -> None:
        """Drop the model once the requests before have been answered. Blocks until then."""
        if self._thread is not None:
            self._submit(self._free).result()

    async def run(self, spec: LoadSpec, requests: Sequence[Request]) -> list[Outcome | Exception]:
        """Answer requests, loading the model first if need be.

        Cancelling the caller ends the generation within one decoding step.

        Raises:
            RiggingError: As `load`.
        """
        gone = Event()
        future = self._submit(self._answer, spec, requests, gone.is_set)
        answer = asyncio.wrap_future(future)
        try:
            await asyncio.wait({answer}, timeout=_seconds_left(requests))
            # Only what still waits in the queue can be taken back; once begun, each row
            # looks at its own deadline.
            if not future.done() and future.cancel():
                return [timed_out(request, spec.model) for request in requests]
            return await answer
        except asyncio.CancelledError:
            gone.set()
            future.cancel()
            raise

    # -- In the calling thread -----------------------------------------------------------

    def _submit(self, task: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        with self._starting:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="rigging-transformers")
            return self._thread.submit(task, *args, **kwargs)

    # -- In the engine's thread ----------------------------------------------------------

    def _answer(
        self, spec: LoadSpec, requests: Sequence[Request], cancelled: Callable[[], bool]
    ) -> list[Outcome | Exception]:
        loaded = self._ensure(spec)
        # Imports torch, as everything does from here on.
        from rigging_transformers._decoding import decode, generate_options  # noqa: PLC0415

        return run(loaded, requests, generate_options(), decode, cancelled)

    def _ensure(self, spec: LoadSpec) -> Loaded:
        if self._borrowed is not None:
            return self._borrowed
        # A field that was assigned since makes it another model.
        if self._own is not None and self._own.spec != spec:
            self._free()
        if self._own is None:
            source = locate(spec.model)
            require_modules(spec, source)
            try:
                from rigging_transformers._loading import load  # noqa: PLC0415
            except ImportError as error:
                raise MissingDependencyError(
                    PROVIDER,
                    f"torch or transformers is installed, but does not import: {error}",
                    error.name or "transformers",
                ) from error
            self._own = load(spec, source)
        return self._own

    def _free(self) -> None:
        if self._own is None:
            return
        self._own = None
        from rigging_transformers._loading import free_memory  # noqa: PLC0415

        # Modules refer to each other in circles.
        gc.collect()
        free_memory()


def _seconds_left(requests: Sequence[Request]) -> float | None:
    """Return for how long anybody still waits; None for as long as it takes."""
    deadlines = [request.deadline for request in requests if request.deadline is not None]
    return max(deadlines) - time.monotonic() if len(deadlines) == len(requests) else None
