"""A window over a stream of items: so many at a time, results as they come, or in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sized,
)
from typing import Any, Final, Generic, TypeAlias, TypeVar

from rigging._scheduler import is_cancelled

__all__ = ["AsTheyCome", "InOrder", "InOrderAtTheEnd", "Pool", "Source"]

ItemT = TypeVar("ItemT")
OutT = TypeVar("OutT")

Source: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]

_END: Final[Any] = object()


class Pool(Generic[ItemT, OutT]):
    """Runs ``work`` over a source, with at most ``window`` items in progress.

    An asynchronous context manager and iterator: it gives the result of each item, and
    leaving it ends what is in progress. Whoever iterates applies back-pressure: no item
    is taken from the source while ``window`` results wait to be fetched. So memory
    depends on the window and not on the source, which may be endless.

    A class and no generator: an event loop that ends closes all generators at once, the
    inner ones under the hands of the outer.

    Args:
        work: What to do with an item.
        source: Where the items come from, taken one at a time.
        window: The most items in progress, at least 1.
        results: Where results wait to be fetched, which says when and in which order they
            are given: `AsTheyCome`, `InOrder`, or `InOrderAtTheEnd`.
        spared: Workers that are not cancelled when another one fails, but waited for;
            looked at when that happens.

    Raises:
        BaseException: While iterating, the first failure of ``work`` or of the source,
            after the results that were ready.
    """

    def __init__(
        self,
        work: Callable[[ItemT], Awaitable[OutT]],
        source: Source[ItemT],
        *,
        window: int,
        results: Results[OutT],
        spared: Collection[asyncio.Task[Any]] = (),
    ) -> None:
        self._spared = spared
        self._failure: BaseException | None = None
        self._closing = False
        self._work = work
        self._items = _Items(source)
        self._window = window
        self._results = results
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        # Workers and not a task per item: a task costs more than all else here.
        self._active = min(window, len(source)) if isinstance(source, Sized) else window
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Pool[ItemT, OutT]:
        self._workers = [asyncio.create_task(self._run()) for _ in range(self._active)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._room.set()
        spared = () if self._failure is None or is_cancelled() else self._spared
        for worker in self._workers:
            if worker not in spared:
                worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._items.close()

    def __aiter__(self) -> Pool[ItemT, OutT]:
        return self

    async def __anext__(self) -> OutT:
        while True:
            result = self._results.take()
            if result is not _END:
                self._room.set()
                return result
            if self._failure is not None:
                raise self._failure
            if not self._active:
                raise StopAsyncIteration
            await self._news.wait()
            self._news.clear()

    async def _run(self) -> None:
        try:
            while self._failure is None and not self._closing:
                if self._results.waiting >= self._window:
                    self._room.clear()
                    await self._room.wait()
                    continue
                items = self._items
                index, item = items.take() if items.are_here else await items.come()
                if item is _END:
                    return
                if self._results.put(index, await self._work(item)):
                    self._news.set()
        except BaseException as error:
            # A cancellation that we did not order is a failure like any other.
            if not self._closing:
                self._failure = self._failure or error
            if not isinstance(error, Exception):
                raise
        finally:
            self._active -= 1
            if not self._active or self._failure is not None:
                self._news.set()


class _Items(Generic[ItemT]):
    """The source, numbered, whichever kind of iterable it is.

    Attributes:
        are_here: Whether items can be taken without waiting for them.
    """

    def __init__(self, source: Source[ItemT]) -> None:
        self._taken = 0
        self.are_here = not isinstance(source, AsyncIterable)
        self._iterator: Any = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        self._turn = asyncio.Lock()

    def take(self) -> tuple[int, ItemT]:
        """Take the next item and its number; the item is `_END` where there is none."""
        item = next(self._iterator, _END)
        self._taken += 1
        return self._taken - 1, item

    async def come(self) -> tuple[int, ItemT]:
        """Take the next item when it comes, in the order in which this is called."""
        async with self._turn:
            item = await anext(self._iterator, _END)
            self._taken += 1
            return self._taken - 1, item

    async def close(self) -> None:
        if isinstance(self._iterator, AsyncGenerator):
            await self._iterator.aclose()


class Results(Generic[OutT]):
    """Results that wait to be fetched."""

    @property
    def waiting(self) -> int:
        raise NotImplementedError

    def put(self, index: int, result: OutT) -> bool:
        """Keep a result; return whether somebody should fetch one now."""
        raise NotImplementedError

    def take(self) -> OutT:
        """Take the result that is next; `_END` where none is ready."""
        raise NotImplementedError


class AsTheyCome(Results[OutT]):
    """The first to come is the first to go."""

    def __init__(self) -> None:
        self._results: deque[OutT] = deque()

    @property
    def waiting(self) -> int:
        return len(self._results)

    def put(self, index: int, result: OutT) -> bool:  # noqa: ARG002 (only order needs it)
        self._results.append(result)
        return True

    def take(self) -> OutT:
        result: OutT = self._results.popleft() if self._results else _END
        return result


class InOrder(Results[OutT]):
    """Each waits for those of the items before."""

    def __init__(self) -> None:
        self._results: dict[int, OutT] = {}
        self._next = 0

    @property
    def waiting(self) -> int:
        return len(self._results)

    def put(self, index: int, result: OutT) -> bool:
        self._results[index] = result
        return index == self._next

    def take(self) -> OutT:
        result: OutT = self._results.pop(self._next, _END)
        if result is not _END:
            self._next += 1
        return result


class InOrderAtTheEnd(Results[OutT]):
    """All wait for the last one, for whoever keeps them all.

    He is woken once, and no slow item holds up those behind it.
    """

    def __init__(self) -> None:
        # No dict: of a million results it would hold a million numbers.
        self._results: list[OutT] = []
        self._next = 0

    @property
    def waiting(self) -> int:
        return 0

    def put(self, index: int, result: OutT) -> bool:
        self._results += [_END] * (index + 1 - len(self._results))
        self._results[index] = result
        return False

    def take(self) -> OutT:
        result: OutT = self._results[self._next] if self._next < len(self._results) else _END
        if result is not _END:
            self._next += 1
        return result
