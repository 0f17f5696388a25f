"""What the endpoint answers, as results: whole, and put together from a stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging import error
from tests.support.openai_server import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rigging_openai import OpenAIGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., OpenAIGenerator]

WAYS = pytest.mark.parametrize("way", ["whole", "streamed"])

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
    {"id": "c2", "type": "function", "function": {"name": "pi", "arguments": "{}"}},
]
LOGPROBS = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}


def begun(call: dict[str, Any]) -> dict[str, Any]:
    """Return the first piece of a tool call, whose arguments are still to come."""
    return {**call, "function": {**call["function"], "arguments": ""}}


def chat_body(
    message: dict[str, Any], finish_reason: str | None = "stop", **more: Any
) -> dict[str, Any]:
    message = {"role": "assistant", **message}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], **more}


def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, **more}]}


async def get(generator: OpenAIGenerator, way: str) -> rg.Chat:
    if way == "whole":
        return await generator.chat("Hi").run()
    *pieces, chat = [piece async for piece in generator.chat("Hi").stream()]
    assert isinstance(chat, rg.Chat)
    assert "".join(map(str, pieces)) == chat.last.text
    return chat


def answer(make: Make, server: OpenAIServer, way: str, reply: Reply) -> rg.Chat:
    server.usual = reply
    return asyncio.run(get(make(), way))


@WAYS
def test_a_message_comes_with_its_facts(make: Make, way: str) -> None:
    chat = asyncio.run(get(make(), way))

    assert chat.last.content == "You said: Hi"
    assert chat.stop_reason is rg.StopReason.stop
    details = {"cached_tokens": 2}
    assert chat.usage == rg.Usage(input_tokens=2, output_tokens=3, prompt_tokens_details=details)
    assert chat.extra == {"id": "reply-1", "model": "tiny-2024", "created": 1_700_000_000}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_text_comes_with_its_facts(make: Make, streamed: bool) -> None:
    async def get() -> rg.Completion:
        pipeline = make(max_tokens=3).complete("one two")
        if not streamed:
            return await pipeline.run()
        *pieces, last = [piece async for piece in pipeline.stream()]
        assert pieces == ["You ", "said: ", "one"]
        assert isinstance(last, rg.Completion)
        return last

    text = asyncio.run(get())

    assert text.generated == "You said: one"
    assert text.stop_reason is rg.StopReason.length
    assert text.usage is not None
    assert (text.usage.input_tokens, text.usage.output_tokens) == (3, 3)
    assert text.extra == {"id": "reply-1", "model": "tiny-2024", "created": 1_700_000_000}


@WAYS
@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [("length", "length"), ("content_filter", "content_filter"), ("odd", "unknown")],
)
def test_the_stop_reason_is_the_endpoints(
    make: Make, server: OpenAIServer, way: str, finish_reason: str, stop_reason: str
) -> None:
    chat = answer(make, server, way, Reply(chat_body({"content": "x"}, finish_reason)))

    assert chat.stop_reason == stop_reason


@WAYS
def test_tool_calls_are_read_and_can_be_answered(
    make: Make, server: OpenAIServer, way: str
) -> None:
    body = chat_body({"content": None, "tool_calls": CALLS}, "tool_calls")

    chat = answer(make, server, way, Reply(body))

    assert chat.stop_reason is rg.StopReason.tool_calls
    assert chat.last.content == ""
    assert [call.model_dump() for call in chat.last.tool_calls] == CALLS
    server.reset()
    result = {"role": "tool", "content": "3", "tool_call_id": "c1"}
    asyncio.run(make().chat([*chat.all, result]).run())
    assert server.requests[0].body["messages"][1]["tool_calls"] == CALLS


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param([{"tool_calls": CALLS}], id="whole-and-unnumbered"),
        pytest.param([{"tool_calls": [call]} for call in CALLS], id="one-by-one-and-unnumbered"),
        pytest.param(
            [
                {"tool_calls": [{"index": 1, **CALLS[1]}]},
                {"tool_calls": [{"index": 0, **CALLS[0]}]},
            ],
            id="out-of-order",
        ),
        pytest.param(
            [
                {"tool_calls": [{"id": "c1", "function": {"name": "add", "arguments": ""}}]},
                {"tool_calls": [{"function": {"arguments": '{"a": 1,'}}]},
                {"tool_calls": [{"function": {"arguments": ' "b": 2}'}}]},
                {"tool_calls": [{"id": "c2", "function": {"name": "pi", "arguments": "{}"}}]},
            ],
            id="in-pieces-and-unnumbered",
        ),
        pytest.param(
            [{"tool_calls": [{"index": 0, **call}]} for call in CALLS], id="all-of-one-number"
        ),
        pytest.param(
            [{"tool_calls": [{"index": 0, **call} for call in CALLS]}],
            id="all-of-one-number-at-once",
        ),
        pytest.param(
            [
                {"tool_calls": [{"index": 0, **begun(CALLS[0])}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": 1, "b": 2}'}}]},
                {"tool_calls": [{"index": 0, **begun(CALLS[1])}]},
                {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
            ],
            id="all-of-one-number-in-pieces",
        ),
        pytest.param(
            [
                {"tool_calls": [{"index": 0, **begun(CALLS[0])}]},
                {
                    "tool_calls": [
                        {"index": 0, "id": "c1", "function": {"arguments": '{"a": 1, "b": 2}'}}
                    ]
                },
                {"tool_calls": [{"index": 1, **CALLS[1]}]},
                {"tool_calls": [{"index": 1, "function": {"name": "pi", "arguments": ""}}]},
            ],
            id="said-again",
        ),
        pytest.param(
            [
                {"tool_calls": [{"index": 0, **begun(CALLS[0])}]},
                {
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "",
                            "type": "",
                            "function": {"name": "", "arguments": '{"a": 1, "b": 2}'},
                        }
                    ]
                },
                {"tool_calls": [{"index": 1, **CALLS[1]}]},
            ],
            id="empty-where-nothing-is-new",
        ),
        pytest.param(
            [
                {"tool_calls": [{"index": index, **call}]}
                for index, call in zip("ab", CALLS, strict=True)
            ],
            id="numbers-that-are-none",
        ),
        pytest.param(
            [{"tool_calls": [{"index": [{}], **call} for call in CALLS]}],
            id="numbers-that-are-lists",
        ),
    ],
)
def test_pieces_of_tool_calls_find_each_other(
    make: Make, server: OpenAIServer, deltas: list[dict[str, Any]]
) -> None:
    events = [chunk(delta) for delta in deltas] + [chunk({}, finish_reason="tool_calls")]

    chat = answer(make, server, "streamed", Reply(events=events))

    calls = sorted((call.model_dump() for call in chat.last.tool_calls), key=lambda c: c["id"])
    assert calls == CALLS


def test_calls_that_nothing_tells_apart_but_that_one_is_complete(
    make: Make, server: OpenAIServer
) -> None:
    functions = [call["function"] for call in CALLS]
    events = [
        *(chunk({"tool_calls": [{"index": 0, "id": "", "function": f}]}) for f in functions),
        chunk({}, finish_reason="tool_calls"),
    ]

    chat = answer(make, server, "streamed", Reply(events=events))

    assert [call.function.model_dump() for call in chat.last.tool_calls] == functions


def test_a_call_whose_pieces_have_ids_of_their_own_is_one(make: Make, server: OpenAIServer) -> None:
    pieces = [{"name": "add", "arguments": ""}, {"arguments": '{"a":'}, {"arguments": " 1}"}]
    events = [
        *(
            chunk({"tool_calls": [{"index": 0, "id": f"c{n}", "function": piece}]})
            for n, piece in enumerate(pieces)
        ),
        chunk({}, finish_reason="tool_calls"),
    ]

    (call,) = answer(make, server, "streamed", Reply(events=events)).last.tool_calls

    assert call.function.model_dump() == {"name": "add", "arguments": '{"a": 1}'}


@WAYS
def test_a_call_without_a_name_of_its_own_gets_one(
    make: Make, server: OpenAIServer, way: str
) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}

    chat = answer(make, server, way, Reply(chat_body({"tool_calls": [call]})))

    (read,) = chat.last.tool_calls
    assert read.id.startswith("call_")


def test_arguments_that_are_no_text_become_json(make: Make, server: OpenAIServer) -> None:
    call = {"id": "c", "function": {"name": "add", "arguments": {"a": 1}}}

    chat = answer(make, server, "whole", Reply(chat_body({"tool_calls": [call]})))

    assert chat.last.tool_calls[0].function.arguments == '{"a": 1}'


@WAYS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reasoning_content", "2 and 2 make"),
        ("reasoning", "2 and 2 make"),
        ("refusal", "I would rather not"),
        ("audio", {"id": "a", "data": "c291bmQh", "transcript": "Hello there", "expires_at": 1}),
        ("annotations", [{"type": "url_citation"}]),
        ("unheard_of", {"a": [1, 2]}),
    ],
)
def test_what_stands_beside_the_text_is_kept(
    make: Make, server: OpenAIServer, way: str, name: str, value: Any
) -> None:
    chat = answer(make, server, way, Reply(chat_body({"content": "4", name: value})))

    assert chat.last.text == "4"
    assert chat.extra[name] == value


@WAYS
def test_what_the_answer_says_of_itself_is_kept(make: Make, server: OpenAIServer, way: str) -> None:
    body = chat_body({"content": "x"}, system_fingerprint="fp", service_tier=None, provider="p")
    body["choices"][0]["logprobs"] = LOGPROBS

    chat = answer(make, server, way, Reply(body))

    extra = {"id": "c", "model": "m", "system_fingerprint": "fp", "provider": "p"}
    logprobs = chat.extra.pop("logprobs")
    assert chat.extra == extra
    assert logprobs["content"][0] == LOGPROBS["content"][0]


def test_log_probabilities_of_a_stream_add_up(make: Make, server: OpenAIServer) -> None:
    events = [
        chunk({"content": text}, logprobs={"content": [{"token": text}], "refusal": None})
        for text in "abc"
    ]
    events.append(chunk({}, finish_reason="stop"))

    chat = answer(make, server, "streamed", Reply(events=events))

    assert chat.extra["logprobs"] == {"content": [{"token": text} for text in "abc"]}


def test_parts_of_a_message_are_a_text_and_what_is_none(make: Make, server: OpenAIServer) -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    content = [thinking, {"type": "text", "text": "4"}, {"type": "text", "text": "2"}]

    chat = answer(make, server, "whole", Reply(chat_body({"content": content})))

    assert chat.last.text == "42"
    assert chat.extra["content"] == [thinking]


@WAYS
def test_parts_without_a_text_are_kept_beside_it(
    make: Make, server: OpenAIServer, way: str
) -> None:
    odd = [{"type": "text"}, {"type": "text", "text": None}, {"type": "text", "text": 7}, 7]
    content = [*odd, {"type": "text", "text": "4"}, "2"]

    chat = answer(make, server, way, Reply(chat_body({"content": content})))

    assert chat.last.text == "42"
    assert chat.extra["content"] == odd


def test_parts_of_a_streamed_message_are_pieces_of_its_text(
    make: Make, server: OpenAIServer
) -> None:
    thinking = {"type": "thinking", "thinking": "hm"}
    events = [
        chunk({"role": "assistant", "content": [thinking]}),
        chunk({"content": [{"type": "text", "text": "4"}]}),
        chunk({"content": "2"}, finish_reason="stop"),
    ]
    server.usual = Reply(events=events)

    async def collect() -> list[Any]:
        return [piece async for piece in make().chat("Hi").stream()]

    *pieces, chat = asyncio.run(collect())

    assert pieces == ["4", "2"]
    assert chat.last.text == "42"
    assert chat.extra["content"] == [thinking]


def test_content_that_is_none_breaks_the_protocol(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(events=[chunk({"content": {"a": 1}})])

    with pytest.raises(error.ResponseError, match="content that is none"):
        asyncio.run(get(make(), "streamed"))


@WAYS
@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 3, "completion_tokens": None}, rg.Usage(input_tokens=3)),
        ({"prompt_tokens": 3, "completion_tokens": 4}, rg.Usage(input_tokens=3, output_tokens=4)),
        (
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0, "x": None}},
            rg.Usage(input_tokens=3, prompt_tokens_details={"cached_tokens": 0}),
        ),
    ],
)
def test_usage_is_what_the_endpoint_counts(
    make: Make, server: OpenAIServer, way: str, usage: Any, read: rg.Usage | None
) -> None:
    chat = answer(make, server, way, Reply(chat_body({"content": "x"}, usage=usage)))

    assert chat.usage == read


def test_usage_that_is_none_costs_no_answer(make: Make, server: OpenAIServer) -> None:
    usage = {"prompt_tokens": "many"}

    chat = answer(make, server, "whole", Reply(chat_body({"content": "x"}, usage=usage)))

    assert chat.usage is None
    assert chat.extra["usage"] == usage


@WAYS
@pytest.mark.parametrize("tokens", [10**400, -7, 1e300, True])
def test_an_absurd_usage_costs_no_answer(
    make: Make, server: OpenAIServer, way: str, tokens: float
) -> None:
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": tokens}
    left = {
        f"x-ratelimit-{what}-{of}": value
        for of in ("requests", "tokens")
        for what, value in (("remaining", "10"), ("reset", "30s"))
    }
    server.usual = Reply(chat_body({"content": "x"}, usage=usage), headers=left)
    generator = make(max_retries=1)

    async def two() -> list[rg.Chat]:
        return [await get(generator, way) for _ in range(2)]

    chats = asyncio.run(asyncio.wait_for(two(), 20))

    assert [chat.last.text for chat in chats] == ["x", "x"]
    assert [rg.Chat.model_validate_json(chat.model_dump_json()).last.text for chat in chats]


def test_the_last_usage_of_a_stream_counts(make: Make, server: OpenAIServer) -> None:
    events = [
        {**chunk({"content": "a"}), "usage": {"prompt_tokens": 3, "completion_tokens": 1}},
        {**chunk({"content": "b"}, finish_reason="stop"), "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]

    chat = answer(make, server, "streamed", Reply(events=events))

    assert chat.usage == rg.Usage(input_tokens=3, output_tokens=2)


@WAYS
def test_what_orjson_declines_is_read_all_the_same(
    make: Make, server: OpenAIServer, way: str
) -> None:
    text = '{"choices": [{"%s": {"content": "a\\ud800"}, "finish_reason": "stop", "lp": NaN}]}'
    named = text % ("message" if way == "whole" else "delta")
    reply = Reply(named) if way == "whole" else Reply(events=[f"data: {named}\n\n"])

    assert answer(make, server, way, reply).last.text == "a\ufffd"


def test_half_a_character_and_an_absurd_count_can_be_stored(
    make: Make, server: OpenAIServer, tmp_path: Path
) -> None:
    usage = f'{{"prompt_tokens": 1{"0" * 400}}}'
    text = (
        '{"choices": [{"message": {"content": "a\\ud83d"}, "\\udc00": "\\ud83d\\ude00"}], "usage": '
    )
    server.usual = Reply(f"{text}{usage}}}")
    pipeline = make().chat()

    for _ in range(2):
        (chat,) = asyncio.run(pipeline.run_batch(["Hi"], checkpoint=tmp_path / "run.db"))

    assert chat.last.text == "a\ufffd"
    assert chat.extra["\ufffd"] == "😀"
    assert len(server.requests) == 1


# -- Streams -----------------------------------------------------------------------------


def test_a_stream_may_be_written_in_any_way_that_the_standard_allows(
    make: Make, server: OpenAIServer
) -> None:
    events = [
        "\ufeff: welcome\n\n",
        'event: message\nid: 1\ndata: {"choices":\ndata: [{"delta": {"content": "é"}}]}\n\n',
        ": ping\r\n\r\n",
        'data:{"choices":[{"delta":{"content":"日"},"finish_reason":"stop"}]}\r\r',
        "data: [DONE]\n\n",
        'data: {"choices": [{"delta": {"content": "too late"}}]}\n\n',
    ]

    assert answer(make, server, "streamed", Reply(events=events)).last.text == "é日"


def test_an_endpoint_that_does_not_stream_gives_the_text_in_one_piece(
    make: Make, server: OpenAIServer
) -> None:
    server.usual = Reply(chat_body({"content": "one two"}), stream=False)

    async def collect() -> list[Any]:
        return [piece async for piece in make().chat("Hi").stream()]

    *pieces, chat = asyncio.run(collect())

    assert pieces == ["one two"]
    assert chat.last.text == "one two"


def test_a_stream_without_an_end_is_a_lost_connection(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(events=['data: {"choices": [{"delta": {"content": "a"}}]}\n\n'])

    with pytest.raises(error.ProviderConnectionError, match="ended before the answer did"):
        asyncio.run(get(make(), "streamed"))


@pytest.mark.parametrize("end", ["data: [DONE] \n\n", "data:  [DONE]\n\n", "data: [DONE]\t\n\n"])
def test_a_stream_may_end_with_blanks(make: Make, server: OpenAIServer, end: str) -> None:
    server.usual = Reply(events=["data:\n\n", f"data: {TEXT}\n\n", "data: \n\n", end])

    assert asyncio.run(get(make(), "streamed")).last.text == "a"


TEXT = '{"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]}'


def test_an_empty_reason_for_the_end_is_none(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(events=[f"data: {TEXT}\n\n"])

    with pytest.raises(error.ProviderConnectionError, match="ended before the answer did"):
        asyncio.run(get(make(), "streamed"))


def test_an_empty_reason_for_the_end_takes_none_back(make: Make, server: OpenAIServer) -> None:
    events = [chunk({"content": "a"}, finish_reason="length"), chunk({}, finish_reason="")]

    chat = answer(make, server, "streamed", Reply(events=events))

    assert chat.stop_reason is rg.StopReason.length


def test_of_several_choices_one_is_read(make: Make, server: OpenAIServer) -> None:
    def choices(text: str) -> list[dict[str, Any]]:
        return [
            {"index": index, "delta": {"content": f"{text}{index}"}, "finish_reason": "stop"}
            for index in (1, 0)
        ]

    events = [{"choices": choices("a")}, {"choices": choices("b")[:1]}, {"choices": choices("c")}]
    streamed = answer(make, server, "streamed", Reply(events=events))
    messages = [{"index": i, "message": {"role": "assistant", "content": str(i)}} for i in (1, 0)]
    whole = answer(make, server, "whole", Reply({"choices": messages}))

    assert streamed.last.text == "a0c0"
    assert whole.last.text == "0"


def test_a_choice_may_be_counted_from_one(make: Make, server: OpenAIServer) -> None:
    events = [
        {"choices": [{"index": 1, "delta": {"content": "a"}}]},
        {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]},
    ]

    assert answer(make, server, "streamed", Reply(events=events)).last.text == "ab"


def test_a_stream_that_says_why_it_ends_needs_no_other_end(
    make: Make, server: OpenAIServer
) -> None:
    text = 'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}'

    assert answer(make, server, "streamed", Reply(events=[text])).last.text == "a"


def test_a_stream_that_stays_open_after_its_end_holds_nobody_up(
    make: Make, server: OpenAIServer
) -> None:
    events = [chunk({"content": "a"}), "data: [DONE]\n\n", ": still here\n\n"]
    server.usual = Reply(events=[*events, *[": still here\n\n"] * 100], trickle_s=1)

    chat = asyncio.run(asyncio.wait_for(get(make(), "streamed"), 30))

    assert chat.last.text == "a"


def test_a_piece_is_handed_out_before_the_next_one_is_there(
    make: Make, server: OpenAIServer
) -> None:
    server.usual = Reply(events=[chunk({"content": "a"}), chunk({"content": "b"})], trickle_s=60)

    async def first() -> Any:
        pieces = make().chat("Hi").stream()
        try:
            return await anext(pieces)
        finally:
            await pieces.aclose()

    assert asyncio.run(asyncio.wait_for(first(), 30)) == "a"


def test_a_reader_that_takes_its_time_does_not_run_into_the_timeout(make: Make) -> None:
    async def slowly() -> list[Any]:
        got = []
        async for piece in make(timeout=1).chat("Hi").stream():
            await asyncio.sleep(0.6)
            got.append(piece)
        return got

    assert asyncio.run(slowly())[:-1] == ["You ", "said: ", "Hi"]


def test_a_stream_that_drips_for_ever_is_a_timeout(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(events=[chunk({"content": "a"})] * 1000, trickle_s=0.1)

    with pytest.raises(error.ProviderTimeoutError, match=r"not complete after 0\.5 s"):
        asyncio.run(get(make(timeout=0.5), "streamed"))
