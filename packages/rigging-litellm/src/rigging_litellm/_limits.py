"""How many requests may be in flight, and how closely they may follow each other.

State is per event loop, as asyncio's primitives are: a generator that is used in two
`asyncio.run` calls, or in two threads, has its limits in each.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Limits"]


class Limits:
    """The limits of one generator, on any event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = WeakKeyDictionary()

    @contextlib.asynccontextmanager
    async def slot(
        self, max_connections: int, min_delay_s: float
    ) -> AsyncIterator[Callable[[], None]]:
        """Wait until one more request may start, and count it while the block runs.

        Args:
            max_connections: The most blocks that run at once; 0 is no limit.
            min_delay_s: Seconds from one request's departure to the next block's start.

        Yields:
            What to call when the request has left, from any thread; if it is not called,
            the end of the block counts.
        """
        gate = self._gate(max_connections)
        async with gate.connections or contextlib.nullcontext():
            left = await gate.turn(min_delay_s)
            try:
                yield left
            finally:
                left()

    def _gate(self, max_connections: int) -> _Gate:
        loop = asyncio.get_running_loop()
        with self._lock:
            gate = self._by_loop.get(loop)
            if gate is None or gate.max_connections != max_connections:
                # Assigning the field starts afresh; what is in flight counts no more.
                gate = self._by_loop[loop] = _Gate(max_connections)
            return gate

    def __deepcopy__(self, memo: dict[int, object]) -> Limits:
        return Limits()


class _Gate:
    """The limits on one event loop."""

    def __init__(self, max_connections: int) -> None:
        self.max_connections = max_connections
        self.connections = asyncio.Semaphore(max_connections) if max_connections else None
        self._turn = asyncio.Lock()
        self._last: float | None = None  # when the last request left, in the loop's time

    async def turn(self, min_delay_s: float) -> Callable[[], None]:
        """Wait for the time to start; return what says that the request has left."""
        if not min_delay_s:
            return _nothing
        loop = asyncio.get_running_loop()
        await self._turn.acquire()
        try:
            if self._last is not None:
                await asyncio.sleep(self._last + min_delay_s - loop.time())
        except BaseException:
            self._turn.release()
            raise
        done = threading.Event()

        def left() -> None:
            if done.is_set():
                return
            done.set()
            self._last = loop.time()
            loop.call_soon_threadsafe(self._turn.release)

        return left


def _nothing() -> None:
    """No delay is set, so nobody waits for the departure."""
