"""What all endpoints of one generator share on one event loop: connections, and delay."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Gate"]


class _Waiting(Protocol):
    """Where requests wait."""

    def admit(self) -> None:
        """Start as many of them as may start now."""


class Gate:
    """Lets requests through while there is a place, and one after another where that is asked.

    Nobody waits here: who gets no place is told when to try again.

    Attributes:
        in_flight: How many places are taken.
    """

    def __init__(self) -> None:
        self._limit: int | None = None
        self.in_flight = 0
        self._is_departing = False  # a request that has not said yet that it has left
        self._left_at = -math.inf
        # In the order in which they asked: a place goes to another one each time.
        self._turned_away: dict[_Waiting, None] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def set_limit(self, limit: int | None) -> None:
        """Set how many places there are; None is no limit. Nobody loses one that they have."""
        if limit != self._limit:
            self._limit = limit
            self._tell()

    def take(self, waiting: _Waiting, min_delay_s: float) -> Callable[[], None] | None:
        """Take a place for a request that starts now.

        Args:
            waiting: Told by `_Waiting.admit` when it is worth another try.
            min_delay_s: Seconds since the last request has left; one departs at a time.

        Returns:
            What to call, from any thread, when the request has left; None if it may not start.
        """
        if self._limit is not None and self.in_flight >= self._limit:
            self._turned_away[waiting] = None
            return None
        if not min_delay_s:
            self.in_flight += 1
            return _nothing
        loop = asyncio.get_running_loop()
        wait_s = self._left_at + min_delay_s - loop.time()
        if self._is_departing or wait_s > 0:
            self._turned_away[waiting] = None
            if not self._is_departing and self._alarm is None:
                self._alarm = loop.call_later(wait_s, self._tell)
            return None
        self.in_flight += 1
        self._is_departing = True
        return self._departure(loop)

    def free(self) -> None:
        """Give a place back."""
        self.in_flight -= 1
        if self._turned_away:
            self._tell()

    def forget(self, waiting: _Waiting) -> None:
        """Tell it nothing any more: nobody waits there."""
        self._turned_away.pop(waiting, None)
        if not self._turned_away:
            self._silence()

    def _departure(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        has_left = False

        def gone() -> None:
            nonlocal has_left
            if not has_left:
                has_left = True
                self._is_departing = False
                self._left_at = loop.time()
                self._tell()

        def left() -> None:
            if not has_left:
                # On the loop, which gets to it when whoever said so has gone on to the socket.
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(gone)

        return left

    def _tell(self) -> None:
        self._silence()
        turned_away, self._turned_away = self._turned_away, {}
        for waiting in turned_away:
            waiting.admit()

    def _silence(self) -> None:
        # The alarm refers to the loop, which must not be kept by those who wait no more.
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


def _nothing() -> None:
    """No delay is set, so nobody waits for the departure."""
