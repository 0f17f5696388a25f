"""The kit's server, asked by a plain HTTP client."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import rigging as rg
from rigging.testing import OpenAIServer, ServerReply

pytest_plugins = ["rigging.testing.fixtures"]

HI = {"model": "tiny", "messages": [{"role": "user", "content": "Hi there"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}}


@pytest.fixture
def client(openai_server: OpenAIServer) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", openai_server.port, timeout=30)
    yield client
    client.close()


def ask(
    client: http.client.HTTPConnection, path: str = "/v1/chat/completions", **more: Any
) -> http.client.HTTPResponse:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-mine"}
    client.request("POST", path, json.dumps({**HI, "prompt": "Hi there", **more}), headers)
    return client.getresponse()


def answer(client: http.client.HTTPConnection, **more: Any) -> dict[str, Any]:
    response = ask(client, **more)
    assert response.status == 200
    return dict(json.load(response))


def events(response: http.client.HTTPResponse) -> list[Any]:
    lines = [line for line in response.read().decode().split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_chat_and_a_text_are_repeated(client: http.client.HTTPConnection) -> None:
    (chat,) = answer(client)["choices"]
    (text,) = answer(client, path="/completions")["choices"]

    assert chat["message"] == {"role": "assistant", "content": "You said: Hi there"}
    assert (text["text"], text["finish_reason"]) == ("You said: Hi there", "stop")


@pytest.mark.parametrize(
    ("asked", "text", "reason"),
    [
        pytest.param({"max_tokens": 2}, "You said:", "length", id="max_tokens"),
        pytest.param({"max_tokens": 4}, "You said: Hi there", "stop", id="just-enough"),
        pytest.param({"stop": ["there"]}, "You said: Hi", "stop", id="stop"),
    ],
)
def test_an_answer_is_cut_off_where_it_was_asked_for(
    client: http.client.HTTPConnection, asked: dict[str, Any], text: str, reason: str
) -> None:
    body = answer(client, **asked)

    assert body["choices"][0]["message"]["content"] == text
    assert body["choices"][0]["finish_reason"] == reason
    assert body["usage"]["completion_tokens"] == len(text.split())


def test_a_tool_is_called_where_it_has_to_be(client: http.client.HTTPConnection) -> None:
    (choice,) = answer(client, tools=[TOOL], tool_choice="required")["choices"]

    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"x": "any"}'}
    assert choice["finish_reason"] == "tool_calls"


def test_a_stream_says_what_a_whole_answer_says(client: http.client.HTTPConnection) -> None:
    response = ask(client, stream=True, stream_options={"include_usage": True})
    *chunks, usage = events(response)

    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert deltas == ["", "You ", "said: ", "Hi ", "there", ""]
    assert response.headers["Content-Type"] == "text/event-stream"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["total_tokens"] == 7


def test_a_tool_call_is_streamed_in_pieces(client: http.client.HTTPConnection) -> None:
    chunks = events(ask(client, stream=True, tools=[TOOL], tool_choice="required"))

    calls = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks]
    pieces = [call[0]["function"]["arguments"] for call in calls if call]
    assert "".join(pieces) == '{"x": "any"}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_requests_are_recorded(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    answer(client, path="/v1/chat/completions?version=2")
    answer(client, path="/completions")

    first, second = openai_server.requests
    assert (first.path, first.query) == ("chat/completions", {"version": "2"})
    assert first.headers["Authorization"] == first.headers["AUTHORIZATION"] == "Bearer sk-mine"
    assert "Authorization" in repr(first)
    assert len(first.headers) == len(dict(first.headers)) > 3
    assert first.body["messages"] == HI["messages"]
    assert second.path == "completions"
    assert first.connection == second.connection
    assert first.at <= second.at


def test_a_refusal_says_why_and_for_how_long_and_repeats_the_key(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.prepare(ServerReply.refusal(429, "slow down, {key}", code="x", retry_after=7))
    response = ask(client)

    assert (response.status, response.headers["Retry-After"]) == (429, "7")
    assert json.load(response)["error"]["message"] == "slow down, sk-mine"
    assert answer(client)["choices"]


def test_prepared_replies_come_first_then_the_usual_one(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.usual = ServerReply({"usual": True})
    openai_server.replies["Hi there"] = ServerReply({"certain": True})
    openai_server.prepare(ServerReply({"prepared": True}))

    certain = answer(client)
    del openai_server.replies["Hi there"]

    assert [certain, answer(client), answer(client)] == [
        {"certain": True},
        {"prepared": True},
        {"usual": True},
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_can_break_off(
    client: http.client.HTTPConnection, openai_server: OpenAIServer, stream: bool
) -> None:
    openai_server.prepare(ServerReply(cut=True))
    response = ask(client, stream=stream)

    assert response.status == 200
    with pytest.raises(http.client.IncompleteRead):
        response.read()


def test_a_connection_can_be_dropped(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.prepare(ServerReply(drop=True))

    with pytest.raises(ConnectionError):
        ask(client)


def test_a_body_of_text_is_sent_as_it_is(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.prepare(ServerReply("<html>Ö"), ServerReply("abc", trickle_s=0.001))

    assert ask(client).read() == "<html>Ö".encode()
    assert ask(client).read() == b"abc"


def test_events_are_streamed_whatever_was_asked_for(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.prepare(ServerReply(events=["data: {no json\n\n", {"a": 1}], trickle_s=0.001))

    assert ask(client).read() == b'data: {no json\n\ndata: {"a": 1}\n\ndata: [DONE]\n\n'


def test_who_hangs_up_is_in_flight_no_more(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.prepare(ServerReply(delay_s=3600))
    client.request("POST", "/v1/chat/completions", json.dumps(HI))
    wait_until(lambda: openai_server.requests)

    client.close()
    wait_until(lambda: openai_server.hung_up)

    assert (openai_server.hung_up, openai_server.peak) == (1, 1)


def test_requests_at_once_are_counted(openai_server: OpenAIServer) -> None:
    openai_server.usual = ServerReply(delay_s=0.2)
    barrier = threading.Barrier(4)

    def one(_: int) -> int:
        client = http.client.HTTPConnection("127.0.0.1", openai_server.port, timeout=30)
        client.connect()
        barrier.wait()
        status = ask(client).status
        client.close()
        return status

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(4))) == [200] * 4
    assert openai_server.peak > 1
    wait_until(lambda: not openai_server.open_connections)


def test_what_is_no_json_is_a_bad_request(client: http.client.HTTPConnection) -> None:
    client.request("POST", "/v1/chat/completions", "{no json")

    assert client.getresponse().status == 400


def test_what_is_no_http_is_told_so(openai_server: OpenAIServer) -> None:
    with socket.create_connection(("127.0.0.1", openai_server.port), timeout=30) as plain:
        plain.sendall(b"\x16\x03\x01 something else")
        received = b"".join(iter(lambda: plain.recv(1024), b""))

    assert received.startswith(b"HTTP/1.1 400 ")


def test_a_request_may_come_in_pieces(openai_server: OpenAIServer) -> None:
    body = json.dumps(HI).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", openai_server.port), timeout=30) as plain:
        for piece in (head[:10], head[10:] + body[:5], body[5:]):
            plain.sendall(piece)
            time.sleep(0.01)
        received = plain.recv(65536)

    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_port_that_is_taken_is_an_error(openai_server: OpenAIServer) -> None:
    other = OpenAIServer()
    other.port = openai_server.port

    with pytest.raises(OSError, match="ddress already in use"), other:
        pass


def test_there_is_a_fault_for_every_error(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    faults = openai_server.faults()
    errors = {
        error
        for name in rg.error.__all__
        if issubclass(error := getattr(rg.error, name), rg.error.GenerationError)
    }

    assert {fault.error for fault in faults} == errors - {rg.error.GenerationError}
    (refused,) = [fault for fault in faults if fault.name == "401"]
    assert ask(client, messages=[{"role": "user", "content": refused.prompt}]).status == 401


def test_a_slow_request_lasts(openai_server: OpenAIServer) -> None:
    slow = openai_server.slow_request()

    assert openai_server.replies[slow.prompt].delay_s > 600


def test_what_is_awaited_of_a_server_comes(
    client: http.client.HTTPConnection, openai_server: OpenAIServer
) -> None:
    openai_server.prepare(ServerReply(delay_s=3600))
    client.request("POST", "/v1/chat/completions", json.dumps(HI))

    async def wait() -> None:
        await openai_server.received(1)
        client.close()
        await openai_server.left_by(1)

    asyncio.run(wait())


def wait_until(true: Any) -> None:
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)
