"""How many requests an endpoint gets, how closely they follow, and which go again.

A remote provider keeps one `Limiter` per generator, and hands each request over as a
function that makes one attempt:

    result = await limiter.run(attempt, Limits(max_connections=10), endpoint=(base, model))

- At most ``max_connections`` attempts are in flight, and ``min_delay_s`` lies between the
  starts of any two, whichever endpoint they go to and whoever calls.
- An attempt that ends in a `GenerationError` that is ``retryable`` is made again, up to
  ``max_retries`` times. While a request waits for that, it holds no place.
- An endpoint that refuses (`RateLimitError`) gets less, once per burst of refusals: requests
  start at a pace, or at a slower one, and the connections in force are halved, unless the
  pace was what held requests back. Both grow again with successes, while they hold requests
  back. Where refusals turn out to be random, there is no pace for a minute (`rigging._pace`).
- An answer that says how many requests are left (`Left.quota`) keeps back those that would be
  refused, until they would not.
- ``retry_after`` keeps all requests from that endpoint for as long, and a little longer.
- An endpoint that stays dead is given up: when a request has used up its retries and no
  other one was answered meanwhile, all that wait fail at once, and for half a minute all that
  come. The same goes for an endpoint that wants to be left alone for more than ten minutes.

With ``max_retries=0`` only the first of these holds: the rest is the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakKeyDictionary

from rigging._endpoint import Attempt, Endpoint, a_little_more
from rigging._quota import Quota
from rigging._slots import Slots
from rigging.error import GenerationError, ResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable

__all__ = ["Left", "Limiter", "Limits", "Quota"]

ResultT = TypeVar("ResultT")

_logger: Final = logging.getLogger(__name__)

_FIRST_WAIT_S: Final = 0.5  # before the first retry; doubled with each
_LONGEST_WAIT_S: Final = 30.0  # between retries that the endpoint set no time for


@dataclass(frozen=True, slots=True)
class Limits:
    """What a generator's owner allows.

    Attributes:
        max_connections: The most requests in flight at once; 0 is no limit.
        min_delay_s: Seconds between the starts of two requests.
        max_retries: How often a request is made again after a failure that may pass. With
            0, the limiter holds the other two and learns nothing: the rest is the caller's.

    Raises:
        ValueError: If one of them is negative.
    """

    max_connections: int = 10
    min_delay_s: float = 0.0
    max_retries: int = 5

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


class Left:
    """What an attempt tells the limiter.

    It is called, from any thread, when the request has left; the attempt's end counts if not.
    """

    __slots__ = ("_hear", "_leave")

    def __init__(
        self, leave: Callable[[], None], hear: Callable[[tuple[Quota, ...]], None] | None = None
    ) -> None:
        self._leave = leave
        self._hear = hear

    def __call__(self) -> None:
        """Say that the request has left: the delay to the next one counts from here."""
        self._leave()

    def quota(self, *quotas: Quota) -> None:
        """Say how many requests are left by the answer; of several, each is kept.

        Requests wait before they would be refused. Call it on the event loop.
        """
        if self._hear is not None:
            self._hear(quotas)


class Limiter:
    """The limits of one generator, on any event loop.

    State is per event loop, as asyncio's own primitives are: a generator that is used in
    two `asyncio.run` calls, or in two threads, has its limits in each.

    Example:
        >>> async def attempt(left: Left) -> str:
        ...     left()  # where the request goes out
        ...     return "answer"
        >>> asyncio.run(Limiter().run(attempt, Limits(), endpoint="https://example.org"))
        'answer'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = WeakKeyDictionary()

    async def run(
        self,
        attempt: Callable[[Left], Awaitable[ResultT]],
        limits: Limits,
        *,
        endpoint: Hashable,
    ) -> ResultT:
        """Make a request when it is its turn, and again while that may help.

        Args:
            attempt: Makes the request once; gets what to call when it has left.
            limits: What holds now; it may differ from call to call.
            endpoint: Where the request goes and what for, such as address and model: what
                is refused together.

        Returns:
            What the attempt returned.

        Raises:
            GenerationError: The last attempt's, or a copy of the one for which the endpoint
                was given up, with a note.
        """
        request = _Request(self._gate(), limits, endpoint)
        while True:
            try:
                async with request.turn() as left:
                    return await attempt(left)
            except GenerationError as error:
                await request.wait_after(error)

    async def stream(
        self,
        attempt: Callable[[Left], AsyncGenerator[ResultT, None]],
        limits: Limits,
        *,
        endpoint: Hashable,
    ) -> AsyncGenerator[ResultT, None]:
        """Make a request whose answer comes in pieces. It is in flight until the last one.

        Args:
            attempt: Makes the request once; gets what to call when it has left.
            limits: What holds now.
            endpoint: As in `run`.

        Yields:
            What the attempt yields.

        Raises:
            GenerationError: As `run`; after the first piece nothing is attempted again.
        """
        request = _Request(self._gate(), limits, endpoint)
        while True:
            try:
                async with request.turn() as left, contextlib.aclosing(attempt(left)) as pieces:
                    async for piece in pieces:
                        request.begin()
                        yield piece
            except GenerationError as error:
                if request.has_begun:
                    raise
                await request.wait_after(error)
            else:
                return

    def _gate(self) -> _Gate:
        loop = asyncio.get_running_loop()
        with self._lock:
            gate = self._by_loop.get(loop)
            if gate is None:
                gate = self._by_loop[loop] = _Gate()
            return gate

    def __deepcopy__(self, memo: dict[int, object]) -> Limiter:
        return Limiter()  # a copied generator shares nothing that can change


class _Gate:
    """What all requests of a limiter share on one event loop."""

    def __init__(self) -> None:
        self.connections = Slots(None)
        # No lock of asyncio's: it refers to the loop, which then would never be let go.
        self._departure = Slots(1)
        self._left_at = -math.inf
        self._endpoints: dict[Hashable, Endpoint] = {}

    def endpoint(self, key: Hashable) -> Endpoint:
        if key not in self._endpoints:
            self._endpoints[key] = Endpoint()
        return self._endpoints[key]

    async def depart(self, min_delay_s: float) -> Callable[[], None]:
        """Wait until the last departure is so long ago; one departs at a time.

        Returns:
            What to call when the request has left.
        """
        if not min_delay_s:
            return _nothing
        loop = asyncio.get_running_loop()
        await self._departure.take()
        try:
            await asyncio.sleep(self._left_at + min_delay_s - loop.time())
        except BaseException:
            self._departure.free()
            raise
        has_left = False

        def gone() -> None:
            nonlocal has_left
            if not has_left:
                has_left = True
                self._left_at = loop.time()
                self._departure.free()

        def left() -> None:
            if not has_left:
                # On the loop, which gets to it when whoever said so has gone on to the socket.
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(gone)

        return left


class _Request:
    """One request and its attempts.

    Attributes:
        has_begun: Whether a piece of the answer has come.
    """

    def __init__(self, gate: _Gate, limits: Limits, endpoint: Hashable) -> None:
        self._gate = gate
        self._limits = limits
        self._endpoint = gate.endpoint(endpoint)
        self._retries = 0
        self._began_at = math.inf
        self._last: Attempt | None = None
        self.has_begun = False
        gate.connections.limit = limits.max_connections or None
        self._endpoint.set_ceiling(limits.max_connections or None)

    def begin(self) -> None:
        """Note that the answer has begun."""
        if not self.has_begun:
            self.has_begun = True
            self._endpoint.answered()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Left]:
        """Wait for the turn of one attempt; what comes of the block is counted."""
        if not self._limits.max_retries:
            leave = await self._depart()
            try:
                yield Left(leave)
            finally:
                self._withdraw(leave)
            return
        endpoint = self._endpoint
        attempt, leave = await endpoint.start(self._depart, self._withdraw, again=self._retries > 0)
        self._last = attempt
        self._began_at = min(self._began_at, attempt.started_at)
        try:
            yield Left(leave, functools.partial(endpoint.say, attempt))
        except GenerationError as error:
            if error.retryable:
                endpoint.failed(attempt, error)
            elif error.status is not None or isinstance(error, ResponseError):
                endpoint.answered()
            raise
        except BaseException:
            if self.has_begun:
                endpoint.succeeded(attempt)  # its reader has seen enough
            raise
        else:
            endpoint.succeeded(attempt)
        finally:
            self._withdraw(leave)
            endpoint.end(attempt)

    async def wait_after(self, error: GenerationError) -> None:
        """Wait until the next attempt.

        Raises:
            GenerationError: The error itself, if there is to be none.
        """
        most = self._limits.max_retries
        if self._last is None or not error.retryable or self._endpoint.is_given_up:
            raise error
        if self._retries == most:
            self._endpoint.exhausted(error, self._began_at, self._last)
            raise error
        if error.retry_after is not None:
            wait_s = a_little_more(error.retry_after)
        else:
            longest_s = min(_FIRST_WAIT_S * 2**self._retries, _LONGEST_WAIT_S)
            wait_s = random.uniform(longest_s / 2, longest_s)  # noqa: S311 (no secret)
        self._retries += 1
        # An address that is wrong shows in this, while everybody waits.
        level = logging.WARNING if self._endpoint.tell_first_failure() else logging.INFO
        _logger.log(level, "%s; retry %d of %d in %.2g s", error, self._retries, most, wait_s)
        await self._endpoint.sleep(wait_s)

    async def _depart(self) -> Callable[[], None]:
        await self._gate.connections.take()
        try:
            return await self._gate.depart(self._limits.min_delay_s)
        except BaseException:
            self._gate.connections.free()
            raise

    def _withdraw(self, leave: Callable[[], None]) -> None:
        leave()
        self._gate.connections.free()


def _nothing() -> None:
    """No delay is set, so nobody waits for the departure."""
