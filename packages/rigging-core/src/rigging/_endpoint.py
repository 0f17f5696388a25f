"""What one endpoint gets on one event loop, learned from what it refuses."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
from typing import Final

from rigging._pace import Pace
from rigging._slots import Slots
from rigging.error import GenerationError, RateLimitError

__all__ = ["Endpoint", "a_little_more"]

_logger: Final = logging.getLogger("rigging.limits")

_LONGEST_PAUSE_S: Final = 600.0  # an endpoint that asks for more is given up
_GIVEN_UP_S: Final = 30.0
_DOUBLING_S: Final = 10.0  # of connections, while they are what holds requests back


class Endpoint:
    """Lets requests to one endpoint start, and counts what comes of them.

    Two things are lowered when the endpoint refuses, whichever of them held requests back:
    how many are in flight (halved), and how closely they start (`Pace`). Requests that
    started before that, and their refusals, belong to the same burst and change nothing.

    Attributes:
        succeeded_at: When a request last succeeded, in the loop's time.
    """

    def __init__(self) -> None:
        self.succeeded_at = -math.inf
        self._queue = Slots(1)
        self._connections = Slots(None)
        self._ceiling: int | None = None
        self._allowed = math.inf  # connections, below the ceiling; grows in fractions
        self._held_s = 0.0  # how long requests waited for one since the last success
        self._pace = Pace()
        self._resumes_at = -math.inf
        self._burst = 0  # of refusals, counted
        self._is_new = True  # nobody has been told of a failure
        self._given_up: GenerationError | None = None
        self._given_up_until = -math.inf

    @property
    def is_given_up(self) -> bool:
        """Whether requests fail at once."""
        return _now() < self._given_up_until

    def is_first_failure(self) -> bool:
        """Tell, once, that nothing has come of any request yet."""
        first = self._is_new and self.succeeded_at == -math.inf
        self._is_new = False
        return first

    def set_ceiling(self, ceiling: int | None) -> None:
        """Set the most connections that it may ever get; None is no limit."""
        if ceiling != self._ceiling:
            self._ceiling = ceiling
            self._set_limit()

    async def enter(self, *, again: bool) -> int:
        """Wait until a request may start; `leave` follows.

        Args:
            again: The request was attempted before, and goes before those that were not.

        Returns:
            The bursts of refusals so far.

        Raises:
            GenerationError: If the endpoint is given up.
        """
        # In single file, so that it shows what holds the first one back.
        await self._queue.take(first=again)
        try:
            self._check()
            came_at = _now()
            await self._connections.take()
            try:
                self._held_s += _now() - came_at
                await self._start()
            except BaseException:
                self._connections.free()
                raise
        finally:
            self._queue.free()
        return self._burst

    def leave(self) -> None:
        """End a request that has entered."""
        self._connections.free()

    def succeeded(self, burst: int) -> None:
        """Count a success of a request that entered after so many bursts."""
        self.succeeded_at = _now()
        self._given_up = None
        if burst != self._burst:
            return
        self._pace.grow()
        if self._allowed < (self._ceiling or math.inf):
            # By one at most: where answers take minutes, a success says no more.
            self._allowed += min(self._allowed * (2 ** (self._held_s / _DOUBLING_S) - 1), 1.0)
            self._set_limit()
        self._held_s = 0.0

    def failed(self, burst: int, error: GenerationError) -> None:
        """Count a failure that may pass, of a request that entered after so many bursts."""
        if self._given_up is not None:
            self.give_up(error)  # it is no better than before
        refused = isinstance(error, RateLimitError)
        if refused:
            self._pace.refused()
            if burst == self._burst:
                self._fall(error)
        if error.retry_after is None:
            if refused:
                self._pause(self._pace.breath_s)
        elif error.retry_after > _LONGEST_PAUSE_S:
            self.give_up(error, error.retry_after)
        else:
            self._pause(a_little_more(error.retry_after))

    def give_up(self, error: GenerationError, seconds: float = _GIVEN_UP_S) -> None:
        """Let requests fail at once for so long; after that one at a time may try."""
        if self._given_up is None:
            _logger.warning("gave up for %.0f s: %s", seconds, error)
        self._given_up = error
        self._given_up_until = _now() + seconds
        self._allowed = 1.0
        self._set_limit()

    async def _start(self) -> None:
        """Wait for the end of a pause and for the pace."""
        held_s = 0.0
        while True:
            self._check()
            now = _now()
            pause_s = max(self._resumes_at - now, 0.0)
            pace_s = self._pace.wait_s(now)
            if max(pause_s, pace_s) <= 0:
                self._pace.start(now, held_s)
                return
            held_s += max(pace_s - pause_s, 0.0)
            await asyncio.sleep(max(pause_s, pace_s))

    def _check(self) -> None:
        if self.is_given_up and self._given_up is not None:
            error = copy.copy(self._given_up)
            error.add_note("The endpoint was given up, so this request was not sent.")
            raise error from self._given_up

    def _pause(self, seconds: float) -> None:
        self._resumes_at = max(self._resumes_at, _now() + seconds)

    def _fall(self, error: GenerationError) -> None:
        now = _now()
        self._burst += 1
        connections_hold_back = not self._pace.holds_back
        self._pace.fall(now, sets_time=error.retry_after is not None)
        if connections_hold_back and not self._pace.is_random(now):
            in_force = self._connections.limit or self._connections.in_flight
            self._allowed = max(in_force / 2, 1.0)
            self._set_limit()
        self._held_s = 0.0
        rate = self._pace.rate or math.inf
        _logger.info("%s: %.0f connections and %.3g requests/s now", error, self._allowed, rate)

    def _set_limit(self) -> None:
        limit = min(self._allowed, self._ceiling or math.inf)
        self._connections.limit = None if math.isinf(limit) else int(limit)


def a_little_more(seconds: float) -> float:
    """Return some more seconds than that: clocks differ, and many wait for the same time."""
    return seconds + random.uniform(0.01, 0.05 + 0.05 * seconds)  # noqa: S311 (no secret)


def _now() -> float:
    return asyncio.get_running_loop().time()
