"""Chunks of a stream, put together to the answer that would have come whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from rigging_openai._results import broken, content_parts, index_of, to_message, to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rigging.result import GeneratedMessage, GeneratedText

__all__ = ["ChatReader", "Reader", "TextReader"]

_ResultT_co = TypeVar("_ResultT_co", covariant=True)

# Texts that come in pieces; of what else is text, such as a role, the last word counts.
_IN_PIECES: Final = frozenset(
    {"arguments", "content", "data", "reasoning", "reasoning_content", "refusal", "transcript"}
)


class Reader(Protocol[_ResultT_co]):
    """What is made of a stream's chunks."""

    def piece(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; return the text in it, which may be empty."""

    def result(self) -> _ResultT_co:
        """Return what the chunks add up to.

        Raises:
            ResponseError: If no answer came.
        """

    def whole(self, response: Mapping[str, Any]) -> _ResultT_co:
        """Read an answer that came whole after all."""

    @property
    def has_begun(self) -> bool:
        """Whether some of the answer has come, text or not."""

    @property
    def has_ended(self) -> bool:
        """Whether the endpoint has said why the answer ends."""


class _ChunkReader:
    """Keeps what chunks of either kind have in common."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._response: dict[str, Any] = {}
        self._choice: dict[str, Any] | None = None
        self._index = 0  # of the choice

    @property
    def has_ended(self) -> bool:
        """Whether the endpoint has said why the answer ends."""
        return self._choice is not None and "finish_reason" in self._choice

    def _take(self, chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Note what stands beside the choice; return the choice."""
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                self._response[name] = value
        choice = self._chosen(chunk.get("choices"))
        if choice is None:
            return None
        if self._choice is None:
            self._choice = {}
        for name, value in choice.items():
            # Some endpoints write an empty reason for the end as long as there is none.
            if name not in {"delta", "text"} and value is not None and value != "":
                _add(self._choice, name, value)
        return choice

    def _chosen(self, choices: Any) -> Mapping[str, Any] | None:
        """Return the choice that is read: of several, the first one that came."""
        if not isinstance(choices, list):
            return None
        found = [choice for choice in choices if isinstance(choice, dict)]
        if self._choice is None:
            self._index = min(map(index_of, found), default=0)
        for choice in found:
            if index_of(choice) == self._index:
                return choice
        return None

    def _whole_response(self, **said: Any) -> Mapping[str, Any]:
        if self._choice is None:
            raise broken("the endpoint streamed no answer", self._model)
        return {**self._response, "choices": [{**_joined(self._choice), **said}]}


class ChatReader(_ChunkReader):
    """Reads the chunks of a chat completion."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._texts: list[str] = []
        self._parts: list[Any] = []  # of the content, that are no text
        self._message: dict[str, Any] = {}
        self._calls: list[dict[str, Any]] = []
        self._numbered: dict[int, dict[str, Any]] = {}  # the last call of each number

    @property
    def has_begun(self) -> bool:
        """Whether some of the answer has come, text or not."""
        return bool(self._texts or self._parts or self._calls or self._message.keys() - {"role"})

    def piece(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; return the text in it."""
        choice = self._take(chunk)
        # Some endpoints end with a whole message, and nothing in it is new.
        delta = choice.get("delta") if choice else None
        if not isinstance(delta, dict):
            return ""
        text = ""
        for name, value in delta.items():
            if value is None:
                continue
            if name == "content":
                text = self._take_content(value)
            elif name == "tool_calls" and isinstance(value, list):
                self._take_calls(value)
            else:
                _add(self._message, name, value)
        return text

    def result(self) -> GeneratedMessage:
        """Put the message together, and what came beside it."""
        message = _joined(self._message)
        text = "".join(self._texts)
        message["content"] = [text, *self._parts] if self._parts else text
        if self._calls:
            message["tool_calls"] = list(map(_joined, self._calls))
        return self.whole(self._whole_response(message=message))

    def whole(self, response: Mapping[str, Any]) -> GeneratedMessage:
        """Read an answer that came whole after all."""
        return to_message(response, self._model)

    def _take_content(self, content: Any) -> str:
        text, others = content_parts(content)
        if not isinstance(text, str):
            raise broken("the endpoint streamed content that is none", self._model)
        if text:
            self._texts.append(text)
        self._parts += others
        return text

    def _take_calls(self, deltas: list[Any]) -> None:
        for delta in deltas:
            if not isinstance(delta, dict):
                raise broken("the endpoint streamed a tool call that is none", self._model)
            call = self._call_of(delta)
            for name, value in delta.items():
                if name != "index" and value is not None:
                    _add(call, name, value)

    def _call_of(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        """Return which call a piece belongs to; some endpoints number them badly, or not."""
        index = delta.get("index")
        if isinstance(index, int):
            call = self._numbered.get(index)
        else:
            index, call = None, self._calls[-1] if self._calls else None
        if call is None or _begins_another(call, delta, is_numbered=index is not None):
            call = {}
            self._calls.append(call)
        if index is not None:
            self._numbered[index] = call
        return call


class TextReader(_ChunkReader):
    """Reads the chunks of a text completion."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._texts: list[str] = []

    @property
    def has_begun(self) -> bool:
        """Whether some of the text has come."""
        return any(self._texts)

    def piece(self, chunk: Mapping[str, Any]) -> str:
        """Take a chunk; return the text in it."""
        choice = self._take(chunk)
        text = choice.get("text") if choice else None
        if not isinstance(text, str):
            return ""
        self._texts.append(text)
        return text

    def result(self) -> GeneratedText:
        """Put the text together, and what came beside it."""
        return self.whole(self._whole_response(text="".join(self._texts)))

    def whole(self, response: Mapping[str, Any]) -> GeneratedText:
        """Read an answer that came whole after all."""
        return to_text(response, self._model)


class _Pieces(list[str]):
    """A text that is still coming; joined once, because adding to it each time is slow."""


def _add(to: dict[str, Any], name: str, value: Any) -> None:
    """Add a piece of something to what came of it before: texts, lists, and what holds these."""
    known = to.get(name)
    if isinstance(value, str) and name in _IN_PIECES:
        if isinstance(known, _Pieces):
            known.append(value)
        else:
            to[name] = _Pieces([value])
    elif isinstance(value, list) and isinstance(known, list):
        known.extend(value)
    elif isinstance(value, dict):
        into = known if isinstance(known, dict) else {}
        to[name] = into
        for inner, more in value.items():
            if more is not None:
                _add(into, inner, more)
    elif value != "" or known is None:  # some endpoints write nothing where nothing is new
        to[name] = value


def _begins_another(
    call: Mapping[str, Any], delta: Mapping[str, Any], *, is_numbered: bool
) -> bool:
    """Tell whether a piece that seems to be of a call begins the next one."""
    function = _function(delta)
    ids = (call.get("id"), delta.get("id"))
    if all(ids):
        # Some servers make up another one for each piece, but name the function only once.
        return ids[0] != ids[1] and bool(function.get("name") or not is_numbered)
    # Where nothing tells two calls apart, one that has all its arguments gets no more.
    more = function.get("name") and function.get("arguments")
    return bool(more and _is_complete(_function(call).get("arguments")))


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function")
    return function if isinstance(function, dict) else {}


def _is_complete(arguments: Any) -> bool:
    if not isinstance(arguments, _Pieces):
        return isinstance(arguments, dict)
    text = "".join(arguments)
    if not text.rstrip().endswith("}"):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _joined(value: Any) -> Any:
    """Return a value with its texts joined."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {name: _joined(inner) for name, inner in value.items()}
    return value
