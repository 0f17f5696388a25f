"""The two providers that speak OpenAI's protocol make the same of the same answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging_openai import OpenAIGenerator
from tests.support.faults import KEY
from tests.support.openai_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
    {"id": "c2", "type": "function", "function": {"name": "pi", "arguments": "{}"}},
]
USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
LOGPROBS = {
    "content": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}],
    "refusal": None,
}


def chat(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", **message}}
    logprobs = more.pop("logprobs", None)
    choice |= {"logprobs": logprobs} if logprobs else {}
    frame = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-2024"}
    return {**frame, "choices": [choice], **more}


CHATS = {
    "text": chat({"content": "plain words"}, usage=USAGE),
    "no-usage": chat({"content": "plain words"}),
    "length": chat({"content": "cut off"}, "length", usage=USAGE),
    "content-filter": chat({"content": "x"}, "content_filter", usage=USAGE),
    "tool-calls": chat({"content": None, "tool_calls": CALLS}, "tool_calls", usage=USAGE),
    "text-and-calls": chat({"content": "I add", "tool_calls": CALLS}, "tool_calls", usage=USAGE),
    "reasoning": chat({"content": "4", "reasoning_content": "2 and 2 make"}, usage=USAGE),
    "fingerprint": chat({"content": "x"}, usage=USAGE, system_fingerprint="fp"),
    "log-probabilities": chat({"content": "Hi"}, usage=USAGE, logprobs=LOGPROBS),
    "empty": chat({"content": ""}, usage=USAGE),
    "usual": None,
}


async def finished(generator: rg.Generator, kind: str, *, streamed: bool) -> Any:
    start = generator.chat if kind == "chat" else generator.complete
    pipeline = start("one two three")
    if not streamed:
        return await pipeline.run()
    *_, last = [piece async for piece in pipeline.stream()]
    return last


def facts(result: Any) -> dict[str, Any]:
    """Return what a result says, without names that are given to each anew."""
    kept = {"stop_reason", "usage", "extra"}
    said = result.last.model_dump(exclude={"uuid"}) if isinstance(result, rg.Chat) else None
    text = None if said else result.generated
    shown = result.model_dump(include=kept) | {"said": said, "text": text}
    # The price, which only litellm knows.
    shown["extra"].pop("cost", None)
    return shown


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_the_same_through_both(
    make: Make, server: OpenAIServer, name: str, streamed: bool
) -> None:
    server.usual = Reply(CHATS[name])
    theirs = make("openai/tiny")
    ours = OpenAIGenerator(model="tiny", api_key=KEY, params=theirs.params)

    async def both() -> list[Any]:
        return [await finished(one, "chat", streamed=streamed) for one in (theirs, ours)]

    through_litellm, directly = map(facts, asyncio.run(both()))

    if streamed:
        # Of a stream, litellm's time is that of its own clock, and it drops these.
        del directly["extra"]["created"]
        directly["extra"].pop("logprobs", None)
    assert directly == through_litellm


def test_a_text_is_the_same_through_both(make: Make) -> None:
    theirs = make("openai/tiny")
    ours = OpenAIGenerator(model="tiny", api_key=KEY, params=theirs.params)

    async def both() -> list[Any]:
        return [await finished(one, "text", streamed=False) for one in (theirs, ours)]

    through_litellm, directly = map(facts, asyncio.run(both()))

    assert directly == through_litellm
