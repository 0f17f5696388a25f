"""Secrets, kept out of what is shown.

Two ways to tell a secret: the name under which it stands (`is_secret`), and the text itself,
where it is known (`Redactor`). An endpoint may repeat the key that it refuses, whole or in
parts, and an address may hold one.

Of headers and of what stands behind an address it is the other way round: every gateway has
its own name for a key, so there only what is known to be harmless is shown (`is_harmless`).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Redactor", "is_harmless", "is_secret", "without_secrets", "without_url_secrets"]

_SECRET_WORDS: Final = ("authorization", "cookie", "credential", "password", "secret")
_SECRET_ENDINGS: Final = (
    "apikey",
    "accesskey",
    "privatekey",
    "accesstoken",
    "authtoken",
    "hftoken",
    "securitytoken",
    "sessiontoken",
    "subscriptionkey",
    "functionskey",
    "auth",
)

# Headers, and names in the query of an address, that say nothing in confidence.
_HARMLESS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "anthropic-beta",
        "anthropic-version",
        "api-version",
        "content-type",
        "deployment",
        "http-referer",
        "model",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "origin",
        "referer",
        "region",
        "user-agent",
        "version",
        "x-title",
    }
)
# Where headers and queries stand among other parameters.
_HEADERS_AND_QUERIES: Final = frozenset(
    {"headers", "extra_headers", "default_headers", "extra_query", "default_query"}
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


def is_harmless(name: str) -> bool:
    """Tell whether the value of a header, or of a name in a query, may be shown.

    Example:
        >>> is_harmless("X-Title"), is_harmless("Ocp-Apim-Subscription-Key")
        (True, False)
    """
    return name.lower() in _HARMLESS


def without_secrets(value: Any) -> Any:
    """Return a JSON value without its secrets, at any depth.

    These are texts under a secret's name, and of headers all that is not known to be harmless.
    """
    if isinstance(value, dict):
        return {
            name: _harmless(inner) if name in _HEADERS_AND_QUERIES else without_secrets(inner)
            for name, inner in value.items()
            if not (isinstance(name, str) and isinstance(inner, str) and is_secret(name))
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(inner) for inner in value]
    return value


def _harmless(values: Any) -> Any:
    if not isinstance(values, dict):
        return without_secrets(values)
    return {name: value for name, value in values.items() if is_harmless(str(name))}


def without_url_secrets(text: str) -> str:
    """Return a text without the passwords and keys that stand in addresses.

    Example:
        >>> without_url_secrets("http://me:pw@host/v1?api_key=k-7")
        'http://***@host/v1?api_key=***'
    """
    return _KEY_IN_URL.sub(r"\1=***", _USER_IN_URL.sub("***@", text))


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
        self._patterns = [re.compile("".join(map(_spelled, key))) for key in found]
        self._patterns += [
            re.compile(re.escape(key[:_HEAD]) + r"[\w-]{0,200}(?:\.{3}|…)[\w-]*")
            for key in found
            if len(key) > _HEAD
        ]

    def text(self, text: str) -> str:
        """Return ``text`` without keys."""
        text = without_url_secrets(text)
        for pattern in (*self._patterns, _MASKED_KEY):
            text = pattern.sub("***", text)
        return text

    def value(self, value: Any) -> Any:
        """Return a value as it is, or without what shows a key."""
        if value is None or isinstance(value, BaseException | int | float):
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
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [part.name for part in dataclasses.fields(value) if part.init]
            return dataclasses.replace(
                value, **{name: self.value(getattr(value, name)) for name in names}
            )
        return clean

    def exception(self, error: BaseException) -> None:
        """Take the keys out of what an exception holds, in place: a traceback shows it."""
        error.args = tuple(self.value(arg) for arg in error.args)
        vars(error).update({name: self.value(value) for name, value in vars(error).items()})


def _spelled(character: str) -> str:
    """Return the pattern of a character of a key, as texts, addresses and JSON spell it."""
    plain = re.escape(character)
    if character.isascii() and (character.isalnum() or character in "-._~"):
        return plain
    percent = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    ways = [f"\\\\?{plain}", f"(?i:{percent})", re.escape(json.dumps(character)[1:-1])]
    if character == " ":
        ways.append(r"\+")
    return f"(?:{'|'.join(ways)})"
