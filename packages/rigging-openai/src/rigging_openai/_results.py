"""Answers, as results of ours: what has no place of its own there is kept in ``extra``."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from rigging.error import InvalidMessageError, ResponseError
from rigging.http import ErrorReport, error_class, read_report
from rigging.message import FunctionCall, Message, ToolCall
from rigging.result import GeneratedMessage, GeneratedText, Usage
from rigging_openai._endpoint import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from rigging.error import GenerationError

__all__ = [
    "broken",
    "content_parts",
    "error_of",
    "index_of",
    "reported_error",
    "to_message",
    "to_text",
]

# What has a place of its own in a result; everything else goes into `extra`.
_RESPONSE: Final = frozenset({"choices", "usage", "object"})
_CHOICE: Final = frozenset({"finish_reason", "index", "message", "text"})
_MESSAGE: Final = frozenset({"role", "content", "tool_calls"})

_ALL: Final[frozenset[str]] = frozenset()

# What endpoints write where they have nothing to say; 0 and false do say something.
_NOTHING: Final[tuple[object, ...]] = (None, "", [], {})

_USAGE: Final[Mapping[str, str]] = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "total_tokens": "total_tokens",
}


def to_message(response: Mapping[str, Any], model: str) -> GeneratedMessage:
    """Read a chat completion.

    Raises:
        ResponseError: If there is no message in it.
    """
    choice = _first_choice(response, model)
    said = choice.get("message")
    if not isinstance(said, dict):
        raise broken("the answer holds no message", model)
    text, other_parts = content_parts(said.get("content"))
    try:
        calls = said.get("tool_calls")
        message = Message("assistant", text, tool_calls=_tool_calls(calls) if calls else ())
    except (AttributeError, InvalidMessageError, KeyError, TypeError, ValueError) as error:
        raise broken(f"the answer holds no valid message: {error}", model) from error
    usage, rest = _usage(response)
    if other_parts:
        rest["content"] = other_parts
    return GeneratedMessage(
        message=message,
        stop_reason=_reason(choice),
        usage=usage,
        extra=_extra((response, _RESPONSE), (choice, _CHOICE), (said, _MESSAGE)) | rest,
    )


def to_text(response: Mapping[str, Any], model: str) -> GeneratedText:
    """Read a text completion.

    Raises:
        ResponseError: If there is no text in it.
    """
    choice = _first_choice(response, model)
    text = choice.get("text")
    if not isinstance(text, str):
        raise broken("the answer holds no text", model)
    usage, rest = _usage(response)
    return GeneratedText(
        text=text,
        stop_reason=_reason(choice),
        usage=usage,
        extra=_extra((response, _RESPONSE), (choice, _CHOICE)) | rest,
    )


def reported_error(part: Mapping[str, Any], model: str) -> GenerationError | None:
    """Return the error in what an endpoint sends as an answer, or as a piece of one."""
    if not part.get("error") and part.get("object") != "error":
        choices = part.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return None
        part = choices[0]
        if not part.get("error"):
            return None
    report = read_report(part)
    if report is None:
        return broken("the endpoint reports an error, and not which", model)
    return error_of(report, model)


def error_of(report: ErrorReport, model: str) -> GenerationError:
    """Return the error of ours for one that an endpoint reports in an answer."""
    return error_class(None, report.codes, report.message)(
        report.message or "the endpoint reports an error",
        provider=PROVIDER,
        model=model,
        retryable=report.retryable,
    )


def broken(text: str, model: str) -> ResponseError:
    """Return the error of an answer that breaks the protocol."""
    return ResponseError(text, provider=PROVIDER, model=model)


def index_of(choice: Mapping[str, Any]) -> int:
    """Return a choice's number; endpoints that give one choice need not count."""
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def content_parts(content: Any) -> tuple[Any, list[Any]]:
    """Return the text of a message, and what is no text among its parts."""
    if not isinstance(content, list):
        return content or "", []
    texts = []
    others = []
    for part in content:
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if is_text and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part, str):
            texts.append(part)
        else:
            others.append(part)
    return "".join(texts), others


def _first_choice(response: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    choices = response.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise broken("the answer holds no choices", model)
    if len(choices) == 1:
        return choices[0]
    return min((choice for choice in choices if isinstance(choice, dict)), key=index_of)


def _reason(choice: Mapping[str, Any]) -> Any:
    """Return why it ended, as the endpoint spells it: results understand that."""
    return choice.get("finish_reason")


def _tool_calls(calls: list[Any]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(
            # Some servers give none, and the answer to a call has to name it.
            id=call.get("id") or f"call_{uuid.uuid4().hex}",
            function=FunctionCall(
                name=call["function"]["name"],
                arguments=_call_arguments(call["function"].get("arguments")),
            ),
        )
        for call in calls
    )


def _call_arguments(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments)


def _usage(response: Mapping[str, Any]) -> tuple[Usage | None, dict[str, Any]]:
    """Return the usage that the endpoint reports, or what it says in its place."""
    reported = response.get("usage")
    if not isinstance(reported, dict):
        return None, {}
    counts = {_USAGE.get(name, name): value for name, value in _extra((reported, _ALL)).items()}
    if not counts.get("input_tokens") and not counts.get("output_tokens"):
        return None, {}
    try:
        return Usage(**counts), {}
    except ValidationError:
        return None, {"usage": reported}


def _extra(*parts: tuple[Mapping[str, Any], AbstractSet[str]]) -> dict[str, Any]:
    """Return what parts of an answer say beyond what is known of each."""
    # A plain loop: it runs over every name of every answer.
    extra: dict[str, Any] = {}
    for part, known in parts:
        for name, value in part.items():
            if name in known:
                continue
            kept = _without_none(value) if isinstance(value, dict) else value
            if kept or kept not in _NOTHING:
                extra[name] = kept
    return extra


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
