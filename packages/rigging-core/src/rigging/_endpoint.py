"""What one endpoint gets on one event loop, learned from what it answers."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
from typing import TYPE_CHECKING, Final, TypeVar

from rigging._pace import Pace
from rigging._quota import Allowance
from rigging._slots import Slots
from rigging.error import GenerationError, RateLimitError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rigging._quota import Quota

__all__ = ["Attempt", "Endpoint", "a_little_more"]

_T = TypeVar("_T")

_logger: Final = logging.getLogger("rigging.limits")

_LONGEST_PAUSE_S: Final = 600.0  # an endpoint that asks for more is given up
_GIVEN_UP_S: Final = 30.0
_LONGEST_GIVEN_UP_S: Final = 3600.0
_DOUBLING_S: Final = 10.0  # of connections, while they are what holds requests back

# The rest of an endpoint that only refuses and sets no time: for the second burst, doubled
# with each. Five of them outlast a limit per minute.
_FRUITLESS_S: Final = 4.0
_LONGEST_FRUITLESS_S: Final = 30.0


class Attempt:
    """One attempt of a request, from its start on."""

    __slots__ = ("burst", "number", "started_at")

    def __init__(self, burst: int, started_at: float, number: int) -> None:
        self.burst = burst  # how many bursts of refusals there were before
        self.started_at = started_at
        self.number = number  # in the order of starts


class Endpoint:
    """Lets attempts start, and counts what comes of them.

    When the endpoint refuses, the pace at which attempts start is lowered (`Pace`), and how
    many are in flight is halved, unless the pace was what held them back. Attempts that
    started before that, and their refusals, belong to the same burst and change nothing.

    Times are the event loop's, in seconds.
    """

    def __init__(self) -> None:
        self._queue = Slots(1)
        self._connections = Slots(None)
        self._ceiling: int | None = None
        self._allowed = math.inf  # connections, below the ceiling; grows in fractions
        self._held_s = 0.0  # how long attempts waited for one since the last success
        self._pace = Pace()
        self._allowance = Allowance()
        self._started = 0  # attempts
        self._in_flight: dict[Attempt, None] = {}  # in the order of their starts
        self._sleepers: set[asyncio.Future[None]] = set()
        self._answered_at = -math.inf
        self._resumes_at = -math.inf
        self._burst = 0  # of refusals, counted
        self._fell_at = -math.inf
        self._fruitless = 0  # bursts since something was answered
        self._is_new = True  # nobody has been told of a failure
        self._given_up: tuple[GenerationError, float] | None = None  # and until when
        self._tries_again = False  # after it was given up, one attempt at a time

    @property
    def is_given_up(self) -> bool:
        """Whether requests fail at once."""
        return self._given_up is not None and _now() < self._given_up[1]

    def tell_first_failure(self) -> bool:
        """Tell, once, that nothing has come of any request yet."""
        first = self._is_new and self._answered_at == -math.inf
        self._is_new = False
        return first

    def set_ceiling(self, ceiling: int | None) -> None:
        """Set the most connections that it may ever get; None is no limit."""
        if ceiling != self._ceiling:
            self._ceiling = ceiling
            self._set_limit()

    async def start(
        self, depart: Callable[[], Awaitable[_T]], withdraw: Callable[[_T], None], *, again: bool
    ) -> tuple[Attempt, _T]:
        """Wait until an attempt may start; `end` follows.

        Args:
            depart: Waits for whatever else it takes to start.
            withdraw: Undoes that.
            again: The request was attempted before, and goes before those that were not.

        Returns:
            The attempt, and what ``depart`` returned.

        Raises:
            GenerationError: If the endpoint is given up.
        """
        # In single file, so that it shows what holds the first one back, and so that nobody
        # is past the last look at whether the endpoint wants a rest.
        await self._queue.take(first=again)
        try:
            while True:
                held_s = await self._wait()
                self._set_limit()
                came_at = _now()
                await self._connections.take()
                try:
                    self._held_s += _now() - came_at
                    self._check()
                    ticket = await depart()
                    now = _now()
                    if self._resumes_at <= now and not self.is_given_up:
                        self._pace.start(now, held_s)
                        attempt = Attempt(self._burst, now, self._started)
                        self._started += 1
                        self._in_flight[attempt] = None
                        return attempt, ticket
                    withdraw(ticket)
                except BaseException:
                    self._connections.free()
                    raise
                self._connections.free()
        finally:
            self._queue.free()

    def say(self, attempt: Attempt, quotas: tuple[Quota, ...]) -> None:
        """Take what the answer to an attempt says is left."""
        self._allowance.say(quotas, attempt.number, _now())

    def end(self, attempt: Attempt) -> None:
        """End an attempt that has started."""
        del self._in_flight[attempt]
        self._connections.free()

    def answered(self) -> None:
        """Count an answer, whatever it says: the endpoint is not dead."""
        self._answered_at = _now()
        self._fruitless = 0
        if self._given_up is not None:
            self._given_up = None
            self._tries_again = False
            self._set_limit()

    def succeeded(self, attempt: Attempt) -> None:
        """Count a success."""
        self.answered()
        if attempt.burst != self._burst:
            return
        self._pace.grow()
        if self._allowed < (self._ceiling or math.inf):
            # By one at most: where answers take minutes, a success says no more.
            share = 2 ** min(self._held_s / _DOUBLING_S, 1.0) - 1
            self._allowed += min(self._allowed * share, 1.0)
            self._set_limit()
        self._held_s = 0.0

    def failed(self, attempt: Attempt, error: GenerationError) -> None:
        """Count a failure that may pass."""
        if self._given_up is not None:
            self._give_up(error)  # it is no better than before
        refused = isinstance(error, RateLimitError)
        if refused:
            self._pace.refused()
            if attempt.burst == self._burst:
                self._fall(attempt, error)
        if error.retry_after is None:
            if refused:
                self._pause(self._rest_s())
        elif error.retry_after > _LONGEST_PAUSE_S:
            # A date in a far year is no reason to ask never again.
            self._give_up(error, min(error.retry_after, _LONGEST_GIVEN_UP_S))
        else:
            self._pause(a_little_more(error.retry_after))

    def exhausted(self, error: GenerationError, began_at: float, attempt: Attempt) -> None:
        """Count a request that has used up its retries.

        If nothing was answered since it began, and none can be any more that set out
        before its last attempt, the endpoint is dead, and given up.
        """
        waiting = next(iter(self._in_flight), attempt).started_at < attempt.started_at
        if self._answered_at < began_at and not waiting:
            self._give_up(error)

    async def sleep(self, seconds: float) -> None:
        """Sleep for so long, or until the endpoint is given up."""
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        alarm = loop.call_later(seconds, _wake, sleeper)
        self._sleepers.add(sleeper)
        try:
            await sleeper
        finally:
            alarm.cancel()
            self._sleepers.discard(sleeper)

    async def _wait(self) -> float:
        """Wait for the end of a pause and for the pace; return the seconds due to the latter."""
        held_s = 0.0
        while True:
            self._check()
            now = _now()
            pause_s = max(self._resumes_at - now, 0.0)
            pace_s = self._pace.wait_s(now)
            rest_s = max(pause_s, self._allowance.wait_s(self._started, now))
            if rest_s <= 0 and pace_s <= 0:
                return held_s
            held_s += max(pace_s - rest_s, 0.0)
            await self.sleep(max(rest_s, pace_s))

    def _check(self) -> None:
        if self._given_up is not None and self.is_given_up:
            error = copy.copy(self._given_up[0])
            error.add_note("The endpoint was given up, so this request was not sent.")
            raise error

    def _give_up(self, error: GenerationError, seconds: float = _GIVEN_UP_S) -> None:
        """Let requests fail at once for so long; after that one at a time may try."""
        if self._given_up is None:
            _logger.warning("gave up for %.0f s: %s", seconds, error)
        # Without its traceback, cause and notes: they are another request's.
        kept = copy.copy(error)
        vars(kept).pop("__notes__", None)
        self._given_up = (kept, _now() + seconds)
        self._tries_again = True
        self._set_limit()
        for sleeper in self._sleepers:
            _wake(sleeper)

    def _pause(self, seconds: float) -> None:
        self._resumes_at = max(self._resumes_at, _now() + seconds)

    def _rest_s(self) -> float:
        """Return how long an endpoint is left alone that refused and set no time."""
        if self._fruitless < 2:
            return self._pace.breath_s
        rest_s = math.ldexp(_FRUITLESS_S, min(self._fruitless - 2, 8))
        return min(rest_s, _LONGEST_FRUITLESS_S)

    def _fall(self, attempt: Attempt, error: GenerationError) -> None:
        now = _now()
        self._burst += 1
        alone = next(iter(self._in_flight)) is attempt
        self._fruitless += alone and self._answered_at <= self._fell_at
        self._fell_at = now
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
        if self.is_given_up:
            limit = math.inf  # who waits behind one that hangs is to fail as well
        elif self._tries_again:
            limit = 1.0
        self._connections.limit = None if math.isinf(limit) else int(limit)


def a_little_more(seconds: float) -> float:
    """Return some more seconds than that: clocks differ, and many wait for the same time."""
    return seconds + random.uniform(0.01, 0.05 + 0.05 * seconds)  # noqa: S311 (no secret)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _now() -> float:
    return asyncio.get_running_loop().time()
