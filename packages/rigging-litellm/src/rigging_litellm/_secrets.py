"""Keys, kept out of what is shown of an exception.

An endpoint may repeat the key that it refuses, whole or in parts, and an address may hold
one. A traceback shows the whole chain of exceptions, so each link of it is cleaned.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Redactor"]

_KEY_HEADERS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
_SHORTEST_KEY: Final = 4  # characters; replacing shorter ones would only garble the text
_HEAD: Final = 4  # characters of a key that tell it, where the rest is left out

_KEY_VARIABLE: Final = re.compile(r"_(?:API_?KEY|TOKEN)$")
_USER_IN_URL: Final = re.compile(r"(?<=://)[^\s/@'\"]+@")
_KEY_IN_URL: Final = re.compile(
    r"(?<=[?&])((?:api[-_]?)?key|(?:access[-_]?)?token|sig(?:nature)?)=[^\s&'\"]+", re.IGNORECASE
)
_MASKED_KEY: Final = re.compile(r"[\w-]+\*{3,}[\w-]*")


class Redactor:
    """Replaces what may be a key by ``***``.

    Args:
        links: The exceptions of a chain; keys are what their requests carried, and what the
            environment holds under such names.
        api_key: The key that was given explicitly, if one was.
    """

    def __init__(self, links: Iterable[BaseException], api_key: str | None) -> None:
        found = [key for link in links for key in _keys_sent(link)] + [api_key or ""]
        # Where no link holds the request, litellm may have taken one of these.
        found += [value for name, value in os.environ.items() if _KEY_VARIABLE.search(name)]
        # What refuses a key for its line break shows that as ``\n``.
        stripped = {key.strip() for key in found if len(key.strip()) >= _SHORTEST_KEY}
        # The longest first, because one may be part of another.
        keys = sorted(stripped, key=len, reverse=True)
        self._patterns = [re.compile(re.escape(key)) for key in keys]
        self._patterns += [
            re.compile(re.escape(key[:_HEAD]) + r"[\w-]*(?:\.{3}|…)[\w-]*")
            for key in keys
            if len(key) > _HEAD
        ]

    def text(self, text: str) -> str:
        """Return ``text`` without keys."""
        text = _USER_IN_URL.sub("***@", text)
        text = _KEY_IN_URL.sub(r"\1=***", text)
        for pattern in (*self._patterns, _MASKED_KEY):
            text = pattern.sub("***", text)
        return text

    def exception(self, link: BaseException) -> None:
        """Take the keys out of what an exception holds."""
        link.args = tuple(self._value(arg) for arg in link.args)
        vars(link).update({name: self._value(value) for name, value in vars(link).items()})

    def _value(self, value: Any) -> Any:
        """Return a value as it is, or without what shows a key."""
        if isinstance(value, BaseException):
            return value
        shown = value if isinstance(value, str) else repr(value)
        clean = self.text(shown)
        if clean == shown:
            return value
        if isinstance(value, Mapping):
            return {name: self._value(part) for name, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self._value, value))
        if isinstance(value, tuple | list):
            return type(value)(map(self._value, value))
        return clean


def _keys_sent(link: BaseException) -> set[str]:
    try:
        headers: Any = getattr(getattr(link, "request", None), "headers", None) or {}
    except RuntimeError:  # httpx: the request was never set
        return set()
    # The scheme before a key, "Bearer" or "Basic", is no secret.
    return {headers[name].rpartition(" ")[2] for name in _KEY_HEADERS if name in headers}
