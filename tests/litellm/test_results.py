"""What the endpoint answers, as results."""

from __future__ import annotations

import asyncio
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
