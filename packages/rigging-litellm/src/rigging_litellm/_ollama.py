"""Ollama, which litellm has under two names, each good for one kind of request.

| request | litellm's name    | Ollama's endpoint |
|---------|-------------------|-------------------|
| a chat  | ``ollama_chat/…`` | ``/api/chat``     |
| a text  | ``ollama/…``      | ``/api/generate`` |

A model may be given under either name, and each request goes under the one that fits. With
the other, litellm would write a conversation into one text, in a format that no model was
trained on, and turn a text into a chat.

Ollama cuts a prompt that is longer than its context window, and says so only in its log. What
an answer shows of that is how many tokens were read:

- Ollama before 0.30 cuts a prompt to the window, later ones to half of it and 2 or 3 tokens
  more, which are numbers that a prompt rarely has by chance;
- of a conversation, the oldest messages are left out first, so any number may be left.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rigging.error import (
    BadRequestError,
    ContextLengthError,
    GenerationError,
    ModelNotFoundError,
    ProviderConnectionError,
    ProviderServerError,
    ResponseError,
    RiggingError,
)
from rigging.result import GeneratedMessage, GeneratedText, StopReason
from rigging_litellm._errors import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NOT_IN_CHATS",
    "chat_model",
    "check",
    "is_ollama",
    "native_arguments",
    "sign_of_truncation",
    "text_model",
    "with_advice",
    "with_stop_reason",
]

_ResultT = TypeVar("_ResultT", GeneratedMessage, GeneratedText)

_CHAT: Final = "ollama_chat/"
_TEXT: Final = "ollama/"

# What litellm leaves out of a chat, and what it sends under the name of another option: of
# Ollama's `repeat_penalty`, 1 is neutral and less asks for repetition.
NOT_IN_CHATS: Final = frozenset({"tool_choice", "frequency_penalty"})

# Ollama takes it, which litellm does not know.
_ALSO_TAKEN: Final = "presence_penalty"

# What stands beside Ollama's `options`; litellm would put it among them.
_BESIDE_OPTIONS: Final = frozenset(
    {"keep_alive", "raw", "shift", "suffix", "system", "template", "truncate"}
)

# How litellm words it where a stream says that the model broke down.
_BROKE_DOWN: Final = re.compile(r"(?:unexpected response from Ollama:|Ollama Error -) \{'error':")

_TOO_LONG: Final = re.compile(r"exceed\w*\b.*\bcontext (?:size|length)", re.IGNORECASE)

# Ollama's own defaults, by version and by memory, and what people set.
_USUAL_WINDOWS: Final = tuple(2**n for n in range(11, 19))

# Characters per token. In prose it is four to five, in code three, in Chinese below two.
_SUSPICIOUS: Final = 6  # together with a number that is a sign by itself
_IMPOSSIBLE: Final = 12


def is_ollama(model: str) -> bool:
    """Return whether litellm sends requests for ``model`` to Ollama."""
    return model.startswith((_CHAT, _TEXT))


def chat_model(model: str) -> str:
    """Return litellm's name of an Ollama model for chats."""
    return _CHAT + model.partition("/")[2]


def text_model(model: str) -> str:
    """Return litellm's name of an Ollama model for texts."""
    return _TEXT + model.partition("/")[2]


def native_arguments(arguments: Mapping[str, Any], *, raw: bool) -> dict[str, Any]:
    """Return litellm's arguments such that each reaches Ollama where it belongs.

    Args:
        arguments: What the request would carry for any provider.
        raw: Whether the model gets the prompt as it is, without its chat template.
    """
    options = {name: v for name, v in arguments.items() if name not in _BESIDE_OPTIONS}
    body = {name: v for name, v in arguments.items() if name in _BESIDE_OPTIONS}
    if raw:
        body = {"raw": True, **body}
    if body:
        options["extra_body"] = {**body, **arguments.get("extra_body", {})}
    if _ALSO_TAKEN in arguments:
        options["allowed_openai_params"] = [
            *arguments.get("allowed_openai_params", ()),
            _ALSO_TAKEN,
        ]
    return options


def check(result: GeneratedMessage | GeneratedText, model: str) -> None:
    """Refuse a text that is none: litellm makes an empty one of any JSON.

    Raises:
        ResponseError: If nothing was generated.
    """
    empty = isinstance(result, GeneratedText) and not result.text
    if empty and not (result.usage and result.usage.output_tokens):
        raise ResponseError("the answer holds no text", provider=PROVIDER, model=model)


def with_stop_reason(arguments: Mapping[str, Any], result: _ResultT) -> _ResultT:
    """Return a text with the stop reason ``length`` where it is as long as it may be.

    litellm says ``stop`` for every text. One that ends by itself with the very last token
    that it may have cannot be told from one that was cut off.
    """
    limit = arguments.get("max_tokens")
    if limit is None or result.usage is None or not isinstance(result, GeneratedText):
        return result
    if result.usage.output_tokens < limit:
        return result
    return result.model_copy(update={"stop_reason": StopReason.length})


def sign_of_truncation(
    prompt: Mapping[str, Any],
    arguments: Mapping[str, Any],
    result: GeneratedMessage | GeneratedText,
) -> str | None:
    """Return what shows that Ollama has cut a prompt; None if nothing does.

    Not every cut shows: little may be missing, a token may stand for few characters, and
    tokens of tools and images count as well.
    """
    if result.usage is None:
        return None
    tokens = result.usage.input_tokens
    characters = _length(prompt)
    given = arguments.get("num_ctx")
    windows = (given,) if isinstance(given, int) else _USUAL_WINDOWS
    for window in windows:
        if tokens == window:
            return f"it read {tokens} tokens, which is all that a context window holds"
        beyond_half = tokens - window // 2
        if beyond_half in (2, 3) and characters >= _SUSPICIOUS * tokens:
            return (
                f"it read {tokens} tokens of {characters} characters, and cuts to as many where "
                f"the context window is {window}"
            )
    if characters > windows[0] and characters >= _IMPOSSIBLE * tokens:
        return f"it read {tokens} tokens of {characters} characters"
    return None


def _length(prompt: Mapping[str, Any]) -> int:
    """Return how many characters of text a prompt has."""
    if "prompt" in prompt:
        return len(prompt["prompt"])
    contents = [message.get("content") or "" for message in prompt["messages"]]
    return sum(
        len(content)
        if isinstance(content, str)
        else sum(len(part.get("text", "")) for part in content)
        for content in contents
    )


def with_advice(error: RiggingError) -> RiggingError:
    """Return the error with what to do about it, and of the class that Ollama's text tells."""
    if isinstance(error, ProviderConnectionError):
        return _again(
            error,
            "is Ollama running? Start it with `ollama serve`, or say where it is: "
            "OLLAMA_API_BASE, or the parameter api_base",
        )
    if isinstance(error, ModelNotFoundError):
        name = (error.model or "").partition("/")[2]
        return _again(error, f"fetch the model with `ollama pull {name}`")
    if isinstance(error, BadRequestError) and _TOO_LONG.search(error.message):
        return _again(error, "raise extra.num_ctx", ContextLengthError)
    if isinstance(error, GenerationError) and _BROKE_DOWN.search(error.message):
        return _again(error, "the log of `ollama serve` may say more", ProviderServerError)
    return error


def _again(
    error: GenerationError, advice: str, cls: type[GenerationError] | None = None
) -> GenerationError:
    return (cls or type(error))(
        f"{error.message}; {advice}",
        provider=error.provider,
        model=error.model,
        status=error.status,
        retryable=error.retryable if cls is None else None,
        retry_after=error.retry_after,
    )
