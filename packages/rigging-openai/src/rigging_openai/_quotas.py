"""What an answer's headers say is left of the rate limits, in requests.

Source:
    OpenAI API documentation, "Rate limits", "Rate limits in headers".
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from rigging.limits import Quota

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from rigging.limits import Left
    from rigging.result import Usage

__all__ = ["Quotas", "quotas_of"]

_REQUESTS: Final = "x-ratelimit-remaining-requests"
_TOKENS: Final = "x-ratelimit-remaining-tokens"

_MOST_ENDPOINTS: Final = 64  # remembered
_MOST_TOKENS: Final = 2**40  # that a request can have taken; more is a mistake

# Seconds of each unit in durations such as ``6m0s`` and ``20ms``.
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


class Quotas:
    """Tells the limiter what answers say, whether they are whole, streamed or refused.

    What is left of tokens is counted in requests like the last one whose usage is known.
    """

    def __init__(self) -> None:
        self._tokens: dict[Hashable, int] = {}  # by endpoint and model

    def learn(self, endpoint: Hashable, usage: Usage | None) -> None:
        """Note what a request took."""
        if usage is None or not 0 < usage.total_tokens <= _MOST_TOKENS:
            return
        if endpoint not in self._tokens and len(self._tokens) == _MOST_ENDPOINTS:
            self._tokens.clear()
        self._tokens[endpoint] = usage.total_tokens

    def tell(self, left: Left, endpoint: Hashable, headers: Mapping[str, str]) -> None:
        """Tell what the headers of an answer say, if they say anything."""
        if _REQUESTS in headers or _TOKENS in headers:
            left.quota(*quotas_of(headers, self._tokens.get(endpoint, 0)))


def quotas_of(headers: Mapping[str, str], tokens: int = 0) -> Iterator[Quota]:
    """Yield what is left of requests, and of tokens.

    Args:
        headers: Of the answer; looked up in lower case.
        tokens: What the request took; the next is taken to want as many. 0: not known.

    Example:
        >>> headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
        >>> list(quotas_of(headers))
        [Quota(remaining=0.0, resets_s=360.0, limit=None)]
    """
    for kind, size in (("requests", 1), ("tokens", tokens)):
        remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
        if remaining is None or size <= 0:
            continue
        resets_s = _seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
        if resets_s is not None:
            limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
            yield Quota(remaining // size, resets_s, None if limit is None else limit / size)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds(text: str) -> float | None:
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return _number(text)
