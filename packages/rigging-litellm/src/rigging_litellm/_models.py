"""What litellm knows of a model: its provider, what it can do, and what becomes of parameters.

Found out without a request, but for models at Ollama.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any, Final

from rigging.error import NotSupportedError
from rigging.params import GenerateParams
from rigging_litellm._errors import PROVIDER
from rigging_litellm._request import refused_by_litellm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["LeftOut", "refuse_chat", "refuse_text", "supports_function_calling"]

# Providers whose texts are no chats, beside those that litellm lists; see `refuse_text`.
_TEXTS: Final = frozenset({"azure_text", "ollama", "ollama_chat"})
_TEXT_ONLY: Final = ("text-completion-", "azure_text")

# What says where and how to send, which is not mapped.
_UNMAPPED: Final = frozenset(
    {
        "api_base",
        "api_version",
        "base_url",
        "default_headers",
        "deployment_id",
        "extra",
        "extra_headers",
        "organization",
        "request_timeout",
        "stream_options",
        "timeout",
    }
)


def supports_function_calling(litellm: Any, model: str, api_base: str | None) -> bool | None:
    """Return whether a model calls tools; None if litellm does not know the model.

    Call it in a thread: of models at Ollama, litellm asks Ollama.
    """
    if _provider(litellm, model) is None:
        return None
    try:
        facts = litellm.get_model_info(model, api_base=api_base)
    except Exception:  # noqa: BLE001 (whatever it is, the model is not known)
        return None
    return bool(facts["supports_function_calling"])


def refuse_chat(litellm: Any, model: str) -> None:
    """Stop a chat that litellm would turn into a text.

    Raises:
        NotSupportedError: If the model continues texts only.
    """
    found = _provider(litellm, model)
    if found is not None and found[1].startswith(_TEXT_ONLY):
        raise NotSupportedError(
            f"{PROVIDER}!{model} continues texts only, and litellm would make one text of the "
            f"conversation: use complete() instead of chat()"
        )


def refuse_text(litellm: Any, model: str) -> None:
    """Stop a text that litellm would turn into a chat, as it does for most providers.

    Raises:
        NotSupportedError: If litellm has no text completion for the model.
    """
    found = _provider(litellm, model)
    if found is None:
        return  # litellm refuses it itself
    name, provider = found
    if provider == "openai":
        # Its other models, and those of any server that speaks its protocol, go to
        # `/completions`.
        texts = name not in litellm.open_ai_chat_completion_models
    else:
        texts = (
            provider in _TEXTS
            or provider.startswith(_TEXT_ONLY)
            or provider in litellm.openai_text_completion_compatible_providers
        )
    if not texts:
        raise NotSupportedError(
            f"litellm has no text completion for {model!r}, and would send the text as a chat: "
            f"use chat() instead of complete(). For a server that has OpenAI's /completions, "
            f"write 'text-completion-openai/<name>' and set api_base"
        )


class LeftOut:
    """Which parameters of a chat litellm refuses, or leaves out without a word.

    There is no list: a parameter is left out if litellm makes the same request with and
    without it. What comes of a parameter is remembered by the type of its value.
    """

    def __init__(self) -> None:
        self._dropped: dict[tuple[str, ...], bool] = {}

    async def find(self, litellm: Any, model: str, arguments: Mapping[str, Any]) -> frozenset[str]:
        """Return which of the ``arguments`` of a call would be left out."""
        mapped = GenerateParams.model_fields.keys() | litellm.OPENAI_CHAT_COMPLETION_PARAMS
        mapped -= _UNMAPPED | set(arguments.get("allowed_openai_params", ()))
        given = {name: arguments[name] for name in mapped & arguments.keys()}
        kinds = {name: (model, *_kind(name, value)) for name, value in given.items()}
        new = [name for name, kind in kinds.items() if kind not in self._dropped]
        if new:
            # In a thread, because litellm imports what it needs for a provider.
            found = await asyncio.to_thread(_left_out, litellm, model, given, new)
            self._dropped.update({kinds[name]: name in found for name in new})
        return frozenset(name for name, kind in kinds.items() if self._dropped[kind])


def _left_out(
    litellm: Any, model: str, given: Mapping[str, Any], names: Iterable[str]
) -> frozenset[str]:
    """Return which of ``names`` make no difference to what litellm makes of ``given``."""
    found = _provider(litellm, model)
    if found is None:
        return frozenset()
    model, provider = found

    def mapped(*names: str) -> dict[str, Any]:
        made: dict[str, Any] = litellm.utils.get_optional_params(
            model=model,
            custom_llm_provider=provider,
            **copy.deepcopy({name: given[name] for name in names}),
        )
        made.pop("json_mode", None)  # a note of litellm's to itself, which is not sent
        return made

    def is_left_out(name: str) -> bool:
        # Alone, since one may say what another says, but for what it is about.
        others = {"tools"} & given.keys() - {name}
        try:
            return mapped(name, *others) == mapped(*others)
        except Exception as error:  # noqa: BLE001 (a bad value comes to light in the request)
            return bool(refused_by_litellm(error, [name]))

    return frozenset(filter(is_left_out, names))


def _kind(name: str, value: Any) -> tuple[str, ...]:
    of = str(value.get("type")) if isinstance(value, dict) else ""
    return (name, type(value).__name__, of)


def _provider(litellm: Any, model: str) -> tuple[str, str] | None:
    """Return the model's name at its provider, and the provider; None if that is not clear."""
    # Only what litellm knows, since it prints a hint about anything else.
    if model.partition("/")[0] not in litellm.provider_list and model not in litellm.model_cost:
        return None
    try:
        name, provider, *_ = litellm.get_llm_provider(model)
    except Exception:  # noqa: BLE001 (the request fails of the same, and there it is mapped)
        return None
    return name, provider
