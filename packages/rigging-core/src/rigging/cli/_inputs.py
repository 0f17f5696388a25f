"""The file that a batch reads: one JSON object a line."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pydantic_core import PydanticSerializationError, to_json

from rigging._text import nearest
from rigging.cli._exits import UsageError
from rigging.message import Message
from rigging.params import GenerateParams

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Inputs", "Line"]

_KINDS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", str: "a text"}
_KEYS: Final = ("prompt", "messages", "id", "params", "metadata")


class Line(NamedTuple):
    """One item of a batch.

    Attributes:
        input: What to send: a conversation, or a text to continue.
        params: Its own parameters.
        name: What it is called in the results: its ``id``, or the number of its line.
        metadata: What it carries along.
    """

    input: list[Message] | str
    params: GenerateParams | None
    name: str | int
    metadata: dict[str, Any] | None


class Inputs:
    """The items of a file, read anew by each iteration. Lines without text are passed over.

    Args:
        path: The file.
        limit: Only so many items, from the beginning; None for all.
        complete: Items are texts to continue, and not conversations.

    Raises:
        UsageError: While iterating, if a line is no item; it says which line, and why.
    """

    def __init__(self, path: Path, *, limit: int | None = None, complete: bool = False) -> None:
        self._path = path
        self._limit = limit
        self._complete = complete

    def __iter__(self) -> Iterator[Line]:
        return islice(self._lines(), self._limit)

    def count(self) -> int:
        """Look at all of them, and return how many there are."""
        return sum(1 for _ in self)

    def _lines(self) -> Iterator[Line]:
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    yield self._read(number, line)
                except (UsageError, ValueError, RecursionError) as error:
                    raise UsageError(f"{self._path}, line {number}: {error}") from error

    def _read(self, number: int, line: bytes) -> Line:
        item = json.loads(line, parse_constant=_refuse)
        if not isinstance(item, dict):
            raise UsageError(f"expected an object, got {type(item).__name__}")
        try:
            to_json(item)
        except PydanticSerializationError as error:  # half a character, or a thousand brackets
            raise UsageError(f"its result could not be kept: {error}") from error
        for key in item:
            if key not in _KEYS:
                near = nearest(key, _KEYS)
                hint = f"did you mean {near!r}?" if near else f"there are {', '.join(_KEYS)}"
                raise UsageError(f"unknown key {key!r}; {hint}")
        params = _of_kind(item, "params", dict)
        name = item.get("id")
        if not isinstance(name, (str, int, type(None))):
            raise UsageError(f"id is a text or an integer, got {type(name).__name__}")
        return Line(
            input=self._input(item),
            params=None if params is None else GenerateParams(**params),
            name=number if name is None else name,
            metadata=_of_kind(item, "metadata", dict),
        )

    def _input(self, item: dict[str, Any]) -> list[Message] | str:
        prompt, messages = _of_kind(item, "prompt", str), _of_kind(item, "messages", list)
        if (prompt is None) == (messages is None):
            raise UsageError("an item has either a prompt or messages")
        if self._complete:
            if prompt is None:
                raise UsageError("with --complete, an item has a prompt")
            return str(prompt)
        fitted = Message.fit_as_list(prompt if messages is None else messages)
        if not fitted:
            raise UsageError("messages are empty")
        return fitted


def _refuse(constant: str) -> None:
    raise UsageError(f"{constant} is no JSON")


def _of_kind(item: dict[str, Any], key: str, kind: type) -> Any:
    value = item.get(key)
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"{key} is {_KINDS[kind]}, got {type(value).__name__}")
    return value
