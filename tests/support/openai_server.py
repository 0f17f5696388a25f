"""An OpenAI-compatible HTTP server on loopback, in a thread of its own.

It answers, records what it was asked and when, and breaks down on command. It runs on an
event loop of its own, so what it measures is not bent by the loop under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

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
        trickle_s: Seconds between the single characters of a body that is text.
    """

    body: dict[str, Any] | str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drop: bool = False
    trickle_s: float = 0.0


@dataclass(frozen=True)
class Request:
    """A request as it arrived; ``at`` is `time.monotonic`."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float


class OpenAIServer:
    """Serves ``/v1/chat/completions`` and ``/v1/completions``, as a context manager.

    Attributes:
        requests: What arrived, in order.
        peak: The most requests that were in flight at once.
        usual: What every request is answered with that no prepared reply is left for.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.peak = 0
        self.usual = Reply()
        self._prepared: deque[Reply] = deque()
        self._in_flight = 0
        self._port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="openai-server", daemon=True
        )

    @property
    def url(self) -> str:
        """The ``api_base``."""
        return f"http://127.0.0.1:{self._port}/v1"

    def prepare(self, *replies: Reply) -> None:
        """Answer the next requests with these, one each."""
        self._prepared.extend(replies)

    async def received(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        while len(self.requests) < count:  # noqa: ASYNC110 (they arrive on another loop)
            await asyncio.sleep(0.005)

    def reset(self) -> None:
        """Forget what arrived and what was prepared."""
        self.requests.clear()
        self._prepared.clear()
        self.usual = Reply()
        self.peak = 0

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(timeout=10)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/{path:.*}", self._handle)
        # A caller that hangs up is in flight no more.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        at = time.monotonic()
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        try:
            body = await request.json()
            path = request.match_info["path"]
            self.requests.append(Request(path, dict(request.headers), body, at))
            reply = self._prepared.popleft() if self._prepared else self.usual
            if reply.delay_s:
                await asyncio.sleep(reply.delay_s)
        finally:
            self._in_flight -= 1
        if reply.drop:
            assert request.transport is not None
            request.transport.abort()
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


def error_body(message: str, *, code: str | None = None) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": message, "type": "error", "param": None, "code": code}}


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
