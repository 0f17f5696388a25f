"""Secrets, kept out of what is shown.

Two ways to tell a secret: the name under which it stands (`is_secret`), and the text itself,
where it is known (`Redactor`). An endpoint may repeat the key that it refuses, whole or in
parts, and an address may hold one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Redactor", "is_secret", "without_secrets"]

_SECRET_WORDS: Final = ("authorization", "credential", "password", "secret")
_SECRET_ENDINGS: Final = (
    "apikey",
    "accesskey",
    "privatekey",
    "accesstoken",
    "authtoken",
    "hftoken",
)

_SHORTEST_KEY: Final = 4  # characters; replacing shorter ones would only garble the text
_HEAD: Final = 4  # characters of a key that tell it, where the rest is left out

_USER_IN_URL: Final = re.compile(r"(?<=://)[^\s/@'\"]+@")
_KEY_IN_URL: Final = re.compile(
    r"(?<=[?&])((?:api[-_]?)?key|(?:access[-_]?)?token|sig(?:nature)?)=[^\s&'\"]+", re.IGNORECASE
)
# Of whole words and without a second try: a long text takes time by its length only.
_MASKED_KEY: Final = re.compile(r"(?<![\w-])[\w-]++\*{3,}[\w-]*")


def is_secret(name: str) -> bool:
    """Tell whether a field or key of this name holds what must never be shown."""
    plain = name.lower().replace("_", "").replace("-", "")
    # Not any "…token": a model's vocabulary has those, too.
    return (
        plain == "token"
        or plain.endswith(_SECRET_ENDINGS)
        or any(word in plain for word in _SECRET_WORDS)
    )


def without_secrets(value: Any) -> Any:
    """Return a JSON value without the texts that stand under a secret's name, at any depth."""
    if isinstance(value, dict):
        return {
            name: without_secrets(inner)
            for name, inner in value.items()
            if not (isinstance(name, str) and isinstance(inner, str) and is_secret(name))
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(inner) for inner in value]
    return value


class Redactor:
    """Replaces by ``***`` what is a key, a part of one, or looks like one in an address.

    Args:
        keys: The keys that the request carried; None and short ones are passed over.

    Example:
        >>> Redactor(["sk-planted-51c7"]).text("no such key: sk-planted-51c7")
        'no such key: ***'
    """

    def __init__(self, keys: Iterable[str | None]) -> None:
        # What refuses a key for its line break shows that as ``\n``.
        stripped = {key.strip() for key in keys if key and len(key.strip()) >= _SHORTEST_KEY}
        # The longest first, because one may be part of another.
        found = sorted(stripped, key=len, reverse=True)
        self._patterns = [re.compile(re.escape(key)) for key in found]
        self._patterns += [
            re.compile(re.escape(key[:_HEAD]) + r"[\w-]{0,200}(?:\.{3}|…)[\w-]*")
            for key in found
            if len(key) > _HEAD
        ]

    def text(self, text: str) -> str:
        """Return ``text`` without keys."""
        text = _USER_IN_URL.sub("***@", text)
        text = _KEY_IN_URL.sub(r"\1=***", text)
        for pattern in (*self._patterns, _MASKED_KEY):
            text = pattern.sub("***", text)
        return text

    def value(self, value: Any) -> Any:
        """Return a value as it is, or without what shows a key."""
        if isinstance(value, BaseException):
            return value
        shown = value if isinstance(value, str) else repr(value)
        clean = self.text(shown)
        if clean == shown:
            return value
        if isinstance(value, Mapping):
            return {name: self.value(part) for name, part in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(self.value, value))
        if isinstance(value, tuple | list):
            return type(value)(map(self.value, value))
        return clean

    def exception(self, error: BaseException) -> None:
        """Take the keys out of what an exception holds, in place: a traceback shows it."""
        error.args = tuple(self.value(arg) for arg in error.args)
        vars(error).update({name: self.value(value) for name, value in vars(error).items()})
