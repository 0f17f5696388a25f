"""What an endpoint says that it has left for us, and when a request may start by that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["Allowance", "Quota"]

# What an endpoint says may be of a day, or nonsense. Then one tries, and sees: a refusal that
# comes of it is said with its own time to wait.
_LONGEST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What an answer says of the requests that are left.

    Attributes:
        remaining: Requests that may still come.
        resets_s: Seconds until all of them are there again.
        limit: How many that are. With it, what is used up is taken to flow back evenly, as
            in a bucket that fills; without, to come back at once, when the time is over.
    """

    remaining: float
    resets_s: float
    limit: float | None = None


class Allowance:
    """The requests that may start by what the last answers said.

    Requests are numbered in the order of their starts. An answer's numbers hold for its own
    request: those that started later are not counted in it yet.
    """

    def __init__(self) -> None:
        self._quotas: tuple[Quota, ...] = ()
        self._number = -1  # of the request whose answer it was
        self._said_at = -math.inf

    def say(self, quotas: tuple[Quota, ...], number: int, now: float) -> None:
        """Take what the answer to a request says; of two, the later request's counts."""
        if number >= self._number:
            self._quotas, self._number, self._said_at = quotas, number, now

    def wait_s(self, number: int, now: float) -> float:
        """Return how long the request of this number has to wait; 0 or less: it may start."""
        if not self._quotas:
            return 0.0
        since = number - self._number
        waits = (_seconds_until(quota, since - quota.remaining) for quota in self._quotas)
        wait_s = max((wait_s for wait_s in waits if wait_s <= _LONGEST_S), default=0.0)
        return self._said_at + wait_s - now if wait_s else 0.0


def _seconds_until(quota: Quota, missing: float) -> float:
    """Return the seconds until so many more requests are there."""
    if missing <= 0:
        return 0.0
    if quota.limit is None or quota.limit <= quota.remaining:
        return quota.resets_s
    return quota.resets_s * min(missing / (quota.limit - quota.remaining), 1.0)
