"""An OpenAI-compatible HTTP server on loopback.

It answers, records what it was asked and when, and breaks down on command.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.support.loopback import LoopbackServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["OpenAIServer", "Reply", "Request", "error_body"]


@dataclass(frozen=True)
class Reply:
    """What to answer one request with.

    Attributes:
        body: A dict is sent as JSON and text as it is; None is the usual answer.
        status: The HTTP status.
        headers: Further headers.
        delay_s: Seconds to wait before answering.
        drop: Close the connection instead of answering.
        raw: Write these bytes, whatever they are, and close the connection.
        trickle_s: Seconds between the single characters of a body that is text, and before
            each event of a stream but the first.
        events: What to stream, whatever was asked for: dicts as JSON, text as it is. None:
            where a stream is asked for, a body that is a dict is cut up into events.
        cut: Break the connection off after the events, before the stream's end.
        stream: False: answer whole, even where a stream was asked for.
    """

    body: dict[str, Any] | str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: bool = False
    raw: bytes | None = None
    trickle_s: float = 0.0
    events: Sequence[dict[str, Any] | str] | None = None
    cut: bool = False
    stream: bool = True


@dataclass(frozen=True)
class Request:
    """A request as it arrived.

    Attributes:
        path: Below ``/v1``, or below the root.
        headers: As they were sent.
        body: The JSON.
        at: `time.monotonic`.
        query: Names and values behind the path.
        connection: The caller's port, which tells connections apart.
    """

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float
    query: Mapping[str, str] = field(default_factory=dict)
    connection: int = 0


class OpenAIServer(LoopbackServer):
    """Serves ``chat/completions`` and ``completions``, below ``/v1`` and at the root.

    Attributes:
        requests: What arrived, in order.
        peak: The most requests that were in flight at once; a stream is until its end.
        hung_up: How many callers went away before their answer was complete.
        usual: What every request is answered with that no prepared reply is left for.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self._scheme = "http" if tls is None else "https"
        self._in_flight = 0
        self.reset()

    @property
    def root(self) -> str:
        """The address without a path."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The ``api_base``."""
        return f"{self.root}/v1"

    def prepare(self, *replies: Reply) -> None:
        """Answer the next requests with these, one each."""
        self._prepared.extend(replies)

    async def received(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        while len(self.requests) < count:  # noqa: ASYNC110 (they arrive on another loop)
            await asyncio.sleep(0.005)

    async def left_by(self, count: int) -> None:
        """Wait until this many callers have hung up."""
        while self.hung_up < count:  # noqa: ASYNC110 (they do so on another loop)
            await asyncio.sleep(0.005)

    def reset(self) -> None:
        """Forget what arrived and what was prepared."""
        self.requests: list[Request] = []
        self.peak = 0
        self.hung_up = 0
        self.usual = Reply()
        self._prepared: deque[Reply] = deque()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/{path:.*}", self._handle)
        router.add_post("/{path:.*}", self._handle)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at = time.monotonic()
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        try:
            body = await request.json()
            path = request.match_info["path"]
            self.requests.append(
                Request(
                    path,
                    dict(request.headers),
                    body,
                    at,
                    dict(request.query),
                    request.get_extra_info("peername")[1],
                )
            )
            reply = self._prepared.popleft() if self._prepared else self.usual
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
            events = _events(path, body, reply)
            if events is not None:
                return await _stream(request, reply, events)
        except (asyncio.CancelledError, ConnectionError):
            self.hung_up += 1
            raise
        finally:
            self._in_flight -= 1
        if reply.drop:
            assert request.transport is not None
            request.transport.abort()
        if reply.raw is not None:
            assert request.transport is not None
            request.transport.write(reply.raw)
            request.transport.close()
        if reply.trickle_s:
            return await _trickle(request, reply)
        if isinstance(reply.body, str):
            return web.Response(
                text=reply.body,
                status=reply.status,
                headers=reply.headers,
                content_type="text/html",
            )
        content = _usual_body(path, body) if reply.body is None else reply.body
        return web.json_response(content, status=reply.status, headers=reply.headers)


async def _trickle(request: web.Request, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    with contextlib.suppress(ConnectionError):  # nobody needs to wait for the end
        await response.prepare(request)
        for character in str(reply.body):
            await response.write(character.encode())
            await asyncio.sleep(reply.trickle_s)
    return response


async def _stream(
    request: web.Request, reply: Reply, events: Sequence[dict[str, Any] | str]
) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", **reply.headers}
    response = web.StreamResponse(status=reply.status, headers=headers)
    await response.prepare(request)
    for number, event in enumerate(events):
        if reply.trickle_s and number:
            await asyncio.sleep(reply.trickle_s)
        text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
        await response.write(text.encode())
    if reply.cut:
        assert request.transport is not None
        request.transport.abort()
    elif events and isinstance(events[-1], dict):
        await response.write(b"data: [DONE]\n\n")
    return response


def error_body(message: str, *, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


def _events(
    path: str, asked: Mapping[str, Any], reply: Reply
) -> Sequence[dict[str, Any] | str] | None:
    """Return what to stream; None where the answer comes whole."""
    if reply.events is not None:
        return reply.events
    whole = reply.status == 200 and not isinstance(reply.body, str) and not reply.drop
    whole = whole and reply.raw is None
    if not asked.get("stream") or not whole or not reply.stream:
        return None
    body = _usual_body(path, asked) if reply.body is None else reply.body
    return list(_cut_up(body, asked)) if body.get("choices") else [body]


def _cut_up(body: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a whole answer as the chunks that OpenAI would send."""
    frame = {key: value for key, value in body.items() if key not in {"choices", "usage"}}
    frame["object"] = str(body.get("object", "")).replace(
        "chat.completion", "chat.completion.chunk"
    )
    (choice,) = body["choices"]
    rest = {key: value for key, value in choice.items() if key not in {"message", "text"}}
    open_ = {**rest, "finish_reason": None}
    if "text" in choice:
        parts: list[dict[str, Any]] = [{"text": word} for word in _words(choice["text"])]
        last: dict[str, Any] = {"text": ""}
    else:
        parts = [{"delta": delta} for delta in _deltas(choice["message"])]
        last = {"delta": {}}
    for part in parts:
        yield {**frame, "choices": [{**open_, **part}]}
    yield {**frame, "choices": [{**rest, **last}]}
    if (asked.get("stream_options") or {}).get("include_usage") and "usage" in body:
        yield {**frame, "choices": [], "usage": body["usage"]}


def _deltas(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield {"role": message["role"], "content": ""}
    for name, value in message.items():
        if name == "tool_calls":
            for index, call in enumerate(value):
                function = call["function"]
                head = {**call, "function": {**function, "arguments": ""}}
                yield {"tool_calls": [{"index": index, **head}]}
                for piece in _words(function["arguments"]):
                    yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
        elif isinstance(value, str) and name != "role":
            for piece in _words(value):
                yield {name: piece}
        elif name != "role" and value is not None:
            yield {name: value}


def _words(text: str) -> list[str]:
    """Cut a text into its words, each with the blanks behind it."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def _usual_body(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Repeat what was asked, up to ``max_tokens``; a token is a word."""
    chat = path == "chat/completions"
    prompts = [str(m["content"]) for m in body["messages"]] if chat else [str(body["prompt"])]
    words = f"You said: {prompts[-1]}".split()
    kept = words[: body.get("max_tokens")]
    text = " ".join(kept)
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    read = sum(len(prompt.split()) for prompt in prompts) + 1  # and one that begins it all
    return {
        "id": "reply-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": f"{body['model']}-2024",
        "choices": [
            {"index": 0, "finish_reason": "length" if len(kept) < len(words) else "stop", **said}
        ],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": len(kept),
            "total_tokens": read + len(kept),
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
