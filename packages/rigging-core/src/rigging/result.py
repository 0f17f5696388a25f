"""What a generator returns for one request: the text or message, and its facts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import NoneType
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rigging._model import filled
from rigging.message import Message

__all__ = ["GeneratedMessage", "GeneratedText", "StopReason", "Usage"]

_T = TypeVar("_T")


class StopReason(StrEnum):
    """Why a generation ended.

    The spellings of common backends are understood, and anything else is ``unknown``:

        >>> StopReason("end_turn"), StopReason("whatever")
        (<StopReason.stop: 'stop'>, <StopReason.unknown: 'unknown'>)
    """

    stop = "stop"
    length = "length"
    content_filter = "content_filter"
    tool_calls = "tool_calls"
    unknown = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> StopReason:
        return _SPELLINGS.get(value.lower(), cls.unknown) if isinstance(value, str) else cls.unknown


# How backends spell it -> how we do.
_SPELLINGS: Final[Mapping[str, StopReason]] = {
    "stop_sequence": StopReason.stop,
    "end_turn": StopReason.stop,
    "eos": StopReason.stop,
    "eos_token": StopReason.stop,
    "complete": StopReason.stop,
    "max_tokens": StopReason.length,
    "max_length": StopReason.length,
    "model_length": StopReason.length,
    "safety": StopReason.content_filter,
    "refusal": StopReason.content_filter,
    "tool_use": StopReason.tool_calls,
    "function_call": StopReason.tool_calls,
}


class Usage(BaseModel):
    """Tokens that a request took. Usages add up, and keep what else a backend reports.

    Attributes:
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens that were generated.
        total_tokens: Both; their sum unless the backend says otherwise.

    Example:
        >>> total = Usage(input_tokens=3, output_tokens=4) + Usage(input_tokens=1, cached=2)
        >>> total.total_tokens, total.model_extra
        (8, {'cached': 2})
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0

    @model_validator(mode="before")
    @classmethod
    def _total_defaults_to_the_sum(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("total_tokens") is None:
            tokens = (data.get("input_tokens", 0), data.get("output_tokens", 0))
            if all(isinstance(count, int) for count in tokens):
                return {**data, "total_tokens": sum(tokens)}
        return data

    @classmethod
    def of(cls, input_tokens: int, output_tokens: int, **reported: Any) -> Usage:
        """Make a usage of its two counts, and of what else a backend reports.

        The same as the constructor gives, at half its cost where both are integers: engines
        in the same process make one for each request.

        Args:
            input_tokens: Tokens of the prompt.
            output_tokens: Tokens that were generated.
            reported: Anything else, under its own name.

        Raises:
            pydantic.ValidationError: If a count is no integer.

        Example:
            >>> Usage.of(3, 4, cached_tokens=2).total_tokens
            7
        """
        is_plain = type(input_tokens) is int and type(output_tokens) is int
        if cls is not Usage or not is_plain or "total_tokens" in reported:
            return cls(input_tokens=input_tokens, output_tokens=output_tokens, **reported)
        counts = {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
        }
        return filled(cls, counts, {*counts, *reported}, reported)

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            **_add_up(self.model_extra or {}, other.model_extra or {}),
        )


class _Generated(BaseModel):
    model_config = ConfigDict(frozen=True)

    stop_reason: StopReason = StopReason.unknown
    usage: Usage | None = None
    extra: dict[str, Any] = Field(default_factory=dict)


class GeneratedMessage(_Generated):
    """A message that a generator made.

    Attributes:
        message: The message, nearly always of role ``assistant``.
        stop_reason: Why it ended.
        usage: Tokens taken, if known.
        extra: What else the backend reported, under its own names.
    """

    message: Message

    @classmethod
    def from_text(
        cls, text: str, stop_reason: StopReason | str = StopReason.stop, **fields: Any
    ) -> GeneratedMessage:
        """Make an assistant's message of its text; ``fields`` are those of the class."""
        # Pydantic reads any spelling of a stop reason, and an enum would read it twice.
        fields["stop_reason"] = stop_reason
        return cls(message=Message("assistant", text), **fields)

    def __str__(self) -> str:
        return self.message.text


class GeneratedText(_Generated):
    """A text that a generator made: what follows the prompt, without the prompt.

    Attributes:
        text: The text.
        stop_reason: Why it ended.
        usage: Tokens taken, if known.
        extra: What else the backend reported, under its own names.
    """

    text: str

    @classmethod
    def from_text(
        cls, text: str, stop_reason: StopReason | str = StopReason.stop, **fields: Any
    ) -> GeneratedText:
        """Make a result of its text; ``fields`` are those of the class."""
        fields["stop_reason"] = stop_reason
        usage = fields.get("usage")
        reason = _REASONS.get(stop_reason) if isinstance(stop_reason, str) else None
        # What pydantic would take as it is, as from nearly every generator. After a wait little
        # is left in a processor's caches, and pydantic is large: it would take twice as long.
        is_plain = type(text) is str and type(usage) in _USAGES and fields.get("extra", {}) == {}
        if cls is not GeneratedText or reason is None or not is_plain:
            return cls(text=text, **fields)
        values: dict[str, Any] = {
            "stop_reason": reason,
            "usage": usage,
            "extra": {},
            "text": text,
        }
        return filled(cls, values, {"text", *(fields.keys() & values)})

    def __str__(self) -> str:
        return self.text


# Every spelling that needs no second look.
_REASONS: Final[Mapping[str, StopReason]] = {**StopReason.__members__, **_SPELLINGS}
_USAGES: Final = (Usage, NoneType)


def _add_up(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """Add what can be added, key by key, also in nested mappings; else the later one stays."""
    return {**left, **{key: _sum(left.get(key), value) for key, value in right.items()}}


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return _add_up(left, right)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return left + right
    return left if right is None else right
