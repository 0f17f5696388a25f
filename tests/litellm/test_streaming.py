"""Answers that come in pieces."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging import error
from rigging_litellm import LiteLLMGenerator
from tests.support.faults import KEY
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]

HI = [rg.Message("user", "Hi")]
KINDS = pytest.mark.parametrize("kind", ["chat", "complete"])

# One event that fits both kinds.
EVENT = {
    "id": "c",
    "object": "x",
    "model": "m",
    "choices": [{"index": 0, "delta": {"content": "Hi "}, "text": "Hi ", "finish_reason": None}],
}
END = {**EVENT, "choices": [{"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}]}


def stream(generator: LiteLLMGenerator, kind: str, text: str = "Hi", **params: Any) -> Any:
    own = rg.GenerateParams(**params)
    if kind == "chat":
        return generator.stream_messages([rg.Message("user", text)], own)
    return generator.stream_texts(text, own)


async def ask(generator: LiteLLMGenerator, kind: str, text: str = "Hi", **params: Any) -> Any:
    own = rg.GenerateParams(**params)
    if kind == "chat":
        messages = [rg.Message("user", text)]
        (result,) = await generator.generate_messages([messages], [own])
    else:
        (result,) = await generator.generate_texts([text], [own])
    return result


async def read(pieces: Any) -> tuple[list[str], Any]:
    """Return the pieces of a stream, and its result."""
    *texts, result = [piece async for piece in pieces]
    return texts, result


def facts(result: Any) -> dict[str, Any]:
    """Return what a result says, without names that are given to each message anew."""
    return result.model_dump(exclude={"message": {"uuid"}})  # type: ignore[no-any-return]


# -- What comes --------------------------------------------------------------------------


@KINDS
def test_the_text_comes_in_pieces_and_the_result_last(make: Make, kind: str) -> None:
    pieces, result = asyncio.run(read(stream(make(), kind, "one two")))

    assert pieces == ["You ", "said: ", "one ", "two"]
    assert str(result) == "You said: one two"


@KINDS
def test_a_piece_is_handed_out_before_the_next_one_is_there(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    server.prepare(Reply(events=[EVENT, EVENT], trickle_s=60))

    async def first() -> str:
        async with contextlib.aclosing(stream(make(), kind)) as pieces:
            return await anext(pieces)  # type: ignore[no-any-return]

    assert asyncio.run(asyncio.wait_for(first(), 30)) == "Hi "


def test_pipelines_stream(make: Make) -> None:
    async def both() -> tuple[list[str | rg.Chat], list[str | rg.Completion]]:
        generator = make()
        chat = [piece async for piece in generator.chat("one").stream()]
        text = [piece async for piece in generator.complete("one").stream()]
        return chat, text

    chat, text = asyncio.run(both())

    assert chat[:-1] == text[:-1] == ["You ", "said: ", "one"]
    assert isinstance(chat[-1], rg.Chat)
    assert chat[-1].last.content == "You said: one"
    assert isinstance(text[-1], rg.Completion)
    assert text[-1].generated == "You said: one"


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


@pytest.mark.parametrize(
    ("message", "reason", "more"),
    [
        pytest.param({"content": "plain words"}, "stop", {"usage": USAGE}, id="text"),
        pytest.param({"content": "cut off"}, "length", {"usage": USAGE}, id="length"),
        pytest.param({"content": "x"}, "content_filter", {"usage": USAGE}, id="content-filter"),
        pytest.param({"content": None, "tool_calls": CALLS}, "tool_calls", {}, id="tool-calls"),
        pytest.param({"content": "I add", "tool_calls": CALLS}, "tool_calls", {}, id="text-calls"),
        pytest.param(
            {"content": "4", "reasoning_content": "2 and 2 make"}, "stop", {}, id="reasoning"
        ),
        pytest.param({"content": "x"}, "stop", {"system_fingerprint": "fp"}, id="fingerprint"),
        pytest.param({"content": "x"}, "stop", {}, id="no-usage"),
    ],
)
def test_a_streamed_message_equals_the_whole_one(
    make: Make,
    server: OpenAIServer,
    message: dict[str, Any],
    reason: str,
    more: dict[str, Any],
) -> None:
    choice = {
        "index": 0,
        "finish_reason": reason,
        "message": {"role": "assistant", **message},
    }
    server.usual = Reply(
        {"id": "c", "object": "chat.completion", "model": "m-2024", **more, "choices": [choice]}
    )

    async def both() -> tuple[Any, list[str], Any]:
        generator = make()
        return await ask(generator, "chat"), *await read(stream(generator, "chat"))

    whole, pieces, streamed = asyncio.run(both())

    whole.extra.pop("created", None)  # litellm's own clock, where the endpoint gives no time
    assert facts(streamed) == facts(whole)
    assert "".join(pieces) == whole.message.text


def test_a_streamed_text_equals_the_whole_one(make: Make) -> None:
    async def both() -> tuple[Any, list[str], Any]:
        generator = make(max_tokens=3)
        text = "one two three"
        return await ask(generator, "complete", text), *await read(
            stream(generator, "complete", text)
        )

    whole, pieces, streamed = asyncio.run(both())

    # litellm hands neither on.
    del whole.extra["created"], whole.extra["model"]
    assert facts(streamed) == facts(whole)
    assert "".join(pieces) == whole.text == "You said: one"
    assert streamed.stop_reason is rg.StopReason.length


@KINDS
def test_what_is_asked_for_is_the_same_but_for_the_stream(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    params: dict[str, Any] = {"temperature": 0.5, "stop": ["x"], "top_k": 3, "seed": 1}

    async def both() -> None:
        await ask(make(), kind, **params)
        await read(stream(make(), kind, **params))

    asyncio.run(both())

    whole, streamed = (request.body for request in server.requests)
    assert streamed.pop("stream") is True
    assert streamed.pop("stream_options") == {"include_usage": True}
    assert streamed == whole


# -- Usage -------------------------------------------------------------------------------


@KINDS
def test_callers_may_ask_for_no_usage(make: Make, server: OpenAIServer, kind: str) -> None:
    options = {"include_usage": False}

    _, result = asyncio.run(read(stream(make(), kind, extra={"stream_options": options})))

    assert result.usage is None
    assert server.requests[0].body["stream_options"] == options


def test_usage_that_the_endpoint_does_not_report_is_none(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(events=[EVENT, END]))

    _, result = asyncio.run(read(stream(make(), "chat")))

    assert result.usage is None


@KINDS
@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_that_cannot_report_usage_is_not_asked_to(
    make: Make, server: OpenAIServer, kind: str, status: int
) -> None:
    server.prepare(Reply(error_body("unknown field: stream_options"), status))

    pieces, _ = asyncio.run(read(stream(make(), kind, temperature=0.5)))

    assert pieces == ["You ", "said: ", "Hi"]
    first, second = (request.body for request in server.requests)
    del first["stream_options"]
    assert second == first


@KINDS
def test_what_the_caller_asks_for_is_not_taken_back(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    server.usual = Reply(error_body("unknown field: stream_options"), 400)
    options = {"include_usage": True}

    with pytest.raises(error.BadRequestError, match="stream_options"):
        asyncio.run(read(stream(make(), kind, extra={"stream_options": options})))

    assert len(server.requests) == 1


@KINDS
def test_options_of_streams_are_for_streams_only(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    asyncio.run(ask(make(extra={"stream_options": {"include_usage": True}}), kind))

    assert "stream_options" not in server.requests[0].body


# -- How it ends -------------------------------------------------------------------------


@KINDS
def test_closing_a_stream_hangs_up(make: Make, server: OpenAIServer, kind: str) -> None:
    server.prepare(Reply(events=[EVENT, EVENT], trickle_s=60))

    async def leave() -> None:
        async with contextlib.aclosing(stream(make(), kind)) as pieces:
            await anext(pieces)
        await asyncio.wait_for(server.left_by(1), 30)

    asyncio.run(leave())


@KINDS
@pytest.mark.parametrize("events", [[], [EVENT]], ids=["before", "between"])
def test_cancelling_the_reader_of_a_stream_hangs_up(
    make: Make, server: OpenAIServer, kind: str, events: list[dict[str, Any]]
) -> None:
    server.prepare(Reply(events=[*events, EVENT], trickle_s=60) if events else Reply(delay_s=60))

    async def cancel() -> None:
        got: asyncio.Queue[str] = asyncio.Queue()

        async def reader() -> None:
            async for piece in stream(make(), kind):
                await got.put(piece)

        reading = asyncio.create_task(reader())
        await server.received(1)
        for _ in events:
            await got.get()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(server.left_by(1), 30)

    asyncio.run(cancel())


@KINDS
def test_a_stream_counts_as_in_flight_until_it_is_closed(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    server.prepare(Reply(events=[EVENT, EVENT], trickle_s=60))
    generator = make(max_connections=1)

    async def two() -> str:
        async with contextlib.aclosing(stream(generator, kind)) as pieces:
            await anext(pieces)
            other = asyncio.create_task(ask(generator, kind, "other"))
            # Long enough to be sent, were there a place.
            await asyncio.sleep(0.3)
            assert len(server.requests) == 1
        return str(await other)

    assert asyncio.run(two()) == "You said: other"
    assert server.peak == 1


@KINDS
def test_a_stream_that_is_cut_is_a_connection_error(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    server.prepare(Reply(events=[EVENT], cut=True))

    got: list[str] = []

    async def reader() -> None:
        async for piece in stream(make(), kind):
            got.append(piece)  # noqa: PERF401 (kept when the stream breaks off)

    with pytest.raises(error.ProviderConnectionError, match="litellm!openai/tiny") as caught:
        asyncio.run(reader())

    assert got == ["Hi "]
    assert caught.value.retryable
    assert KEY not in f"{caught.value!r}{caught.value}"
    assert len(server.requests) == 1


@KINDS
def test_a_stream_that_stalls_is_a_timeout(make: Make, server: OpenAIServer, kind: str) -> None:
    server.prepare(Reply(events=[EVENT, EVENT], trickle_s=60))

    with pytest.raises(error.ProviderTimeoutError, match="litellm!openai/tiny"):
        asyncio.run(asyncio.wait_for(read(stream(make(), kind, timeout=0.5)), 30))


@KINDS
def test_a_stream_that_drips_for_ever_is_a_timeout(
    make: Make, server: OpenAIServer, kind: str
) -> None:
    server.prepare(Reply(events=[EVENT] * 1000, trickle_s=0.1))

    with pytest.raises(error.ProviderTimeoutError, match=r"not complete after 0\.5 s"):
        asyncio.run(asyncio.wait_for(read(stream(make(), kind, timeout=0.5)), 30))


@KINDS
def test_a_reader_that_takes_its_time_does_not_run_into_the_timeout(make: Make, kind: str) -> None:
    async def slowly() -> list[Any]:
        got = []
        async for piece in stream(make(), kind, timeout=1):
            await asyncio.sleep(0.6)
            got.append(piece)
        return got

    assert asyncio.run(slowly())[:-1] == ["You ", "said: ", "Hi"]


@KINDS
@pytest.mark.parametrize(
    ("reply", "cls"),
    [
        pytest.param(Reply(error_body("slow down"), 429), error.RateLimitError, id="429"),
        pytest.param(Reply(error_body("no"), 400), error.BadRequestError, id="400"),
        pytest.param(Reply(drop=True), error.ProviderConnectionError, id="reset"),
        pytest.param(Reply("<html>Hi</html>"), error.ResponseError, id="html"),
        pytest.param(Reply(events=["data: [DONE]\n\n"]), error.ResponseError, id="nothing"),
    ],
)
def test_a_stream_that_never_begins_is_an_error_of_ours(
    make: Make, server: OpenAIServer, kind: str, reply: Reply, cls: type[error.GenerationError]
) -> None:
    server.prepare(reply)

    with pytest.raises(error.GenerationError, match="litellm!openai/tiny") as caught:
        asyncio.run(read(stream(make(), kind)))

    assert type(caught.value) is cls
    assert len(server.requests) == 1


def test_a_stream_without_a_reason_for_its_end_was_cut_short(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(Reply(events=[EVENT]))
    pieces: list[Any] = []

    async def main() -> None:
        async for piece in stream(make(), "chat"):
            pieces.append(piece)  # noqa: PERF401 (it raises)

    with pytest.raises(error.ProviderConnectionError, match="before a finish_reason") as caught:
        asyncio.run(main())

    assert pieces == ["Hi "]
    assert caught.value.retryable


def test_an_empty_conversation_is_refused(make: Make, server: OpenAIServer) -> None:
    with pytest.raises(error.InvalidMessageError, match="conversation is empty"):
        asyncio.run(read(make().stream_messages([], rg.GenerateParams())))
    assert server.requests == []


def test_streams_print_nothing(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    asyncio.run(read(stream(make(), "chat")))
    asyncio.run(read(stream(make(), "complete")))

    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("model", ["openai/tiny", "hosted_vllm/tiny", "groq/tiny"])
@pytest.mark.parametrize(
    "events",
    [
        pytest.param([{"hello": 1}], id="another-shape"),
        pytest.param([{"id": "c", "object": "x", "model": "m", "choices": []}], id="no-choices"),
        pytest.param(["data: [DONE]\n\n"], id="nothing"),
    ],
)
def test_a_stream_that_says_nothing_is_no_answer(
    make: Make, server: OpenAIServer, model: str, events: list[Any]
) -> None:
    server.usual = Reply(events=events)

    with pytest.raises(error.ResponseError, match="litellm!"):
        asyncio.run(read(stream(make(model), "chat")))
