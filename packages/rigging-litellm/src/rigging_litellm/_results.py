"""litellm's answers, as results of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rigging.error import InvalidMessageError, ResponseError
from rigging.message import FunctionCall, Message, ToolCall
from rigging.result import GeneratedMessage, GeneratedText, StopReason, Usage
from rigging_litellm._errors import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["to_message", "to_text"]

# What has a place of its own in a result; everything else goes into `extra`.
_RESPONSE: Final = frozenset({"choices", "usage", "object"})
_CHOICE: Final = frozenset({"finish_reason", "index", "message", "text"})
_MESSAGE: Final = frozenset({"role", "content", "tool_calls", "function_call"})

_USAGE: Final = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "total_tokens": "total_tokens",
}


def to_message(response: Any, model: str) -> GeneratedMessage:
    """Read a chat completion.

    Raises:
        ResponseError: If there is no message in it.
    """
    choice = _first_choice(response, model)
    said = choice.message
    try:
        message = Message(
            "assistant", said.content or "", tool_calls=_tool_calls(said.tool_calls or ())
        )
    except InvalidMessageError as error:
        raise ResponseError(
            f"the answer holds no valid message: {error}", provider=PROVIDER, model=model
        ) from error
    return GeneratedMessage(
        message=message,
        stop_reason=StopReason(choice.finish_reason),
        usage=_usage(response),
        extra=_extra(response, choice) | _rest(said, _MESSAGE),
    )


def to_text(response: Any, model: str) -> GeneratedText:
    """Read a text completion.

    Raises:
        ResponseError: If there is no text in it.
    """
    choice = _first_choice(response, model)
    if choice.text is None:
        raise ResponseError("the answer holds no text", provider=PROVIDER, model=model)
    return GeneratedText(
        text=choice.text,
        stop_reason=StopReason(choice.finish_reason),
        usage=_usage(response),
        extra=_extra(response, choice),
    )


def _first_choice(response: Any, model: str) -> Any:
    if not getattr(response, "choices", None):
        raise ResponseError("the answer holds no choices", provider=PROVIDER, model=model)
    return response.choices[0]


def _tool_calls(calls: Iterable[Any]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(
            id=call.id,
            function=FunctionCall(name=call.function.name or "", arguments=call.function.arguments),
        )
        for call in calls
    )


def _usage(response: Any) -> Usage | None:
    usage = _rest(getattr(response, "usage", None), frozenset())
    # litellm fills in zeros where the endpoint says nothing.
    if not any(usage.get(name) for name in _USAGE):
        return None
    return Usage(**{_USAGE.get(name, name): value for name, value in usage.items()})


def _extra(response: Any, choice: Any) -> dict[str, Any]:
    return _rest(response, _RESPONSE) | _rest(choice, _CHOICE)


def _rest(part: Any, known: frozenset[str]) -> dict[str, Any]:
    """Return what a part of an answer holds beyond ``known``, as plain values."""
    if part is None:
        return {}
    # litellm puts objects where its own models declare others; what they hold is right.
    values = part.model_dump(exclude=set(known), exclude_none=True, warnings=False)
    return {name: value for name, value in values.items() if value not in ({}, [], "")}
