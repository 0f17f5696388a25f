"""Chunks of a stream, put together to the answer that would have come whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from rigging_openai._results import broken, to_message, to_text

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
    def has_ended(self) -> bool:
        """Whether the endpoint has said why the answer ends."""


class _ChunkReader:
    """Keeps what chunks of either kind have in common."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._response: dict[str, Any] = {}
        self._choice: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the endpoint has said why the answer ends."""
        return self._choice is not None and self._choice.get("finish_reason") is not None

    def _take(self, chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Note what stands beside the choice; return the choice."""
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                self._response[name] = value
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return None
        if self._choice is None:
            self._choice = {}
        choice: Mapping[str, Any] = choices[0]
        for name, value in choice.items():
            if name not in {"delta", "text"} and value is not None:
                _add(self._choice, name, value)
        return choice

    def _whole_response(self, **said: Any) -> Mapping[str, Any]:
        if self._choice is None:
            raise broken("the endpoint streamed no answer", self._model)
        return {**self._response, "choices": [{**_joined(self._choice), **said}]}


class ChatReader(_ChunkReader):
    """Reads the chunks of a chat completion."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._texts: list[str] = []
        self._message: dict[str, Any] = {}
        self._calls: dict[Any, dict[str, Any]] = {}  # by their index

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
            if name == "content" and isinstance(value, str):
                text = value
                self._texts.append(value)
            elif name == "tool_calls" and isinstance(value, list):
                self._take_calls(value)
            else:
                _add(self._message, name, value)
        return text

    def result(self) -> GeneratedMessage:
        """Put the message together, and what came beside it."""
        message = _joined(self._message)
        if self._texts:
            message["content"] = "".join(self._texts)
        if self._calls:
            message["tool_calls"] = list(map(_joined, self._calls.values()))
        return self.whole(self._whole_response(message=message))

    def whole(self, response: Mapping[str, Any]) -> GeneratedMessage:
        """Read an answer that came whole after all."""
        return to_message(response, self._model)

    def _take_calls(self, deltas: list[Any]) -> None:
        for delta in deltas:
            if not isinstance(delta, dict):
                raise broken("the endpoint streamed a tool call that is none", self._model)
            call = self._calls.setdefault(self._index(delta), {})
            for name, value in delta.items():
                if name != "index" and value is not None:
                    _add(call, name, value)

    def _index(self, delta: Mapping[str, Any]) -> Any:
        """Return which call a piece belongs to; some endpoints do not number them."""
        index = delta.get("index")
        if index is not None:
            return index
        last = max(len(self._calls) - 1, 0)
        is_new = delta.get("id") and self._calls.get(last, delta).get("id") != delta["id"]
        return len(self._calls) if is_new else last


class TextReader(_ChunkReader):
    """Reads the chunks of a text completion."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._texts: list[str] = []

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
    else:
        to[name] = value


def _joined(value: Any) -> Any:
    """Return a value with its texts joined."""
    if isinstance(value, _Pieces):
        return "".join(value)
    if isinstance(value, dict):
        return {name: _joined(inner) for name, inner in value.items()}
    return value
