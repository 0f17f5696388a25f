"""Prompts, as vLLM wants them: laid out and tokenized by its own code."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Final

from rigging.error import InvalidMessageError
from rigging.local import template_variables

if TYPE_CHECKING:
    from rigging.message import Message
    from rigging_vllm._request import Request

__all__ = [
    "RESERVED",
    "Prompts",
    "ignored",
    "openai_messages",
    "shows_tools",
]

#: What is set already where a template is applied.
RESERVED: Final = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "messages",
        "return_dict",
        "tokenize",
        "tools",
    }
)


class Prompts:
    """Makes prompts for one `AsyncLLM`.

    Args:
        llm: The engine; its renderer knows the tokenizer and the chat template.

    Attributes:
        shows_tools: Whether conversations have a place for tools.
    """

    def __init__(self, llm: Any) -> None:
        self._renderer = llm.renderer
        self._config = llm.model_config
        self._parse = importlib.import_module("vllm.renderers.inputs.preprocess").parse_model_prompt
        self._chat_params = importlib.import_module("vllm.renderers").ChatParams
        # A template is for Hugging Face's tokenizers; Mistral's write their prompts themselves.
        utils = importlib.import_module("vllm.utils.mistral")
        self._tokenizes = utils.is_mistral_tokenizer(llm.tokenizer)
        self.shows_tools = shows_tools(llm.tokenizer)

    async def render(self, request: Request) -> Any:
        """Return one prompt, which ``AsyncLLM.generate`` takes.

        Raises:
            InvalidMessageError: If a conversation is empty.
            Exception: Whatever vLLM, or the chat template, raises.
        """
        if isinstance(request.prompt, str):
            prompt = self._parse(self._config, request.prompt)
            (rendered,) = await self._renderer.render_cmpl_async([prompt])
            return rendered
        # Named as `tools` only where there are some: templates ask whether it is defined.
        tools = {"tools": request.params.tools} if request.params.tools else {}
        params = self._chat_params(
            chat_template_kwargs={
                **template_variables(request.params.extra, reserved=RESERVED),
                "add_generation_prompt": True,
                "continue_final_message": False,
                "tokenize": self._tokenizes,
                **tools,
            }
        )
        conversation = openai_messages(request.prompt)
        # The template writes the special tokens: none are added to those.
        tokenization = self._renderer.default_chat_tok_params.with_kwargs(add_special_tokens=False)
        _, (rendered,) = await self._renderer.render_chat_async(
            [conversation], params, tokenization
        )
        return rendered


def openai_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Return a conversation in the shape that vLLM takes.

    Raises:
        InvalidMessageError: If it is empty.
    """
    if not messages:
        raise InvalidMessageError("the conversation is empty: it needs at least one message")
    return [message.to_openai() for message in messages]


def shows_tools(tokenizer: Any) -> bool:
    """Tell whether the conversations of a model have a place for tools."""
    template = getattr(tokenizer, "chat_template", None)
    # One template, or several by name; a tokenizer without any writes its prompts itself.
    return template is None or "tools" in json.dumps(template)


def ignored(request: Request, *, shows_tools: bool) -> tuple[str, ...]:
    """Return the parameters that the prompt of a request has no place for."""
    has_place = shows_tools and not isinstance(request.prompt, str)
    return ("tools",) if request.params.tools and not has_place else ()
