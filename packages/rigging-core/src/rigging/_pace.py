"""The pace that an endpoint keeps up with, learned from what it refuses.

A limit on requests in flight cannot hold a limit on requests per second: where answers
come fast, one connection is already too many. So once an endpoint has refused, requests
to it start at a rate, which is found by bisection and then creeps up again.

What is too high is the rate since requests resumed after the last refusal. A lower bound
comes from the model of most limiters, a bucket of ``burst`` tokens that fills at the rate
we look for. A refusal says that it is empty, so what was accepted between two of them must
have flowed in meanwhile: the best of the last few makes for one bound. A pause may have
filled the bucket to the brim, where the rest is lost; what was accepted in a long span
beyond what was accepted in the first, short one is free of the burst, which makes for
another.

Some endpoints refuse at random, whatever the rate, and would be slowed down for nothing, to
a crawl. By the model, where most requests were accepted, none is refused at half the rate.
Where refusals go on at half the rate all the same, there is no pace for a while.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import Final, NamedTuple

__all__ = ["Pace"]

_MARGIN: Final = 0.95  # of the rate that was found, so that the next refusal is far off
_STEEPEST: Final = 4  # times slower at once: the first bounds are rough
_BURST: Final = 20  # requests at once: a guess, as long as nothing else is known
_REMEMBERED: Final = 12  # refusals

# How fast the rate rises while it holds requests back: seconds until it doubles. After the
# first refusal it is only guessed, so soon tried again. Later on, a refusal that sets a time
# to stay away costs that time, so near the rate that brought it on, it is risked less often.
_FIRST_DOUBLING_S: Final = 2.0
_DOUBLING_S: Final = 10.0
_NEAR_DOUBLING_S: Final = 120.0
_NEAR: Final = (0.65, 1.25)  # of the refused rate

# The rest of an endpoint that refuses and sets no time: so many requests, or seconds.
_BREATH: Final = 4
_LONGEST_BREATH_S: Final = 0.25

# Refusals that have nothing to do with the rate: at most so large a share of requests before
# the rate was halved, and still more than that after it.
_FEW, _NONE = 0.25, 0.04
_SPREAD: Final = 1.25  # among the last refused rates, at least
_RANDOM_S: Final = 60.0

_SLOWEST: Final = 1 / 60  # requests per second
_SHORTEST_S: Final = 1e-3  # a span that rates are computed from


class _Refusal(NamedTuple):
    at: float  # the time
    accepted: int  # until then
    rate: float  # that was refused


class Pace:
    """When the next request to an endpoint may start. Times are the event loop's.

    Attributes:
        rate: Requests per second; None until the first refusal.
        holds_back: Whether the last request that started had to wait for it.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self._last_start = -math.inf
        self.holds_back = False
        self._held_s = 0.0  # how long requests waited for it since the last growth
        self._too_high = math.inf
        self._is_careful = False
        self._accepted = 0  # started and, as far as is known, not refused
        self._span: tuple[float, int] | None = None  # first start after the last fall, before it
        self._first: tuple[float, int] | None = None  # seconds and requests to the first refusal
        self._refusals: deque[_Refusal] = deque(maxlen=_REMEMBERED)
        self._is_random_until = -math.inf

    @property
    def breath_s(self) -> float:
        """Seconds of rest for an endpoint that refuses and sets no time."""
        return min(_BREATH / (self.rate or math.inf), _LONGEST_BREATH_S)

    def wait_s(self, now: float) -> float:
        """Return how long the next request has to wait; 0 or less: it may start."""
        return 0.0 if self.rate is None else self._last_start + 1 / self.rate - now

    def start(self, now: float, held_s: float) -> None:
        """Let a request start, after it waited so long for this alone."""
        self.holds_back = held_s > 0
        self._held_s += held_s
        self._last_start = now

    def sent(self, now: float) -> None:
        """Count a request that was let start, and goes out."""
        if self._span is None:
            self._span = (now, self._accepted)
        self._accepted += 1

    def refused(self) -> None:
        """Count a request that was refused after all."""
        self._accepted -= 1

    def grow(self) -> None:
        """Rise with a success, by how long requests were held back since the last one."""
        if self.rate is not None:
            doubling_s = _DOUBLING_S if len(self._refusals) > 1 else _FIRST_DOUBLING_S
            if self._is_careful and _NEAR[0] < self.rate / self._too_high < _NEAR[1]:
                doubling_s = _NEAR_DOUBLING_S
            self.rate *= 2 ** min(self._held_s / doubling_s, 1.0)
        self._held_s = 0.0

    def fall(self, now: float, *, sets_time: bool) -> None:
        """Find a rate below the one that was just refused.

        Args:
            now: The time.
            sets_time: The refusal says how long to stay away.
        """
        self._judge(now)
        if self.is_random(now):
            self.rate = None
            self._refusals.append(_Refusal(now, self._accepted, math.inf))
            return
        average, accepted, span_s = self._measured(now)
        self._too_high = self.rate if self.rate is not None and self.holds_back else average
        if self._first is None:
            self._first = (span_s, accepted)
            bound = max(accepted - _BURST, accepted / 4) / span_s
        else:
            self._is_careful = sets_time
            bound = max(
                # Less one, for which there may have been most of a token.
                (self._accepted - last.accepted - 1) / max(now - last.at, _SHORTEST_S)
                for last in self._refusals
            )
            if span_s > 2 * self._first[0]:
                bound = max(bound, (accepted - self._first[1]) / (span_s - self._first[0]))
        bound = min(max(bound, self._too_high / _STEEPEST**2), self._too_high)
        self.rate = max(math.sqrt(bound * self._too_high) * _MARGIN, _SLOWEST)
        self._refusals.append(_Refusal(now, self._accepted, self._too_high))
        self._span = None
        self._held_s = 0.0

    def is_random(self, now: float) -> bool:
        """Tell whether the endpoint seems to refuse at random."""
        return now < self._is_random_until

    def _judge(self, now: float) -> None:
        """Look at the last refusals: are they about the rate?"""
        if len(self._refusals) < _REMEMBERED:
            return
        oldest, middle = self._refusals[0], self._refusals[_REMEMBERED // 2]
        half = _REMEMBERED / 2
        # More may turn out to be refused than was known then, hence the bounds.
        before = half / (half + max(middle.accepted - oldest.accepted, 0))
        after = half / (half + max(self._accepted - middle.accepted, 0))
        # Where refusals keep coming at about the same rate, that rate is a limit.
        spread = max(last.rate for last in islice(self._refusals, _REMEMBERED // 2, None))
        if before > _FEW and after > _FEW:
            self._is_random_until = -math.inf
        elif (
            before < _FEW
            and after > _NONE
            and self._too_high < oldest.rate / 2
            and self._too_high < spread / _SPREAD
        ):
            self._is_random_until = now + _RANDOM_S

    def _measured(self, now: float) -> tuple[float, int, float]:
        """Return the rate since the last fall, and the requests and seconds that it is of."""
        since, before = self._span or (now, self._accepted)
        accepted, span_s = max(self._accepted - before, 1), max(now - since, _SHORTEST_S)
        return accepted / span_s, accepted, span_s
