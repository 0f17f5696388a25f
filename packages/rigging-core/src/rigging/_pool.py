"""A window over a stream of items: so many at a time, results as they come or in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sized,
)
from typing import Any, Final, Generic, TypeAlias, TypeVar

__all__ = ["Source", "windowed"]

ItemT = TypeVar("ItemT")
OutT = TypeVar("OutT")

Source: TypeAlias = Iterable[ItemT] | AsyncIterable[ItemT]

_END: Final[Any] = object()


async def windowed(
    work: Callable[[ItemT], Awaitable[OutT]],
    source: Source[ItemT],
    *,
    window: int,
    ordered: bool,
) -> AsyncGenerator[OutT, None]:
    """Run ``work`` over a source, with at most ``window`` items in progress.

    Whoever iterates applies back-pressure: no item is taken from the source while
    ``window`` results wait to be fetched. So memory depends on the window and not on the
    source, which may be endless. An iterator that is not run to its end must be closed
    (`contextlib.aclosing`).

    Args:
        work: What to do with an item.
        source: Where the items come from, taken one at a time.
        window: The most items in progress, at least 1.
        ordered: Give results in the order of the items, and not as they come.

    Yields:
        The result of each item.

    Raises:
        BaseException: The first failure of ``work`` or of the source, after the results
            that were ready. Work in progress has then been cancelled, and has ended.
    """
    pool = _Pool(work, source, window=window, ordered=ordered)
    try:
        while True:
            for result in pool.ready():
                yield result
            if pool.failure is not None:
                raise pool.failure
            if not pool.is_active:
                return
            await pool.news()
    finally:
        await pool.close()


class _Pool(Generic[ItemT, OutT]):
    """Workers that each take an item, work on it, and put the result where it is fetched."""

    def __init__(
        self,
        work: Callable[[ItemT], Awaitable[OutT]],
        source: Source[ItemT],
        *,
        window: int,
        ordered: bool,
    ) -> None:
        self.failure: BaseException | None = None
        self._work = work
        self._items = _Items(source)
        self._window = window
        self._results: _Results[OutT] = _InOrder() if ordered else _AsTheyCome()
        self._room = asyncio.Event()
        self._news = asyncio.Event()
        # Workers and not a task per item: a task costs more than all else here.
        count = min(window, len(source)) if isinstance(source, Sized) else window
        self._active = count
        self._workers = [asyncio.create_task(self._run()) for _ in range(count)]

    @property
    def is_active(self) -> bool:
        """Whether a result may still come."""
        return self._active > 0 or self._results.waiting > 0

    def ready(self) -> Iterator[OutT]:
        """Take the results that are ready, making room for others."""
        for result in self._results:
            self._room.set()
            yield result

    async def news(self) -> None:
        """Wait until there may be something to fetch."""
        await self._news.wait()
        self._news.clear()

    async def close(self) -> None:
        """End the workers, and the source if it can be ended."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._items.close()

    async def _run(self) -> None:
        try:
            while self.failure is None:
                while self._results.waiting >= self._window:
                    self._room.clear()
                    await self._room.wait()
                index, item = await self._items.take()
                if item is _END:
                    return
                self._results.put(index, await self._work(item))
                self._news.set()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 (whoever iterates raises it)
            self.failure = self.failure or error
        finally:
            self._active -= 1
            self._news.set()


class _Items(Generic[ItemT]):
    """The source, numbered, whichever kind of iterable it is."""

    def __init__(self, source: Source[ItemT]) -> None:
        self._taken = 0
        self._iterator: Iterator[ItemT] | None = None
        self._async_iterator: AsyncIterator[ItemT] | None = None
        if isinstance(source, AsyncIterable):
            self._async_iterator = aiter(source)
        else:
            self._iterator = iter(source)
        self._turn = asyncio.Lock()

    async def take(self) -> tuple[int, ItemT]:
        """Take the next item and its number; the item is `_END` where there is none."""
        if self._iterator is not None:
            item = next(self._iterator, _END)
        else:
            async with self._turn:
                return self._numbered(await anext(self._async_iterator, _END))  # type: ignore[arg-type]
        return self._numbered(item)

    async def close(self) -> None:
        if isinstance(self._async_iterator, AsyncGenerator):
            await self._async_iterator.aclose()

    def _numbered(self, item: ItemT) -> tuple[int, ItemT]:
        index = self._taken
        self._taken += 1
        return index, item


class _Results(Generic[OutT]):
    """Results that wait to be fetched; iterating takes them."""

    @property
    def waiting(self) -> int:
        raise NotImplementedError

    def put(self, index: int, result: OutT) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[OutT]:
        raise NotImplementedError


class _AsTheyCome(_Results[OutT]):
    def __init__(self) -> None:
        self._results: deque[OutT] = deque()

    @property
    def waiting(self) -> int:
        return len(self._results)

    def put(self, index: int, result: OutT) -> None:  # noqa: ARG002 (only order needs it)
        self._results.append(result)

    def __iter__(self) -> Iterator[OutT]:
        while self._results:
            yield self._results.popleft()


class _InOrder(_Results[OutT]):
    def __init__(self) -> None:
        self._results: dict[int, OutT] = {}
        self._next = 0

    @property
    def waiting(self) -> int:
        return len(self._results)

    def put(self, index: int, result: OutT) -> None:
        self._results[index] = result

    def __iter__(self) -> Iterator[OutT]:
        while self._next in self._results:
            result = self._results.pop(self._next)
            self._next += 1
            yield result
