"""The pace that an endpoint keeps up with, learned from what it refuses.

A limit on requests in flight cannot hold a limit on requests per second: where answers
come fast, one connection is already too many. So once an endpoint has refused, requests
to it start at a rate, which is found by bisection and then creeps up again.

What is too high is the rate since requests resumed after the last refusal. A lower bound
comes from the model of most limiters, a bucket of ``burst`` tokens that fills at the rate
we look for. A refusal says that it is empty, so what was taken since the last one cannot
be more than flowed in, which makes for one bound. A pause may have filled the bucket to
the brim, where the rest is lost; what was taken in a long span beyond what was taken in
the first, short one is free of the burst, which makes for another.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["Pace"]

_MARGIN: Final = 0.95  # of the rate that was found, so that the next refusal is far off
_BURST: Final = 20  # requests at once: a guess, as long as nothing else is known
_DOUBLING_S: Final = 10.0  # of being held back without a refusal
_NEAR_DOUBLING_S: Final = 120.0  # the same, where the rate is near to what was refused
_NEAR: Final = (0.65, 1.25)  # of the refused rate
_SLOWEST: Final = 1 / 60  # requests per second
_SHORTEST_S: Final = 1e-3  # a span that rates are computed from


class Pace:
    """When the next request to an endpoint may start. Times are the event loop's.

    Attributes:
        rate: Requests per second; None until the first refusal.
        holds_back: Whether the last request that started had to wait for it.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self.holds_back = False
        self._held_s = 0.0  # how long requests waited for it since the last growth
        self._too_high = math.inf
        self._is_known = False  # the rate, from more than one refusal
        self._refused_at: float | None = None  # the last refusal
        self._resumed_at = 0.0  # the first start after it
        self._last_start = -math.inf
        self._started = 0  # since the last refusal
        self._first: tuple[int, float] | None = None  # starts and seconds to the first one

    def wait_s(self, now: float) -> float:
        """Return how long the next request has to wait; 0 or less: it may start."""
        return 0.0 if self.rate is None else self._last_start + 1 / self.rate - now

    def start(self, now: float, held_s: float) -> None:
        """Count a request that starts, after it waited so long for this alone."""
        self.holds_back = held_s > 0
        self._held_s += held_s
        if not self._started:
            self._resumed_at = now
        self._last_start = now
        self._started += 1

    def grow(self) -> None:
        """Rise with a success, by how long requests were held back since the last one."""
        if self.rate is not None:
            near = self._is_known and _NEAR[0] < self.rate / self._too_high < _NEAR[1]
            self.rate *= 2 ** (self._held_s / (_NEAR_DOUBLING_S if near else _DOUBLING_S))
        self._held_s = 0.0

    def fall(self, now: float) -> None:
        """Find a rate below the one that was just refused."""
        accepted, span_s = max(self._started - 1, 1), max(now - self._resumed_at, _SHORTEST_S)
        self._too_high = self._started / span_s
        if self.rate is not None and self.holds_back:
            self._too_high = self.rate
        if self._first is None or self._refused_at is None:
            self._first = (accepted, span_s)
            bound = max(accepted - _BURST, accepted / 4) / span_s
        else:
            self._is_known = True
            bound = accepted / max(now - self._refused_at, _SHORTEST_S)
            if span_s > 2 * self._first[1]:
                beyond = (accepted - self._first[0]) / (span_s - self._first[1])
                bound = max(bound, beyond)
        found = math.sqrt(min(bound, self._too_high) * self._too_high)
        self.rate = max(found * _MARGIN, _SLOWEST)
        self._refused_at = now
        self._started = 0
        self._held_s = 0.0
