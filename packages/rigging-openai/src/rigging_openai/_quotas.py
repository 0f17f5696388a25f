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
    from collections.abc import Iterator, Mapping

__all__ = ["quotas_of"]

# Seconds of each unit in durations such as ``6m0s`` and ``20ms``.
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


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
        if remaining is None or not size:
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
