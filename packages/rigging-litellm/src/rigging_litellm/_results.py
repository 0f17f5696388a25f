"""litellm's answers, as results of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rigging.error import InvalidMessageError, ResponseError
from rigging.message import FunctionCall, Message, ToolCall
from rigging.result import GeneratedMessage, GeneratedText, StopReason, Usage
from rigging_litellm._errors import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

__all__ = ["reported_usage", "to_message", "to_text"]

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
        usage=reported_usage(getattr(response, "usage", None)),
        extra=_extra(response, choice) | _beside(said),
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
        usage=reported_usage(getattr(response, "usage", None)),
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


def reported_usage(usage: Any, exclude: AbstractSet[str] = frozenset()) -> Usage | None:
    """Read the usage of an answer, all but ``exclude``; None if the endpoint reports none."""
    counts = _rest(usage, exclude)
    # litellm fills in zeros where the endpoint says nothing.
    if not any(counts.get(name) for name in _USAGE):
        return None
    return Usage(**{_USAGE.get(name, name): value for name, value in counts.items()})


def _extra(response: Any, choice: Any) -> dict[str, Any]:
    return _rest(response, _RESPONSE) | _rest(choice, _CHOICE) | _cost(response)


def _beside(said: Any) -> dict[str, Any]:
    """Return what a message holds beside its text and its calls."""
    rest = _rest(said, _MESSAGE)
    # litellm says some of it there once more, and of a stream only in part.
    specific = rest.pop("provider_specific_fields", {})
    specific = {k: v for k, v in specific.items() if k not in rest and _says_something(v)}
    return rest | ({"provider_specific_fields": specific} if specific else {})


def _cost(response: Any) -> dict[str, float]:
    """Return the price of the request in US dollars, if litellm knows the model's."""
    hidden = response._hidden_params
    cost = hidden.get("response_cost") if isinstance(hidden, dict) else hidden.response_cost
    return {"cost": cost} if cost else {}


def _rest(part: Any, known: AbstractSet[str]) -> dict[str, Any]:
    """Return what a part of an answer holds beyond ``known``, as plain values."""
    if part is None:
        return {}
    # litellm puts objects where its own models declare others; what they hold is right.
    values = part.model_dump(exclude=set(known), exclude_none=True, warnings=False)
    return {name: value for name, value in values.items() if _says_something(value)}


def _says_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_says_something, value.values()))
    return value not in (None, [], "")
