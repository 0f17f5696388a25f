"""Conversations and texts as token ids."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rigging import TextPart
from rigging.error import BadRequestError, InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rigging import Message

__all__ = ["check_conversation", "encode_conversation", "encode_text", "takes_tools"]


def check_conversation(messages: Sequence[Message]) -> None:
    """Check that a model of text can be asked to continue ``messages``.

    Raises:
        InvalidMessageError: If there are none, or one holds something else than text.
    """
    if not messages:
        raise InvalidMessageError("the conversation is empty: it needs at least one message")
    for message in messages:
        if isinstance(message.content, str):
            continue
        for part in message.content:
            if not isinstance(part, TextPart):
                raise InvalidMessageError(
                    f"the transformers provider reads text only, and a {message.role} message "
                    f"holds a part of type {part.type!r}: leave it out, or use a provider "
                    f"whose models take it"
                )


def encode_conversation(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None
) -> list[int]:
    """Lay a conversation out by the model's chat template, up to where the answer begins.

    Args:
        tokenizer: The model's.
        messages: At least one, text only.
        tools: In OpenAI's format, for templates that take them.

    Returns:
        Token ids, shape ``(length,)``.

    Raises:
        BadRequestError: If there is no chat template, or it refuses the conversation.

    Source:
        transformers, "Chat templates".
    """
    if not tokenizer.chat_template:
        raise BadRequestError(
            "the model's tokenizer has no chat template, so it cannot lay out a conversation. "
            "Use complete() instead of chat(), or take the model's instruct variant, or set "
            "`tokenizer.chat_template` and use TransformersGenerator.from_obj(model, tokenizer)"
        )
    try:
        encoded = tokenizer.apply_chat_template(
            [_as_dict(message) for message in messages],
            tools=list(tools) if tools else None,
            add_generation_prompt=True,
            return_dict=True,
        )
    # A template is a program of the model's authors: it may raise anything.
    except Exception as error:
        raise BadRequestError(
            f"the model's chat template refuses the conversation: {error}"
        ) from error
    return list(encoded["input_ids"])


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Tokenize a text as it is, with the special tokens that the model expects.

    Returns:
        Token ids, shape ``(length,)``.

    Raises:
        BadRequestError: If no token comes of it, so there is nothing to continue.
    """
    ids = list(tokenizer(text)["input_ids"])
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    if not ids:
        raise BadRequestError(
            "the prompt is empty, and the model has no token to begin a text with: "
            "give it something to continue"
        )
    return ids


def takes_tools(tokenizer: Any) -> bool:
    """Tell whether the chat template does anything with tools."""
    # One template, or several by name.
    return "tools" in json.dumps(tokenizer.chat_template)


def _as_dict(message: Message) -> dict[str, Any]:
    """Return a message as templates expect it: text, and a call's arguments as an object."""
    return {
        **message.to_openai(),
        "content": message.text,
        **(
            {"tool_calls": [_call(c.model_dump()) for c in message.tool_calls]}
            if message.tool_calls
            else {}
        ),
    }


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:  # the model wrote no JSON: shown as it is
        return call
    return {**call, "function": {**function, "arguments": arguments}}
