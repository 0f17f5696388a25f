"""Places for requests in flight: a semaphore whose size may change while it is used."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Slots"]


class Slots:
    """So many places, first come, first served, on one event loop.

    Args:
        limit: How many places there are; None is no limit.

    Attributes:
        in_flight: How many places are taken.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.in_flight = 0

    @property
    def limit(self) -> int | None:
        """How many places there are. Lowering it takes no place away from who has one."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | None) -> None:
        self._limit = limit
        if self._waiting:
            self._admit()

    @property
    def _is_full(self) -> bool:
        """Whether who comes now has to wait."""
        return self._limit is not None and self.in_flight >= self._limit

    async def take(self, *, first: bool = False) -> None:
        """Wait for a place and take it.

        Args:
            first: Stand at the head of the queue.
        """
        if not self._waiting and (self._limit is None or self.in_flight < self._limit):
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancel() and not turn.cancelled():
                self.free()  # the place came in the same moment
            raise

    def free(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        if self._waiting:
            self._admit()

    def _admit(self) -> None:
        while self._waiting and not self._is_full:
            turn = self._waiting.popleft()
            if not turn.done():  # who waited is gone
                self.in_flight += 1
                turn.set_result(None)
