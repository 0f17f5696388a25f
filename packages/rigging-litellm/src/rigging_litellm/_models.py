"""What litellm knows of a model: its provider, and what it can do.

Found out without a request, but for models at Ollama.
"""

from __future__ import annotations

from typing import Any, Final

from rigging.error import NotSupportedError
from rigging_litellm._errors import PROVIDER

__all__ = ["provider_of", "refuse_chat", "refuse_text", "supports_function_calling"]

# Providers whose texts are no chats, beside those that litellm lists; see `refuse_text`.
_TEXTS: Final = frozenset({"ollama", "ollama_chat"})
_TEXT_ONLY: Final = ("text-completion-", "azure_text")


def supports_function_calling(litellm: Any, model: str, api_base: str | None) -> bool | None:
    """Return whether a model calls tools; None if litellm does not know the model.

    Call it in a thread: of models at Ollama, litellm asks Ollama.
    """
    if provider_of(litellm, model) is None:
        return None
    look_up = litellm.get_model_info
    try:
        facts = look_up(model, api_base=api_base)
    except Exception:  # noqa: BLE001 (whatever it is, the model is not known)
        return None
    # Of a model that Ollama does not have, litellm knows next to nothing.
    if "supports_function_calling" not in facts:
        return None
    return bool(facts["supports_function_calling"])


def refuse_chat(litellm: Any, model: str) -> None:
    """Stop a chat that litellm would turn into a text.

    Raises:
        NotSupportedError: If the model continues texts only.
    """
    found = provider_of(litellm, model)
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
    found = provider_of(litellm, model)
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


def provider_of(litellm: Any, model: str) -> tuple[str, str] | None:
    """Return the model's name at its provider, and the provider; None if that is not clear."""
    # Only what litellm knows, since it prints a hint about anything else.
    if model.partition("/")[0] not in litellm.provider_list and model not in litellm.model_cost:
        return None
    find = litellm.get_llm_provider
    try:
        name, provider, *_ = find(model)
    except Exception:  # noqa: BLE001 (the request fails of the same, and there it is mapped)
        return None
    return name, provider
