"""Asynchronous code for synchronous callers, also where an event loop already runs."""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
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
        return thread.run(lambda: coroutine)


def iterate_sync(iterator: AsyncGenerator[_T, None]) -> Iterator[_T]:
    """Give the items of an asynchronous iterator one by one.

    The iterator runs on a loop in another thread, so that requests in progress go on
    while the caller works on an item.
    """
    with _LoopThread() as thread:
        try:
            while True:
                try:
                    item = thread.run(lambda: _next(iterator))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if thread.is_alive:
                thread.run(lambda: _close(iterator))


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
        # An iterator may be left open until the program ends, and then its thread with it.
        atexit.register(self._end)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        atexit.unregister(self._end)
        self._end()

    def _end(self) -> None:
        if self.is_alive:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether something can still run there."""
        return self._thread.is_alive() and not self._loop.is_closed()

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine there; an exception here (Ctrl-C) cancels it, and waits for its end.

        Args:
            make: Makes the coroutine, there: an exception here leaves none that nobody awaits.
        """
        tasks: list[asyncio.Task[_T]] = []
        done: Future[None] = Future()

        def start() -> None:
            tasks.append(self._loop.create_task(make()))
            tasks[0].add_done_callback(end)

        def cancel() -> None:
            if tasks:
                tasks[0].cancel()
            else:  # the exception came before it was to start
                done.set_result(None)

        def end(task: asyncio.Task[_T]) -> None:
            if not task.cancelled():
                task.exception()  # looked at here: whoever is interrupted will not
            done.set_result(None)

        try:
            self._loop.call_soon_threadsafe(start)
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


# Coroutines, so that the generator meets the loop that it runs on at its first step.


async def _next(iterator: AsyncGenerator[_T, None]) -> _T:
    return await anext(iterator)


async def _close(iterator: AsyncGenerator[Any, None]) -> None:
    await iterator.aclose()
