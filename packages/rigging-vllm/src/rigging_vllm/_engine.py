"""The engine of one generator: a thread that owns a `vllm.LLM` and runs every batch.

All that touches vLLM happens in that one thread, in the order in which it was asked for.
So loading, generating and unloading never meet, whichever threads and event loops they
are asked for from, and no event loop ever waits.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rigging_vllm._batch import run
from rigging_vllm._loading import build, free_memory, library, shut_down

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rigging_vllm._batch import Request, Result

__all__ = ["Engine"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Engine:
    """Loads on first use, answers requests, and gives the memory back on demand.

    Args:
        borrowed: A `vllm.LLM` that is the caller's own: used as it is, never shut down.
    """

    def __init__(self, borrowed: Any = None) -> None:
        self._borrowed = borrowed
        self._own: Any = None
        self._arguments: Mapping[str, Any] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._starting = Lock()

    @property
    def is_borrowed(self) -> bool:
        """Whether the model is the caller's own."""
        return self._borrowed is not None

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        # A borrowed engine still has one thread only; an own one is built anew.
        return self if self.is_borrowed else Engine()

    def load(self, arguments: Mapping[str, Any]) -> None:
        """Build the engine, unless it is there. Blocks until it is.

        Args:
            arguments: Of `vllm.LLM`. Others than before build another one.

        Raises:
            RiggingError: If it cannot be had; see `rigging_vllm._loading.build`.
        """
        self._submit(self._ensure, arguments).result()

    def unload(self) -> None:
        """Shut the engine down once the requests before have been answered. Blocks until then."""
        if self._thread is not None:
            self._submit(self._free).result()

    async def run(self, arguments: Mapping[str, Any], requests: Sequence[Request]) -> list[Result]:
        """Answer requests, building the engine first if need be.

        Cancelling the caller aborts its requests within one step of the engine.

        Raises:
            RiggingError: As `load`.
        """
        gone = Event()
        future = self._submit(self._answer, arguments, requests, gone.is_set)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            gone.set()
            raise

    # -- In the calling thread -----------------------------------------------------------

    def _submit(self, task: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        with self._starting:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="rigging-vllm")
            return self._thread.submit(task, *args, **kwargs)

    # -- In the engine's thread ----------------------------------------------------------

    def _answer(
        self,
        arguments: Mapping[str, Any],
        requests: Sequence[Request],
        cancelled: Callable[[], bool],
    ) -> list[Result]:
        llm = self._ensure(arguments)
        results, broken = run(llm, library(), requests, arguments["model"], cancelled)
        if broken:
            del llm
            self._free()  # the next request builds a new one
        return results

    def _ensure(self, arguments: Mapping[str, Any]) -> Any:
        if self._borrowed is not None:
            return self._borrowed
        # A field that was assigned since makes it another engine.
        if arguments != self._arguments:
            self._free()
        if self._own is None:
            self._own = build(arguments)
            self._arguments = arguments
        return self._own

    def _free(self) -> None:
        if self._own is None:
            return
        shut_down(self._own)
        self._own = None
        free_memory()
