"""What one endpoint gets on one event loop, learned from what it answers."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from rigging._pace import Pace
from rigging._quota import Allowance
from rigging.error import GenerationError, RateLimitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging._gate import Gate
    from rigging._quota import Quota

__all__ = ["Attempt", "Endpoint", "a_little_more"]

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

    __slots__ = ("burst", "leave", "number", "started_at")

    def __init__(
        self, burst: int, started_at: float, number: int, leave: Callable[[], None]
    ) -> None:
        self.burst = burst  # how many bursts of refusals there were before
        self.started_at = started_at
        self.number = number  # in the order of starts
        self.leave = leave  # to be called, from any thread, when the request has left


class _Waiter(NamedTuple):
    """A request that waits for the start of its next attempt."""

    turn: asyncio.Future[Attempt]
    min_delay_s: float


class Endpoint:
    """Lets attempts start, and counts what comes of them.

    When the endpoint refuses, the pace at which attempts start is lowered (`Pace`), and how
    many are in flight is halved, unless the pace was what held them back. Attempts that
    started before that, and their refusals, belong to the same burst and change nothing.

    Requests that may not start at once stand in line, and `admit` starts as many as may start:
    whenever an attempt ends, or a time has come. So it shows what holds the first one back.

    Times are the event loop's, in seconds.

    Args:
        gate: What it shares with other endpoints.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._line: deque[_Waiter] = deque()
        self._alarm: asyncio.TimerHandle | None = None  # while the first one waits for a time
        self._limit: int | None = None  # of connections
        self._ceiling: int | None = None
        self._allowed = math.inf  # connections, below the ceiling; grows in fractions
        self._full_since = math.inf  # while the first one waits for a connection
        self._held_s = 0.0  # how long that took, since the last success
        self._pace = Pace()
        self._paced_s = 0.0  # how long the first one was held back by the pace alone
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

    async def start(self, min_delay_s: float, *, again: bool) -> Attempt:
        """Wait until an attempt may start, and start it; `end` follows.

        Args:
            min_delay_s: Seconds that shall lie between the departure before and its own.
            again: The request was attempted before, and goes before those that were not.

        Raises:
            GenerationError: If the endpoint is given up.
        """
        while True:
            if self._given_up is not None and self.is_given_up:
                raise _unsent(self._given_up[0])
            attempt = None if self._line else self._next(min_delay_s)
            if attempt is None:
                turn = self._join(min_delay_s, again=again)
                try:
                    attempt = await turn
                except BaseException:
                    self._leave(turn)
                    raise
            if self._resumes_at <= attempt.started_at and not self.is_given_up:
                self._pace.sent(attempt.started_at)
                return attempt
            # Another one was refused between the start and now, when it would go out.
            self.end(attempt)
            again = True

    def admit(self) -> None:
        """Start as many of those that wait as may start now."""
        self._tidy()
        while self._line and self._alarm is None:
            attempt = self._next(self._line[0].min_delay_s)
            if attempt is None:
                return
            self._line.popleft().turn.set_result(attempt)
            self._tidy()

    def say(self, attempt: Attempt, quotas: tuple[Quota, ...]) -> None:
        """Take what the answer to an attempt says is left."""
        self._allowance.say(quotas, attempt.number, _now())

    def end(self, attempt: Attempt) -> None:
        """End an attempt that has started."""
        attempt.leave()  # if it never said so
        del self._in_flight[attempt]
        self._gate.free()
        self.admit()

    def answered(self) -> None:
        """Count an answer, whatever it says: the endpoint is not dead."""
        self._answered_at = _now()
        self._fruitless = 0
        if self._given_up is not None:
            self._given_up = None
            self._tries_again = False
            self._set_limit()
            self.admit()

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
        sleeper: asyncio.Future[None] = _loop().create_future()
        alarm = _loop().call_later(seconds, _wake, sleeper)
        self._sleepers.add(sleeper)
        try:
            await sleeper
        finally:
            alarm.cancel()
            self._sleepers.discard(sleeper)

    def _join(self, min_delay_s: float, *, again: bool) -> asyncio.Future[Attempt]:
        """Stand in line, which something is known to hold back; return one's turn."""
        waiter = _Waiter(_loop().create_future(), min_delay_s)
        # Behind the first one: what holds that back has been counted for its own start.
        self._line.insert(1 if again else len(self._line), waiter)
        return waiter.turn

    def _leave(self, turn: asyncio.Future[Attempt]) -> None:
        """Leave the line, or give back the attempt that was started in the same moment."""
        if not turn.cancel() and not turn.cancelled() and turn.exception() is None:
            self.end(turn.result())
        self._tidy()

    def _next(self, min_delay_s: float) -> Attempt | None:
        """Start the attempt that is next; None if it may not start yet.

        Then `admit` is called when it may: at a time, when another one ends, or by the gate.
        """
        now = _now()
        pause_s = max(self._resumes_at - now, 0.0)
        rest_s = max(pause_s, self._allowance.wait_s(self._started, now))
        pace_s = self._pace.wait_s(now)
        if rest_s > 0 or pace_s > 0:
            self._paced_s += max(pace_s - rest_s, 0.0)
            self._alarm = _loop().call_later(max(rest_s, pace_s), self._resume)
            return None
        if self._limit is not None and len(self._in_flight) >= self._limit:
            self._full_since = min(self._full_since, now)
            return None
        leave = self._gate.take(self, min_delay_s)
        return None if leave is None else self._begin(leave, now)

    def _begin(self, leave: Callable[[], None], now: float) -> Attempt:
        if self._full_since < now:
            self._held_s += now - self._full_since
        self._full_since = math.inf
        self._pace.start(now, self._paced_s)
        self._paced_s = 0.0
        attempt = Attempt(self._burst, now, self._started, leave)
        self._started += 1
        self._in_flight[attempt] = None
        return attempt

    def _resume(self) -> None:
        self._alarm = None
        self.admit()

    def _tidy(self) -> None:
        """Drop those at the head of the line that have gone."""
        while self._line and self._line[0].turn.done():
            self._line.popleft()
        if not self._line:
            self._full_since = math.inf
            self._paced_s = 0.0
            self._silence()
            self._gate.forget(self)

    def _silence(self) -> None:
        # The alarm refers to the loop, which must not be kept by those who wait no more.
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

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
        for waiter in self._line:
            if not waiter.turn.done():
                waiter.turn.set_exception(_unsent(kept))
        self._tidy()

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
            in_force = self._limit or len(self._in_flight)
            self._allowed = max(in_force / 2, 1.0)
            self._set_limit()
        self._held_s = 0.0
        rate = self._pace.rate or math.inf
        _logger.info("%s: %.0f connections and %.3g requests/s now", error, self._allowed, rate)

    def _set_limit(self) -> None:
        limit = 1.0 if self._tries_again else min(self._allowed, self._ceiling or math.inf)
        self._limit = None if math.isinf(limit) else int(limit)


def a_little_more(seconds: float) -> float:
    """Return some more seconds than that: clocks differ, and many wait for the same time."""
    return seconds + random.uniform(0.01, 0.05 + 0.05 * seconds)  # noqa: S311 (no secret)


def _unsent(error: GenerationError) -> GenerationError:
    """Return the error of a request that comes after this one had its endpoint given up."""
    copied = copy.copy(error)
    copied.add_note("The endpoint was given up, so this request was not sent.")
    return copied


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _now() -> float:
    return _loop().time()
