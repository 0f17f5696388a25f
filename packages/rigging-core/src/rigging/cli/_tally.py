"""What a batch amounts to: counts, tokens, times."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rigging._item import Item
    from rigging.events import RequestFinished

__all__ = ["Histogram", "Tally"]

_STEP: Final = math.log(1.05)  # a bucket's upper end is 5 % above its lower one
_SHORTEST_S: Final = 1e-4
_MOST_SLICES: Final = 120


class Histogram:
    """Durations, counted in buckets that are 5 % wide: its size does not grow with their number.

    Example:
        >>> seen = Histogram()
        >>> for duration_s in (0.1, 0.2, 0.4, 9.0):
        ...     seen.add(duration_s)
        >>> round(seen.quantile(0.5), 1), seen.longest_s
        (0.2, 9.0)
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.total = 0
        self.longest_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one, in seconds."""
        self._counts[int(math.log(max(duration_s, _SHORTEST_S) / _SHORTEST_S) / _STEP)] += 1
        self.total += 1
        self.longest_s = max(self.longest_s, duration_s)

    def quantile(self, share: float) -> float:
        """Return the seconds that this share of them took at most, to 5 %; 0 if there are none."""
        left = share * self.total
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return min(_seconds(bucket + 0.5), self.longest_s)
        return 0.0

    def __str__(self) -> str:
        return (
            f"median {self.quantile(0.5):.3g} s, 95 % within {self.quantile(0.95):.3g} s, "
            f"longest {self.longest_s:.3g} s"
        )

    def bars(self, number: int) -> list[tuple[float, int]]:
        """Return so many bars, (from how many seconds, count), equally wide in proportion."""
        if not self._counts:
            return []
        first, last = min(self._counts), max(self._counts) + 1
        width = max((last - first) / number, 1.0)
        bars = []
        start = float(first)
        while start < last:
            count = sum(self._counts[b] for b in self._counts if start <= b < start + width)
            bars.append((_seconds(start), count))
            start += width
        return bars


def _seconds(edge: float) -> float:
    """Return where a bucket of this number begins."""
    return _SHORTEST_S * math.exp(_STEP * edge)


class Tally:
    """Counts the items of a batch, and, as a listener of `rigging.plugins`, its requests.

    Attributes:
        finished: Items that were answered.
        failures: Items that failed, by the class of their error.
        input_tokens: Of all answered items, as far as they are known.
        output_tokens: Likewise.
        asked: Requests that were answered; other items were kept from before.
        latencies: How long these took.
    """

    def __init__(self) -> None:
        self.finished = 0
        self.failures: Counter[str] = Counter()
        self.input_tokens = 0
        self.output_tokens = 0
        self.asked = 0
        self.new_tokens = 0  # of these requests
        self.latencies = Histogram()
        self._began = time.monotonic()
        self._ended: float | None = None
        self._slice_s = 0.1
        self._slices: list[int] = []  # requests answered in each slice of time

    @property
    def failed(self) -> int:
        """Items that failed."""
        return self.failures.total()

    @property
    def items(self) -> int:
        """Items that have come to an end."""
        return self.finished + self.failed

    @property
    def kept(self) -> int:
        """Answered items that no request was made for: a checkpoint had them."""
        return max(self.finished - self.asked, 0)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning, or until the end."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def requests_per_s(self) -> float:
        """Requests answered or failed in a second."""
        return (self.asked + self.failed) / max(self.elapsed_s, 1e-9)

    @property
    def tokens_per_s(self) -> float:
        """Tokens generated in a second."""
        return self.new_tokens / max(self.elapsed_s, 1e-9)

    @property
    def timeline(self) -> list[tuple[float, float]]:
        """Requests answered per second, over time: (seconds since the beginning, rate)."""
        return [
            (number * self._slice_s, count / self._slice_s)
            for number, count in enumerate(self._slices)
        ]

    def add(self, item: Item) -> None:
        """Count an item that has come to an end."""
        if item.error is not None:
            self.failures[type(item.error).__name__] += 1
            return
        self.finished += 1
        if item.usage is not None:
            self.input_tokens += item.usage.input_tokens
            self.output_tokens += item.usage.output_tokens

    def end(self) -> None:
        """Stop the clock."""
        self._ended = time.monotonic()

    def rigging_request_finished(self, event: RequestFinished) -> None:
        """Count a request; see `rigging.plugins.Hooks`."""
        self.asked += 1
        self.latencies.add(event.duration_s)
        if event.usage is not None:
            self.new_tokens += event.usage.output_tokens
        number = int(self.elapsed_s / self._slice_s)
        while number >= _MOST_SLICES:  # as long as it may take, there are no more than so many
            pairs = zip(self._slices[::2], [*self._slices[1::2], 0], strict=False)
            self._slices = [one + other for one, other in pairs]
            self._slice_s *= 2
            number //= 2
        self._slices += [0] * (number + 1 - len(self._slices))
        self._slices[number] += 1

    def facts(self) -> dict[str, Any]:
        """Return it all as JSON values; times in seconds."""
        return {
            "items": self.items,
            "finished": self.finished,
            "failed": self.failed,
            "failures": dict(self.failures.most_common()),
            "kept": self.kept,
            "elapsed_s": round(self.elapsed_s, 3),
            "requests_per_s": round(self.requests_per_s, 3),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "tokens_per_s": round(self.tokens_per_s, 3),
            "latency_s": {
                "median": round(self.latencies.quantile(0.5), 4),
                "p95": round(self.latencies.quantile(0.95), 4),
                "longest": round(self.latencies.longest_s, 4),
            },
        }
