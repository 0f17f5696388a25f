"""What a model can do: tools, conversations, texts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import NotSupportedError
from rigging_litellm import LiteLLMGenerator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]


async def pieces(stream: Any) -> list[Any]:
    return [piece async for piece in stream]


# -- Tools -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        pytest.param("gpt-4o", True, id="without-a-prefix"),
        pytest.param("openai/gpt-4o", True, id="openai"),
        pytest.param("anthropic/claude-sonnet-4-20250514", True, id="anthropic"),
        pytest.param("gemini/gemini-2.5-flash", True, id="gemini"),
        pytest.param("text-completion-openai/gpt-3.5-turbo-instruct", False, id="texts-only"),
        pytest.param("openai/my-own", None, id="own-model"),
        pytest.param("hosted_vllm/my-own", None, id="own-server"),
        pytest.param("nonsense", None, id="no-provider"),
        pytest.param("nonsense/my-own", None, id="unknown-provider"),
    ],
)
def test_litellm_says_whether_a_model_calls_tools(
    model: str, answer: bool | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert asyncio.run(LiteLLMGenerator(model=model).supports_function_calling()) is answer
    assert capfd.readouterr().out == ""


# -- Conversations and texts -------------------------------------------------------------

CHATS_ONLY = pytest.mark.parametrize(
    "model",
    [
        "gpt-4o",
        "openai/gpt-4o",
        "anthropic/claude-sonnet-4-20250514",
        "gemini/gemini-2.5-flash",
        "mistral/mistral-large-latest",
        "groq/llama-3.3-70b-versatile",
        "azure/my-deployment",
        "openrouter/openai/gpt-4o",
    ],
)
TEXTS_ONLY = pytest.mark.parametrize(
    "model",
    ["gpt-3.5-turbo-instruct", "text-completion-openai/tiny", "azure_text/my-deployment"],
)


@CHATS_ONLY
def test_a_text_for_a_model_of_chats_is_refused(
    make: Make, server: OpenAIServer, model: str
) -> None:
    with pytest.raises(NotSupportedError, match=r"use chat\(\) instead of complete\(\)"):
        asyncio.run(make(model).complete("Once").run())
    with pytest.raises(NotSupportedError, match="write 'text-completion-openai/<name>'"):
        asyncio.run(pieces(make(model).complete("Once").stream()))
    assert server.requests == []


@TEXTS_ONLY
def test_a_chat_with_a_model_of_texts_is_refused(
    make: Make, server: OpenAIServer, model: str
) -> None:
    with pytest.raises(NotSupportedError, match=r"use complete\(\) instead of chat\(\)"):
        asyncio.run(make(model).chat("Hi").run())
    with pytest.raises(NotSupportedError, match=r"use complete\(\) instead of chat\(\)"):
        asyncio.run(pieces(make(model).chat("Hi").stream()))
    assert server.requests == []


@pytest.mark.parametrize(
    "model",
    [
        "openai/tiny",
        "text-completion-openai/tiny",
        "text-completion-openai/gpt-4o",
        "gpt-3.5-turbo-instruct",
        "hosted_vllm/tiny",
        "together_ai/tiny",
        "fireworks_ai/tiny",
    ],
)
def test_a_text_goes_to_an_endpoint_for_texts(make: Make, server: OpenAIServer, model: str) -> None:
    completion = asyncio.run(make(model).complete(" Once\n").run())

    (request,) = server.requests
    assert request.path == "completions"
    assert request.body["prompt"] == " Once\n"
    assert completion.generated == "You said: Once"


@pytest.mark.parametrize("model", ["openai/tiny", "hosted_vllm/tiny", "together_ai/tiny"])
def test_a_chat_goes_to_an_endpoint_for_chats(make: Make, server: OpenAIServer, model: str) -> None:
    asyncio.run(make(model).chat("Hi").run())

    (request,) = server.requests
    assert request.path == "chat/completions"


def test_one_items_refusal_is_nobody_elses(make: Make) -> None:
    messages = [[rg.Message("user", "Hi")]] * 2

    results = asyncio.run(
        make("text-completion-openai/x").generate_messages(messages, [rg.GenerateParams()] * 2)
    )

    assert [type(result) for result in results] == [NotSupportedError, NotSupportedError]
