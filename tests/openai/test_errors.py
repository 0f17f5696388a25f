"""Failures, as they reach the caller: uniform, once, and without a key."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging import error
from rigging_openai._refusals import RefusedAnswerError
from tests.support.faults import (
    ALL_FAULTS,
    IN_AN_ANSWER,
    KEY,
    PIECE,
    STREAMED,
    WHOLE,
    Bad,
    Broken,
    Cut,
    Failed,
    Fault,
    Limit,
    Long,
    Unknown,
    ask,
    check,
    refused,
)
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_openai import OpenAIGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., OpenAIGenerator]


CHOICE = {"index": 0, "text": "", "message": {"role": "assistant", "content": ""}}
DEEP: dict[str, Any] = {}
for _ in range(600):
    DEEP = {"a": DEEP}
DEEP_CHOICE = {"index": 0, "text": "a", "message": {"content": "a", "x": DEEP}, "delta": DEEP}

# Other providers leave it to their library what becomes of these.
ON_THE_WAY = {
    "redirect-nowhere": Fault(Reply("", 307, {"Location": "http://["}), Broken),
}
IN_A_WHOLE_ANSWER = {
    "deep": Fault(Reply({"choices": [DEEP_CHOICE]}), Broken),
    "error-of-a-choice": Fault(Reply({"choices": [{**CHOICE, **IN_AN_ANSWER}]}), Limit, None, True),
}
IN_A_STREAM = {
    "deep": Fault(Reply(events=[PIECE, {"choices": [DEEP_CHOICE]}]), Broken),
    "error-of-a-choice": Fault(
        Reply(events=[PIECE, {"choices": [{"index": 0, **IN_AN_ANSWER}]}]), Limit, None, True
    ),
    "error-event": Fault(
        Reply(events=[PIECE, f'event: error\ndata: {{"message": "{KEY}", "code": 429}}\n\n']),
        Limit,
        None,
        True,
    ),
    "error-event-in-words": Fault(
        Reply(events=[PIECE, f"event: error\ndata: {'x' * 290} {KEY}\n\n"]), Failed, None, True
    ),
    "error-event-without-words": Fault(
        Reply(events=[PIECE, "event: error\ndata:\n\n"]), Failed, None, True
    ),
}
OWN_FAULTS = {
    f"{name}-{way}": (fault, way)
    for faults, ways in (
        (ON_THE_WAY, (*WHOLE, *STREAMED)),
        (IN_A_WHOLE_ANSWER, WHOLE),
        (IN_A_STREAM, STREAMED),
    )
    for name, fault in faults.items()
    for way in ways
}


@pytest.mark.parametrize("name", [*ALL_FAULTS, *OWN_FAULTS])
def test_a_fault_is_the_error_of_ours_and_reaches_the_server_once(
    make: Make, server: OpenAIServer, name: str
) -> None:
    fault, way = {**ALL_FAULTS, **OWN_FAULTS}[name]
    server.usual = fault.reply

    with pytest.raises(error.GenerationError, match="openai!tiny") as caught:
        asyncio.run(ask(make(**fault.params), way))

    check(caught.value, fault, "openai", "tiny")
    assert isinstance(caught.value.__cause__, RefusedAnswerError) == (fault.status is not None)
    assert len(server.requests) == 1


OTHERS: list[tuple[str, Any, int, type[error.GenerationError]]] = [
    ("vllm", {"object": "error", "message": "bad", "code": 400}, 400, Bad),
    ("vllm", {"error": {"message": "maximum context length", "code": 400}}, 400, Long),
    ("vllm", {"error": {"message": "The model `x` does not exist.", "code": 404}}, 404, Unknown),
    ("ollama", {"error": {"message": "model 'x' not found", "type": "api_error"}}, 404, Unknown),
    ("ollama", {"error": "boom"}, 500, Failed),
    ("fastapi", {"detail": [{"loc": ["body", "top_k"], "msg": "no"}]}, 422, Bad),
    ("fastapi", {"detail": "Not Found"}, 404, Unknown),
    ("openrouter", {"error": {"message": "no", "code": 429}}, 429, Limit),
    ("llama.cpp", {"error": {"code": 500, "message": "no", "type": "server_error"}}, 500, Failed),
]


@pytest.mark.parametrize(
    ("body", "status", "cls"), [pytest.param(*row[1:], id=f"{row[0]}-{row[2]}") for row in OTHERS]
)
def test_other_servers_refusals_are_the_same_errors(
    make: Make,
    server: OpenAIServer,
    body: Any,
    status: int,
    cls: type[error.GenerationError],
) -> None:
    server.usual = Reply(body, status)

    with pytest.raises(error.GenerationError, match=r"\[openai!tiny, status") as caught:
        asyncio.run(ask(make(), "chat"))

    assert type(caught.value) is cls


@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
def test_nobody_there_is_a_connection_error(make: Make, way: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        base = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(error.ProviderConnectionError, match=r"onnect") as caught:
            asyncio.run(ask(make(api_base=base), way))

    check(caught.value, Fault(Reply(), Cut, None, True), "openai", "tiny")


@pytest.mark.parametrize(
    ("base", "cls", "retryable", "text"),
    [
        pytest.param("http://nowhere.invalid/v1", Cut, True, "nowhere", id="no-such-host"),
        pytest.param("https://{host}/v1", Cut, False, "SSL", id="no-tls"),
        pytest.param("{host}/v1", Bad, False, "http://host:port/v1", id="no-scheme"),
        pytest.param("ftp://{host}/v1", Bad, False, "http://host:port/v1", id="other-scheme"),
        pytest.param("http:///v1", Bad, False, "http://host:port/v1", id="no-host"),
        pytest.param("http://[", Bad, False, "http://host:port/v1", id="half-a-host"),
        pytest.param("http://x\u2100y/v1", Bad, False, "http://host:port/v1", id="two-hosts"),
        pytest.param("http://{host}/v1\r\nX: y", Bad, False, "api_base holds a line", id="lines"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_from_a_broken_answer(
    make: Make,
    server: OpenAIServer,
    base: str,
    cls: type[error.GenerationError],
    retryable: bool,
    text: str,
) -> None:
    host = server.root.removeprefix("http://")

    with pytest.raises(error.GenerationError, match=text) as caught:
        asyncio.run(ask(make(api_base=base.format(host=host)), "chat"))

    check(caught.value, Fault(Reply(), cls, None, retryable), "openai", "tiny")
    assert server.requests == []


def test_openai_is_not_asked_without_a_key(make: Make) -> None:
    with pytest.raises(error.AuthenticationError, match="OPENAI_API_KEY") as caught:
        asyncio.run(ask(make(api_base=None, api_key=None), "chat"))

    assert caught.value.status is None


def test_a_refusal_without_a_key_says_that_none_was_sent(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(error_body("no"), 401)

    with pytest.raises(error.AuthenticationError, match=r"no \(no key was sent: set OPENAI"):
        asyncio.run(ask(make(api_key=None), "chat"))


@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
def test_an_answer_that_comes_in_drops_is_ended(make: Make, server: OpenAIServer, way: str) -> None:
    server.usual = Reply("x" * 600, trickle_s=0.1)

    with pytest.raises(error.ProviderTimeoutError, match=r"not complete after 0\.3 s") as caught:
        asyncio.run(ask(make(timeout=0.3), way))

    assert caught.value.retryable


def test_the_time_between_two_pieces_is_limited(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(delay_s=60)

    with pytest.raises(error.ProviderTimeoutError, match="reading") as caught:
        asyncio.run(ask(make(read_timeout=0.3), "chat"))

    check(
        caught.value, Fault(server.usual, error.ProviderTimeoutError, None, True), "openai", "tiny"
    )


def test_the_time_for_a_connection_is_limited(make: Make) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        # The queue of a listener that accepts nobody takes a connection or two.
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)
            base = f"http://127.0.0.1:{address[1]}/v1"
            with pytest.raises(error.ProviderTimeoutError, match="onnect") as caught:
                asyncio.run(ask(make(api_base=base, connect_timeout=0.3), "chat"))

    assert caught.value.retryable


@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
def test_a_cancelled_request_is_cancelled_and_no_error(
    make: Make, server: OpenAIServer, way: str
) -> None:
    server.usual = Reply(delay_s=60)

    async def run() -> None:
        asking = asyncio.create_task(ask(make(), way))
        await server.received(1)
        asking.cancel("enough")
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(server.left_by(1), 30)

    asyncio.run(run())


def test_one_items_failure_is_nobody_elses(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(), refused(400), Reply())
    generator = make(max_connections=1)
    texts = ["one", "two", "three"]

    one, two, three = asyncio.run(generator.generate_texts(texts, [rg.GenerateParams()] * 3))

    assert (str(one), str(three)) == ("You said: one", "You said: three")
    assert isinstance(two, error.BadRequestError)


@pytest.mark.parametrize("value", [object(), {1, 2}, rg.GenerateParams])
def test_what_has_no_json_is_refused_before_anything_is_sent(
    make: Make, server: OpenAIServer, value: Any
) -> None:
    with pytest.raises(error.BadRequestError, match="the request has no JSON"):
        asyncio.run(make().chat("Hi").with_(extra={"response_format": value}).run())

    assert server.requests == []


def test_a_tool_call_that_is_none_breaks_the_protocol(make: Make, server: OpenAIServer) -> None:
    message = {"role": "assistant", "tool_calls": [{"function": {}}]}
    server.usual = Reply({"choices": [{"message": message}]})

    with pytest.raises(Broken, match="no valid message"):
        asyncio.run(ask(make(), "chat"))
