"""What the endpoint answers, as results."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from tests.support.openai_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]


def chat_body(
    message: dict[str, Any], finish_reason: str | None = "stop", **more: Any
) -> dict[str, Any]:
    message = {"role": "assistant", **message}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], **more}


def test_a_message_comes_with_its_facts(make: Make) -> None:
    chat = asyncio.run(make().chat("one two three").run())

    assert chat.last.role == "assistant"
    assert chat.last.content == "You said: one two three"
    assert chat.stop_reason is rg.StopReason.stop
    assert chat.usage == rg.Usage(
        input_tokens=4,
        output_tokens=5,
        total_tokens=9,
        prompt_tokens_details={"cached_tokens": 2},
    )
    assert chat.extra["id"] == "reply-1"
    assert chat.extra["model"] == "tiny-2024"


def test_a_text_comes_with_its_facts(make: Make) -> None:
    params = [rg.GenerateParams(max_tokens=3)]

    (result,) = asyncio.run(make().generate_texts(["one two three"], params))

    assert isinstance(result, rg.GeneratedText)
    assert result.text == "You said: one"
    assert result.stop_reason is rg.StopReason.length
    assert result.usage is not None
    assert (result.usage.input_tokens, result.usage.output_tokens) == (4, 3)
    assert result.extra["model"] == "tiny-2024"


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", rg.StopReason.stop),
        ("length", rg.StopReason.length),
        ("content_filter", rg.StopReason.content_filter),
    ],
)
def test_the_stop_reason_is_the_endpoints(
    make: Make, server: OpenAIServer, finish_reason: str, stop_reason: rg.StopReason
) -> None:
    server.prepare(Reply(chat_body({"content": "x"}, finish_reason)))

    assert asyncio.run(make().chat("Hi").run()).stop_reason is stop_reason


def test_tool_calls_are_read_and_can_be_answered(make: Make, server: OpenAIServer) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    server.prepare(Reply(chat_body({"content": None, "tool_calls": [call]}, "tool_calls")))
    generator = make()

    chat = asyncio.run(generator.chat("Add").run())

    assert chat.stop_reason is rg.StopReason.tool_calls
    assert chat.last.content == ""
    (read,) = chat.last.tool_calls
    assert (read.id, read.function.name, read.function.arguments) == ("c1", "add", '{"a": 1}')

    answer = {"role": "tool", "content": "2", "tool_call_id": "c1"}
    asyncio.run(generator.chat([*chat.all, answer]).run())
    sent = server.requests[-1].body["messages"]
    assert sent[1]["tool_calls"] == [call]
    assert sent[2] == answer


def test_several_generations_are_several_requests(make: Make, server: OpenAIServer) -> None:
    server.prepare(*(Reply(chat_body({"content": text})) for text in "abc"))

    chats = asyncio.run(make(max_connections=1).chat("Hi").run_many(3))

    assert [chat.last.content for chat in chats] == ["a", "b", "c"]
    assert all("n" not in request.body for request in server.requests)


def test_details_of_the_usage_are_kept_and_add_up(make: Make, server: OpenAIServer) -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    server.usual = Reply(chat_body({"content": "x"}, usage=usage))

    first, second = asyncio.run(make().chat("Hi").run_many(2))

    assert first.usage is not None
    assert second.usage is not None
    assert first.usage + second.usage == rg.Usage(
        input_tokens=10,
        output_tokens=14,
        total_tokens=24,
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 6},
    )


# -- Cost --------------------------------------------------------------------------------


async def generate(generator: LiteLLMGenerator, kind: str, *, streamed: bool) -> Any:
    chain = generator.chat("Hi") if kind == "chat" else generator.complete("Hi")
    if not streamed:
        return await chain.run()
    *_, finished = [piece async for piece in chain.stream()]
    return finished


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("model", "kind"), [("openai/gpt-4o", "chat"), ("gpt-3.5-turbo-instruct", "complete")]
)
def test_the_cost_is_given_where_litellm_knows_the_price(
    make: Make, model: str, kind: str, streamed: bool
) -> None:
    result = asyncio.run(generate(make(model), kind, streamed=streamed))

    import litellm

    price = litellm.model_cost[model.removeprefix("openai/")]
    cached = price.get("cache_read_input_token_cost", 0) * 2 if kind == "chat" else 0
    fresh = result.usage.input_tokens - (2 if kind == "chat" else 0)
    assert result.extra["cost"] == pytest.approx(
        cached
        + fresh * price["input_cost_per_token"]
        + result.usage.output_tokens * price["output_cost_per_token"]
    )
    assert result.usage.model_extra.keys() == {"prompt_tokens_details"}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize("model", ["openai/tiny", "hosted_vllm/tiny"])
def test_a_model_without_a_known_price_has_no_cost(
    make: Make, model: str, kind: str, streamed: bool
) -> None:
    assert "cost" not in asyncio.run(generate(make(model), kind, streamed=streamed)).extra


def test_without_usage_there_is_no_cost(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(chat_body({"content": "x"}))

    for streamed in (False, True):
        chat = asyncio.run(generate(make("openai/gpt-4o"), "chat", streamed=streamed))
        assert chat.usage is None
        assert "cost" not in chat.extra


# -- What only some models say -----------------------------------------------------------

THINKING = [
    {"type": "thinking", "thinking": "One and one.", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "ZGF0YQ=="},
]


def event(kind: str, **data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n"


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> str:
    opened = event("content_block_start", index=index, content_block=start)
    middle = (event("content_block_delta", index=index, delta=delta) for delta in deltas)
    return "".join([opened, *middle, event("content_block_stop", index=index)])


USED = {"input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0}
CLAUDE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [
        *THINKING,
        {"type": "text", "text": "I add."},
        {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {**USED, "output_tokens": 9},
}
CLAUDE_STREAMS = [
    event(
        "message_start",
        message={
            **CLAUDE,
            "content": [],
            "stop_reason": None,
            "usage": {**USED, "output_tokens": 1},
        },
    ),
    block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "One and "},
        {"type": "thinking_delta", "thinking": "one."},
        {"type": "signature_delta", "signature": "c2ln"},
    ),
    block(1, THINKING[1]),
    block(
        2,
        {"type": "text", "text": ""},
        {"type": "text_delta", "text": "I "},
        {"type": "text_delta", "text": "add."},
    ),
    block(
        3,
        {"type": "tool_use", "id": "t1", "name": "add", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"a"'},
        {"type": "input_json_delta", "partial_json": ": 1}"},
    ),
    event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 9}),
    event("message_stop"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_thinking_is_kept_beside_the_message(
    make: Make, server: OpenAIServer, streamed: bool
) -> None:
    server.prepare(Reply(events=CLAUDE_STREAMS) if streamed else Reply(CLAUDE))
    generator = make(
        "anthropic/claude-sonnet-4-5",
        api_base=server.url.removesuffix("/v1"),
        extra={"thinking": {"type": "enabled", "budget_tokens": 1024}},
        max_tokens=2000,
    )

    chat = asyncio.run(generate(generator, "chat", streamed=streamed))

    assert server.requests[0].body["thinking"] == {"type": "enabled", "budget_tokens": 1024}
    assert chat.last.content == "I add."
    assert chat.last.tool_calls[0].function == rg.message.FunctionCall(
        name="add", arguments='{"a": 1}'
    )
    assert chat.stop_reason is rg.StopReason.tool_calls
    assert chat.extra["reasoning_content"] == "One and one."
    assert chat.extra["thinking_blocks"] == THINKING
    assert "provider_specific_fields" not in chat.extra
    assert chat.usage is not None
    assert (chat.usage.input_tokens, chat.usage.output_tokens) == (14, 9)
    assert chat.usage.model_extra is not None
    assert chat.usage.model_extra["prompt_tokens_details"]["cached_tokens"] == 4
    assert chat.extra["cost"] > 0


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_sound_is_kept_beside_the_message(make: Make, server: OpenAIServer, streamed: bool) -> None:
    audio = {"id": "a1", "data": "c291bmQh", "transcript": "Hello", "expires_at": 1_700_000_000}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    server.prepare(Reply(chat_body({"content": None, "audio": audio}, usage=usage)))
    generator = make(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})

    chat = asyncio.run(generate(generator, "chat", streamed=streamed))

    assert chat.last.content == ""
    assert chat.extra["audio"] == audio


def test_what_has_no_place_of_its_own_is_kept(make: Make, server: OpenAIServer) -> None:
    body = chat_body(
        {"content": "x", "reasoning_content": "because"}, system_fingerprint="fp", created=1
    )
    server.prepare(Reply(body))

    extra = asyncio.run(make().chat("Hi").run()).extra

    assert extra["reasoning_content"] == "because"
    assert extra["system_fingerprint"] == "fp"


def test_usage_that_the_endpoint_does_not_report_is_none(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(chat_body({"content": "x"})))

    assert asyncio.run(make().chat("Hi").run()).usage is None


def test_an_answer_without_choices_breaks_the_protocol(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply({**chat_body({}), "choices": []}))

    with pytest.raises(rg.error.ResponseError, match="no choices"):
        asyncio.run(make().chat("Hi").run())
