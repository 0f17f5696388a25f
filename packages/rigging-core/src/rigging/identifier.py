"""The grammar of identifiers: text to `Identifier` and back.

    identifier = [ [ distribution ":" ] provider "!" ] model { "," key "=" value }

This module knows no generator class: it takes an identifier apart and leaves each
value encoded, since only the field that it is meant for tells text, a list and JSON
apart. The three codecs for that stand at the end. Two laws hold, and
`tests/core/test_identifier.py` checks them: ``parse(format(x)) == x`` for every
identifier, ``format(parse(s)) == s`` for every canonical string.

Errors show the identifier with all values left out but the faulty one, so that no
key, not even a mistyped one's, is ever repeated.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rigging._text import masked
from rigging.error import InvalidIdentifierError
from rigging.redaction import is_secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "Identifier",
    "decode_any",
    "decode_list",
    "decode_text",
    "encode_any",
    "encode_list",
    "encode_text",
    "is_provider_name",
    "names_secret",
    "normalize_distribution",
]

_PROVIDER: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_DISTRIBUTION: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
# A field, or a part of one by any name, as in `extra.NAME` and `params.NAME`.
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\..+)?", re.DOTALL)
_BLANKS: Final = " \t\r\n"
_BASE64: Final = "base64:"
_NULL: Final = "null"

# What the parser would misread anywhere. Control characters survive no copy and paste.
_AMBIGUOUS: Final = r",\x00-\x1f\x7f-\x9f"
_ESCAPE: Final = re.compile(r"%(?=[0-9A-Fa-f]{2})")
_ESCAPED: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")


def is_provider_name(name: str) -> bool:
    """Tell whether ``name`` can stand before the ``!``."""
    return _PROVIDER.fullmatch(name) is not None


def names_secret(key: str) -> bool:
    """Tell whether what stands under a key is not to be shown: any part of it may say so.

    Example:
        >>> names_secret("api_key"), names_secret("headers.Authorization"), names_secret("seed")
        (True, True, False)
    """
    return any(is_secret(part) for part in key.split("."))


def normalize_distribution(name: str) -> str:
    """Return a distribution's name as packaging tools compare it.

    Source:
        Python packaging specifications, "Names and normalization".
    """
    return re.sub(r"[-_.]+", "-", name).lower()


class _Span(NamedTuple):
    """Where an option stands in the text that was parsed: indices of key, value and end."""

    key: int
    value: int
    end: int


@dataclass(frozen=True)
class Identifier:
    """An identifier taken apart.

    Attributes:
        model: The model's name, decoded.
        provider: The provider's name, lower-cased; None where the text leaves it out.
        distribution: The distribution that is to provide it, normalised; None for any.
        options: Keys to values; the values as written, still encoded.

    Example:
        >>> parsed = Identifier.parse("anthropic/claude-2.1,stop=output:;---,seed=1337")
        >>> parsed.model, parsed.options["stop"], decode_list(parsed.options["stop"])
        ('anthropic/claude-2.1', 'output:;---', ['output:', '---'])
    """

    model: str
    provider: str | None = None
    distribution: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    _text: str = field(default="", compare=False)
    _spans: Mapping[str, _Span] = field(default_factory=dict, compare=False)

    @classmethod
    def parse(cls, text: str) -> Identifier:
        """Take ``text`` apart.

        Raises:
            InvalidIdentifierError: If it does not follow the grammar.
        """
        if not isinstance(text, str):
            raise InvalidIdentifierError(f"expected a str, got {type(text).__name__}", "", 0)
        return _parse(text)

    def format(self) -> str:
        """Write the identifier in its canonical form, an ``api_key`` in it included."""
        head = encode_text(self.model, also="!")
        if self.provider is not None:
            head = f"{self.provider}!{head}"
        if self.distribution is not None:
            head = f"{self.distribution}:{head}"
        return ",".join([head, *(f"{_encode_key(k)}={v}" for k, v in self.options.items())])

    def error(self, reason: str, key: str | None = None, hint: str = "") -> InvalidIdentifierError:
        """Return an error that points at the value of ``key``, or at the end."""
        if key is None:
            return _fault(self._text, len(self._text), reason, hint)
        span = self._spans[key]
        hidden = names_secret(key)
        return _fault(self._text, span.value, reason, hint, shown=None if hidden else span)

    def key_error(self, reason: str, key: str, hint: str = "") -> InvalidIdentifierError:
        """Return an error that points at ``key`` itself."""
        return _fault(self._text, self._spans[key].key, reason, hint)

    def __repr__(self) -> str:
        return f"Identifier({_elided(self.format())[0]!r})"

    __str__ = __repr__


def _parse(text: str) -> Identifier:
    head, *pieces = _pieces(text)
    provider, distribution, model_at = _parse_provider(text, head)
    raw_model = text[model_at : head.end].strip(_BLANKS)
    if not raw_model:
        reason = "empty model" if text.strip(_BLANKS) else "empty"
        raise _fault(text, model_at, reason, "Write '<provider>!<model>' or '<model>'.")
    try:
        model = decode_text(raw_model)
    except ValueError as error:
        raise _fault(text, model_at, f"model: {error}") from None

    options: dict[str, str] = {}
    spans: dict[str, _Span] = {}
    for piece in pieces:
        key, span = _parse_option(text, piece)
        if key in options:
            raise _fault(text, span.key, f"the key {key!r} stands twice")
        options[key] = text[span.value : span.end].strip(_BLANKS)
        spans[key] = span
    return Identifier(model, provider, distribution, options, text, spans)


def _parse_provider(text: str, head: _Span) -> tuple[str | None, str | None, int]:
    """Return provider, distribution and the index at which the model starts."""
    bang = text.find("!", head.key, head.end)
    if bang < 0:
        return None, None, head.key
    distribution, colon, provider = text[:bang].strip(_BLANKS).rpartition(":")
    if not provider:
        raise _fault(text, bang, "empty provider", "Write the provider's name before the '!'.")
    if not is_provider_name(provider):
        hint = (
            "A provider's name is a letter, then letters, digits, '-' and '_'. "
            "A '!' in a model is written %21."
        )
        raise _fault(text, 0, "what stands before the '!' is not a provider name", hint)
    if not colon:
        return provider.lower(), None, bang + 1
    if not _DISTRIBUTION.fullmatch(distribution):
        raise _fault(text, 0, "what stands before the ':' is not a distribution's name")
    return provider.lower(), normalize_distribution(distribution), bang + 1


def _parse_option(text: str, piece: _Span) -> tuple[str, _Span]:
    if piece.value > piece.end:
        raise _fault(text, piece.key, "expected key=value after the comma", _COMMA_HINT)
    raw_key = text[piece.key : piece.value - 1].strip(_BLANKS)
    if not raw_key:
        raise _fault(text, piece.key, "empty key", "Write key=value after the comma.")
    try:
        key = decode_text(raw_key) if "." in raw_key else raw_key
    except ValueError as error:
        raise _fault(text, piece.key, f"key: {error}") from None
    if not _KEY.fullmatch(key):
        raise _fault(text, piece.key, "not a key", _COMMA_HINT)
    return key, piece


_COMMA_HINT: Final = "A comma inside a value is written %2C."


def _pieces(text: str) -> Iterator[_Span]:
    """Split at commas; a piece without ``=`` has its value behind its end."""
    start = 0
    while True:
        comma = text.find(",", start)
        end = len(text) if comma < 0 else comma
        equals = text.find("=", start, end)
        yield _Span(start, (end if equals < 0 else equals) + 1, end)
        if comma < 0:
            return
        start = comma + 1


def _encode_key(key: str) -> str:
    return encode_text(key, also="=") if "." in key else key


# -- Showing an identifier in an error ---------------------------------------------------


def _fault(
    text: str, at: int, reason: str, hint: str = "", *, shown: _Span | None = None
) -> InvalidIdentifierError:
    elided, position = _elided(text, at, shown)
    return InvalidIdentifierError(reason, elided, position, hint)


def _elided(text: str, at: int = 0, shown: _Span | None = None) -> tuple[str, int]:
    """Replace every value but ``shown`` by ``…``; return the text and where ``at`` went."""
    parts: list[str] = []
    length = 0
    position = at
    for index, piece in enumerate(_pieces(text)):
        whole = text[piece.key : piece.end]
        if index == 0 or piece == shown or not whole:
            part = masked(whole)
        elif piece.value <= piece.end:
            part = text[piece.key : piece.value] + "…"
        else:  # no key: a word, or what a comma cut from a value
            part = masked(whole) if index == 1 else "…"
        if piece.key <= at <= piece.end:
            position = length + min(at - piece.key, len(part))
        parts.append(part)
        length += len(part) + 1
    return ",".join(parts), position


# -- Codecs of values --------------------------------------------------------------------


def encode_text(text: str, *, also: str = "") -> str:
    """Percent-encode what would be misread, and nothing else.

    Args:
        text: Any text.
        also: Further characters to encode, such as ``;`` inside a list's item.

    Example:
        >>> encode_text("a,b 100%"), encode_text("%41 "), encode_text("a;b", also=";")
        ('a%2Cb 100%', '%2541%20', 'a%3Bb')
    """
    text = _ESCAPE.sub("%25", text)
    text = re.sub(f"[{_AMBIGUOUS}{re.escape(also)}]", lambda m: _percent(m[0]), text)
    return _guard_ends(text)


def decode_text(raw: str) -> str:
    """Undo `encode_text`; a ``%`` that no two hex digits follow stands for itself.

    Raises:
        ValueError: If the decoded bytes are not UTF-8.
    """

    def decode(match: re.Match[str]) -> str:
        try:
            return bytes.fromhex(match[0].replace("%", "")).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{match[0]} is not UTF-8") from None

    return _ESCAPED.sub(decode, raw)


def encode_list(items: Iterable[str]) -> str:
    """Join items with ``;``.

    Example:
        >>> encode_list(["output:", "---"]), encode_list(["a;b"]), encode_list([])
        ('output:;---', 'a%3Bb', '')
    """
    texts = list(items)
    if texts == [""]:  # nothing at all is the empty list
        return _encode_base64(texts)
    joined = ";".join(encode_text(text, also=";") for text in texts)
    return joined.replace(":", "%3A", 1) if joined.startswith(_BASE64) else joined


def decode_list(raw: str) -> list[str]:
    """Undo `encode_list`; ``base64:`` of a JSON list is read too.

    Raises:
        ValueError: If ``base64:`` is followed by anything else, or text is not UTF-8.
    """
    if raw.startswith(_BASE64):
        items = _decode_base64(raw)
        if not isinstance(items, list):
            raise ValueError("the JSON behind base64: is not a list")
        return items
    return [decode_text(item) for item in raw.split(";")] if raw else []


def encode_any(value: Any) -> str:
    """Write a JSON value: text as it is where that is clear, all else as JSON.

    Example:
        >>> encode_any("bob"), encode_any(True), encode_any("true"), encode_any({"a": [1, 2]})
        ('bob', 'true', '"true"', '{"a":[1%2C2]}')
    """
    if isinstance(value, str):
        raw = encode_text(value)
        if decode_any(raw) == value:
            return raw
    dumped = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return encode_text(dumped) if dumped != _NULL else dumped


def decode_any(raw: str) -> Any:
    """Undo `encode_any`: JSON (or ``base64:`` of it) where it parses, else text.

    Raises:
        ValueError: If ``base64:`` is not followed by base64 of JSON, or text is not UTF-8.
    """
    if raw.startswith(_BASE64):
        return _decode_base64(raw)
    text = decode_text(raw)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _encode_base64(value: Any) -> str:
    return _BASE64 + base64.b64encode(json.dumps(value).encode()).decode("ascii")


def _decode_base64(raw: str) -> Any:
    try:
        return json.loads(base64.b64decode(raw.removeprefix(_BASE64), validate=True))
    except (ValueError, RecursionError):
        raise ValueError("not base64 of JSON") from None


def _guard_ends(text: str) -> str:
    """Encode what the parser would strip or take for "no value"."""
    if text == _NULL:
        return _percent("n") + _NULL[1:]
    if text[:1] == " ":
        text = _percent(" ") + text[1:]
    if text[-1:] == " ":
        text = text[:-1] + _percent(" ")
    return text


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8"))
