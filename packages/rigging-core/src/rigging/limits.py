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
import logging
import math
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakKeyDictionary

from rigging._endpoint import Attempt, Endpoint, a_little_more
from rigging._gate import Gate
from rigging._quota import Quota
from rigging.error import GenerationError, ResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
    from types import TracebackType

__all__ = ["Left", "Limiter", "Limits", "Quota"]

ResultT = TypeVar("ResultT")

_logger: Final = logging.getLogger(__name__)

_FIRST_WAIT_S: Final = 0.5  # before the first retry; doubled with each
_LONGEST_WAIT_S: Final = 30.0  # between retries that the endpoint set no time for

_UNLEARNED: Final = object()  # the key of all endpoints about which nothing is learned


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
        if self.max_connections >= 0 and self.min_delay_s >= 0 and self.max_retries >= 0:
            return  # at once: there is one of these for each request
        for name in self.__slots__:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


class Left:
    """What an attempt tells the limiter.

    It is called, from any thread, when the request has left; the attempt's end counts if not.
    """

    __slots__ = ("_attempt", "_endpoint")

    def __init__(self, attempt: Attempt, endpoint: Endpoint | None) -> None:
        self._attempt = attempt
        self._endpoint = endpoint  # None where nothing is learned

    def __call__(self) -> None:
        """Say that the request has left: the delay to the next one counts from here."""
        self._attempt.leave()

    def quota(self, *quotas: Quota) -> None:
        """Say how many requests are left by the answer; of several, each is kept.

        Requests wait before they would be refused. Call it on the event loop.
        """
        if self._endpoint is not None:
            self._endpoint.say(self._attempt, quotas)


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
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Endpoints] = (
            WeakKeyDictionary()
        )

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
        request = _Request(self._endpoints(), limits, endpoint)
        while True:
            try:
                left = await request.start()
                with request:
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
        request = _Request(self._endpoints(), limits, endpoint)
        while True:
            try:
                left = await request.start()
                with request:
                    async with contextlib.aclosing(attempt(left)) as pieces:
                        async for piece in pieces:
                            request.begin()
                            yield piece
            except GenerationError as error:
                if request.has_begun:
                    raise
                await request.wait_after(error)
            else:
                return

    def _endpoints(self) -> _Endpoints:
        loop = asyncio.get_running_loop()
        endpoints = self._by_loop.get(loop)
        if endpoints is None:
            with self._lock:
                endpoints = self._by_loop[loop] = _Endpoints()
        return endpoints

    def __deepcopy__(self, memo: dict[int, object]) -> Limiter:
        return Limiter()  # a copied generator shares nothing that can change


class _Endpoints:
    """The endpoints of a limiter on one event loop, and what they share."""

    def __init__(self) -> None:
        self.gate = Gate()
        self._by_key: dict[Hashable, Endpoint] = {}

    def get(self, key: Hashable) -> Endpoint:
        endpoint = self._by_key.get(key)
        if endpoint is None:
            endpoint = self._by_key[key] = Endpoint(self.gate)
        return endpoint


class _Request:
    """One request: a context manager, entered for each of its attempts when that has started.

    What comes of the block is counted.

    Attributes:
        has_begun: Whether a piece of the answer has come.
    """

    __slots__ = ("_attempt", "_began_at", "_endpoint", "_limits", "_retries", "has_begun")

    _attempt: Attempt  # the last one

    def __init__(self, endpoints: _Endpoints, limits: Limits, key: Hashable) -> None:
        self._limits = limits
        # What nothing is learned about is not told apart.
        self._endpoint = endpoints.get(key if limits.max_retries else _UNLEARNED)
        self._retries = 0
        self._began_at = math.inf
        self.has_begun = False
        endpoints.gate.set_limit(limits.max_connections or None)
        self._endpoint.set_ceiling(limits.max_connections or None)

    def begin(self) -> None:
        """Note that the answer has begun."""
        if not self.has_begun:
            self.has_begun = True
            self._endpoint.answered()

    async def start(self) -> Left:
        """Wait for the turn of the next attempt, and start it."""
        endpoint = self._endpoint
        attempt = await endpoint.start(self._limits.min_delay_s, again=self._retries > 0)
        self._attempt = attempt
        self._began_at = min(self._began_at, attempt.started_at)
        return Left(attempt, endpoint if self._limits.max_retries else None)

    def __enter__(self) -> None:
        """The attempt that was started is made."""

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if self._limits.max_retries:
            self._count(self._attempt, error)
        self._endpoint.end(self._attempt)

    def _count(self, attempt: Attempt, error: BaseException | None) -> None:
        endpoint = self._endpoint
        if error is None:
            endpoint.succeeded(attempt)
        elif isinstance(error, GenerationError):
            if error.retryable:
                endpoint.failed(attempt, error)
            elif error.status is not None or isinstance(error, ResponseError):
                endpoint.answered()
        elif self.has_begun:
            endpoint.succeeded(attempt)  # its reader has seen enough

    async def wait_after(self, error: GenerationError) -> None:
        """Wait until the next attempt.

        Raises:
            GenerationError: The error itself, if there is to be none.
        """
        most = self._limits.max_retries
        if not error.retryable or self._endpoint.is_given_up:
            raise error
        if self._retries == most:
            if most:
                self._endpoint.exhausted(error, self._began_at, self._attempt)
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
