"""Keys that a failed request of litellm's carried, or may have carried."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

from rigging.redaction import is_harmless, is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["keys_of"]

# Headers of the SDK's and of the HTTP client's own.
_OWN_HEADERS: Final = re.compile(r"x-stainless-|(?:connection|content-length|host)$")
# What is under no known name of a secret, and is one all the same, is not so short.
_SHORTEST_UNNAMED: Final = 8  # characters
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
    return {key for name, value in headers.items() for key in _keys_in(name.lower(), value)}


def _keys_in(name: str, value: str) -> list[str]:
    # The scheme before a key, "Bearer" or "Basic", is no secret.
    parts = [value, value.rpartition(" ")[2]]
    if is_secret(name):
        return parts
    if is_harmless(name) or _OWN_HEADERS.match(name):
        return []
    return [part for part in parts if len(part) >= _SHORTEST_UNNAMED]
