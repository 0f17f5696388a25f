"""Conversations and texts as token ids."""

from __future__ import annotations

import json
import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rigging import TextPart
from rigging.error import BadRequestError, InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rigging import Message

__all__ = [
    "RESERVED",
    "Layout",
    "check_conversation",
    "encode_text",
    "read_template",
]

#: Arguments of `apply_chat_template` that are no variables.
RESERVED: Final = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)

_log: Final = logging.getLogger(__name__)

# Whether a template shows what the system says is found out by letting it say this.
_PROBE: Final = "rigging-probe"


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


def read_template(given: str) -> str:
    """Return a chat template's text.

    Args:
        given: The text itself, which has a brace in it, or the path of a file.

    Raises:
        BadRequestError: If it is empty, or there is no such file, or it is no text.
    """
    if not given.strip():
        raise BadRequestError(
            "chat_template is empty: give Jinja text or the path of a file, or leave it out to "
            "take the model's own"
        )
    if "{" in given:
        return given
    path = Path(given).expanduser()
    try:
        template = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadRequestError(
            f"chat_template is no Jinja text (it has no brace), and no file that can be read: "
            f"{path.absolute()}: {error}"
        ) from error
    if not template.strip():
        raise BadRequestError(f"the file of chat_template is empty: {path.absolute()}")
    return template


class Layout:
    """The way conversations are laid out for a model: its chat template, or another one.

    Some tokenizers, as Mistral's own, have no template and lay conversations out by code.

    Args:
        tokenizer: The model's.
        template: In Jinja; None for the tokenizer's own.

    Source:
        transformers, "Chat templates".
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._name = "the model's chat template" if template is None else "chat_template"

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Lay a conversation out, up to where the answer begins.

        A template without a place for what the system says gets it in front of what the
        user says next.

        Args:
            messages: At least one, text only.
            tools: In OpenAI's format, for templates that take them.
            variables: Others of the template's; see `rigging.local`.

        Returns:
            Token ids, shape ``(length,)``.

        Raises:
            BadRequestError: If there is no template, it is broken, or it refuses the
                conversation.
        """
        if self._template and self._lays_out_itself:
            raise BadRequestError(
                f"the model's tokenizer ({type(self._tokenizer).__name__}) lays conversations out "
                f"by itself and would ignore chat_template: leave it out"
            )
        if not (self._template or self._tokenizer.chat_template or self._lays_out_itself):
            raise BadRequestError(
                "the model's tokenizer has no chat template, so it cannot lay out a conversation. "
                "Give chat_template= (Jinja text, or a file that holds it), or use complete() "
                "instead of chat(), or take the model's instruct variant"
            )
        laid_out = [_as_dict(message) for message in messages]
        try:
            if any(m["role"] == "system" for m in laid_out) and not self._takes_system:
                laid_out = _without_system(laid_out)
            options = {"tools": list(tools) if tools else None, "return_dict": True}
            encoded = self._apply(laid_out, **options, **(variables or {}))
        # A template is a program of the model's authors: it may raise anything.
        except Exception as error:
            # By name, since Jinja is transformers' dependency and not ours.
            if type(error).__name__ == "TemplateSyntaxError":
                line = getattr(error, "lineno", None)
                raise BadRequestError(
                    f"{self._name} is not valid Jinja (line {line}): {error}"
                ) from error
            raise BadRequestError(f"{self._name} refuses the conversation: {error}") from error
        ids = list(encoded["input_ids"])
        if not ids:
            raise BadRequestError(f"{self._name} makes no text of the conversation")
        return ids

    @property
    def takes_tools(self) -> bool:
        """Whether the template does anything with tools."""
        # One template, or several by name.
        template = self._template or self._tokenizer.chat_template
        return self._lays_out_itself or "tools" in json.dumps(template)

    @cached_property
    def _lays_out_itself(self) -> bool:
        from transformers import PreTrainedTokenizerBase  # noqa: PLC0415 (a tokenizer is there)

        usual = PreTrainedTokenizerBase.apply_chat_template
        is_usual = getattr(type(self._tokenizer), "apply_chat_template", usual) is usual
        return not (is_usual or self._tokenizer.chat_template)

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether it shows text as a part only, as multimodal models have it."""
        if self._lays_out_itself:
            return False
        return not self._shows(_PROBE) and self._shows(_parts(_PROBE))

    def _shows(self, content: object) -> bool:
        try:
            text = self._lay_out([{"role": "user", "content": content}], tokenize=False)
        except Exception:  # noqa: BLE001 (see `encode`)
            return False
        return _PROBE in text

    @cached_property
    def _takes_system(self) -> bool:
        if self._lays_out_itself:
            return True
        user = {"role": "user", "content": "Hi"}
        try:
            text = self._apply([{"role": "system", "content": _PROBE}, user], tokenize=False)
        except Exception as error:  # noqa: BLE001 (see `encode`)
            if not self._takes(user):
                # It is not the system message: what is wrong, the conversation itself shows.
                return True
            does = f"refuses system messages ({error})"
        else:
            if _PROBE in text:
                return True
            does = "drops system messages"
        _log.info("%s %s: they go in front of what the user says next", self._name, does)
        return False

    def _takes(self, message: dict[str, Any]) -> bool:
        try:
            self._apply([message], tokenize=False)
        except Exception:  # noqa: BLE001 (see `encode`)
            return False
        return True

    def _apply(self, messages: list[dict[str, Any]], **options: Any) -> Any:
        if self._takes_parts:
            messages = [{**each, "content": _parts(each["content"])} for each in messages]
        return self._lay_out(messages, **options)

    def _lay_out(self, messages: list[dict[str, Any]], **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=True, **options
        )


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


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _without_system(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Move what the system says to the front of what the user says next."""
    laid_out: list[dict[str, Any]] = []
    said: list[str] = []
    for message in messages:
        if message["role"] == "system":
            said.append(message["content"])
        elif said and message["role"] == "user":
            laid_out.append({**message, "content": "\n\n".join([*said, message["content"]])})
            said = []
        else:
            laid_out.append(message)
    if said:
        laid_out.append({"role": "user", "content": "\n\n".join(said)})
    return laid_out


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
