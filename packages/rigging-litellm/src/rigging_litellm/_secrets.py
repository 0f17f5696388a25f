"""Keys that a failed request of litellm's carried, or may have carried."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["keys_of"]

_KEY_HEADERS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_KEY_VARIABLE: Final = re.compile(r"_(?:API_?KEY|TOKEN)$")


def keys_of(links: Iterable[BaseException]) -> set[str]:
    """Return the keys that the requests behind exceptions carried, and the environment's."""
    found = {key for link in links for key in _keys_sent(link)}
    # Where no link holds the request, litellm may have taken one of these.
    return found | {value for name, value in os.environ.items() if _KEY_VARIABLE.search(name)}


def _keys_sent(link: BaseException) -> set[str]:
    try:
        headers: Any = getattr(getattr(link, "request", None), "headers", None) or {}
    except RuntimeError:  # httpx: the request was never set
        return set()
    # The scheme before a key, "Bearer" or "Basic", is no secret.
    return {headers[name].rpartition(" ")[2] for name in _KEY_HEADERS if name in headers}
