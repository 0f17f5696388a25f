"""Asynchronous code for synchronous callers, also where an event loop already runs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Coroutine, Iterator
    from types import TracebackType

__all__ = ["iterate_sync", "run_sync"]

_T = TypeVar("_T")

_LOOK_S: Final = 0.2  # how often a caller that stands still looks whether it is cancelled


def run_sync(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end and return its result.

    Where a loop already runs in this thread (a notebook), the coroutine runs on a loop of
    its own in another thread, and the caller's loop stands still meanwhile.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with _LoopThread() as thread:
        return thread.run(coroutine)


def iterate_sync(iterator: AsyncGenerator[_T, None]) -> Iterator[_T]:
    """Give the items of an asynchronous iterator one by one.

    The iterator runs on a loop in another thread, so that requests in progress go on
    while the caller works on an item.
    """
    with _LoopThread() as thread:
        try:
            while True:
                try:
                    item: _T = thread.run(anext(iterator))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            thread.run(iterator.aclose())


class _LoopThread:
    """An event loop in a thread of its own; leaving it cancels what still runs there."""

    def __enter__(self) -> _LoopThread:
        started: Future[None] = Future()
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run,
            args=(asyncio.run, self._serve(started)),
            name="rigging-sync",
            daemon=True,
        )
        self._thread.start()
        started.result()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, awaitable: Awaitable[_T]) -> _T:
        """Await there; an exception here (Ctrl-C) cancels it, and waits for its end."""
        tasks: list[asyncio.Task[_T]] = []
        done: Future[None] = Future()

        def start() -> None:
            tasks.append(self._loop.create_task(_awaited(awaitable)))
            tasks[0].add_done_callback(end)

        def cancel() -> None:
            tasks[0].cancel()

        def end(task: asyncio.Task[_T]) -> None:
            if not task.cancelled():
                task.exception()  # looked at here: whoever is interrupted will not
            done.set_result(None)

        self._loop.call_soon_threadsafe(start)
        try:
            self._wait(done)
        except BaseException:
            self._loop.call_soon_threadsafe(cancel)
            wait([done])
            raise
        return tasks[0].result()

    def _wait(self, future: Future[None]) -> None:
        caller = _current_task()
        while not wait([future], timeout=_LOOK_S if caller else None).done:
            # Under `asyncio.run`, Ctrl-C cancels the task that stands still here.
            if caller is not None and caller.cancelling():
                raise asyncio.CancelledError

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set_result(None)
        await self._stop.wait()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


async def _awaited(awaitable: Awaitable[_T]) -> _T:
    return await awaitable  # `anext()` of an async generator is awaitable, but no coroutine
