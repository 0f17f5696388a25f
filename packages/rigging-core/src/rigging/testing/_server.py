"""An endpoint on loopback that speaks OpenAI's protocol, and breaks down on command."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from rigging.error import (
    AuthenticationError,
    BadRequestError,
    ContentFilterError,
    ContextLengthError,
    ModelNotFoundError,
    PermissionDeniedError,
    ProviderConnectionError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
    ResponseError,
)
from rigging.params import GenerateParams
from rigging.testing._answers import error_body, events_of, prompt_of, usual_body
from rigging.testing._http import Connection, HTTPRequest, HTTPServer
from rigging.testing._situations import Fault, SlowRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from rigging.error import GenerationError

__all__ = ["OpenAIServer", "ServerReply", "ServerRequest"]

#: In the text of a reply it stands for the key that the caller sent: endpoints repeat those.
_KEY: Final = "{key}"
_HOURS: Final = 3600.0  # seconds: longer than any test


@dataclass(frozen=True)
class ServerReply:
    """What to answer one request with. Without arguments: as usual.

    Attributes:
        body: A dict is sent as JSON and text as it is; None is the usual answer. ``{key}`` in
            it becomes the key that the caller sent.
        status: The HTTP status.
        headers: Further headers.
        delay_s: Seconds to wait before answering.
        drop: Close the connection instead of answering.
        raw: Write these bytes, whatever they are, and close the connection.
        trickle_s: Seconds between the single characters of a body that is text, and before
            each event of a stream but the first.
        events: What to stream, whatever was asked for: dicts as JSON, text as it is. None:
            where a stream is asked for, a body that is a dict is cut up into events.
        cut: Break the connection off in the midst of the answer; where ``events`` are given,
            after the last of them.
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

    @classmethod
    def refusal(
        cls,
        status: int,
        message: str = "refused; your key was {key}",
        *,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> ServerReply:
        """Refuse a request with an error in OpenAI's shape.

        Args:
            status: The HTTP status.
            message: Why.
            code: OpenAI's code, such as ``context_length_exceeded``.
            retry_after: Seconds to wait, for the header ``Retry-After``.
        """
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        return cls(error_body(message, code=code), status, headers)


@dataclass(frozen=True)
class ServerRequest:
    """A request as it arrived.

    Attributes:
        path: Below ``/v1``, or below the root.
        headers: As they were sent; found in any case.
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


class OpenAIServer(HTTPServer):
    """Serves ``chat/completions`` and ``completions``, below ``/v1`` and at the root.

    Usually it repeats what it was asked: up to ``max_tokens`` (a token is a word) and ``stop``,
    as a stream where one is asked for, and with ``tool_choice="required"`` as a call of the
    first tool. It runs in a thread, on an event loop of its own.

    Args:
        tls: To speak HTTPS.

    Attributes:
        requests: What arrived, in order.
        peak: The most requests that were in flight at once; a stream is until its end.
        hung_up: How many callers went away before their answer was complete.
        usual: What every request is answered with that no prepared reply is left for.
        replies: What a prompt is answered with that reads like this, before all others.

    Example:
        >>> import json, urllib.request
        >>> with OpenAIServer() as server:
        ...     asked = {"model": "any", "messages": [{"role": "user", "content": "Hello!"}]}
        ...     body = json.dumps(asked).encode()
        ...     with urllib.request.urlopen(f"{server.url}/chat/completions", body) as answer:
        ...         json.load(answer)["choices"][0]["message"]["content"]
        'You said: Hello!'
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

    def prepare(self, *replies: ServerReply) -> None:
        """Answer the next requests with these, one each."""
        self._prepared.extend(replies)

    def reset(self) -> None:
        """Forget what arrived and what was prepared."""
        self.requests: list[ServerRequest] = []
        self.peak = 0
        self.hung_up = 0
        self.usual = ServerReply()
        self.replies: dict[str, ServerReply] = {}
        self._prepared: deque[ServerReply] = deque()

    async def received(self, count: int) -> None:
        """Wait until this many requests have arrived."""
        while len(self.requests) < count:  # noqa: ASYNC110 (they arrive on another loop)
            await asyncio.sleep(0.005)

    async def left_by(self, count: int) -> None:
        """Wait until this many callers have hung up."""
        while self.hung_up < count:  # noqa: ASYNC110 (they do so on another loop)
            await asyncio.sleep(0.005)

    # -- For the contract ----------------------------------------------------------------

    def slow_request(self) -> SlowRequest:
        """Return the `SlowRequest` of a provider that asks this server."""
        prompt = "Take your time."
        self.replies[prompt] = ServerReply(delay_s=_HOURS)
        return SlowRequest(prompt=prompt, params=GenerateParams(), after_s=0.3)

    def faults(self) -> list[Fault]:
        """Return the faults of a provider that asks this server: one for each error there is."""
        refusal = ServerReply.refusal
        late = GenerateParams(timeout=0.3)
        return [
            self._fault(AuthenticationError, "401", refusal(401)),
            self._fault(PermissionDeniedError, "403", refusal(403)),
            self._fault(ModelNotFoundError, "404", refusal(404)),
            self._fault(BadRequestError, "400", refusal(400)),
            self._fault(
                ContextLengthError, "too long", refusal(400, code="context_length_exceeded")
            ),
            self._fault(
                ContentFilterError, "filtered", refusal(400, code="content_policy_violation")
            ),
            self._fault(RateLimitError, "429", refusal(429, retry_after=7), retry_after=7.0),
            self._fault(ProviderServerError, "500", refusal(500)),
            self._fault(ProviderTimeoutError, "504", refusal(504)),
            self._fault(ProviderTimeoutError, "no answer", ServerReply(delay_s=_HOURS), late),
            self._fault(ProviderConnectionError, "dropped", ServerReply(drop=True)),
            self._fault(ProviderConnectionError, "cut off", ServerReply(cut=True)),
            self._fault(ResponseError, "no JSON", ServerReply("{no json")),
        ]

    def _fault(
        self,
        error: type[GenerationError],
        name: str,
        reply: ServerReply,
        params: GenerateParams | None = None,
        retry_after: float | None = None,
    ) -> Fault:
        prompt = f"Fail like this: {name}."
        self.replies[prompt] = reply
        return Fault(
            error=error,
            name=name,
            prompt=prompt,
            params=params or GenerateParams(),
            retry_after=retry_after,
        )

    # -- Answering -----------------------------------------------------------------------

    async def answer(self, request: HTTPRequest, connection: Connection) -> None:
        """Record a request and answer it."""
        at = time.monotonic()
        url = urlsplit(request.target)
        path = unquote(url.path).removeprefix("/").removeprefix("v1/")
        try:
            asked = json.loads(request.body)
        except ValueError:
            connection.send(*_json(400, {}, error_body("the body is no JSON")))
            return
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        arrived = ServerRequest(path, request.headers, asked, at, query, request.port)
        self._in_flight += 1
        self.peak = max(self.peak, self._in_flight)
        self.requests.append(arrived)
        try:
            await _send(arrived, self._reply(arrived), connection)
        except asyncio.CancelledError:
            self.hung_up += 1
            raise
        finally:
            self._in_flight -= 1

    def _reply(self, request: ServerRequest) -> ServerReply:
        if self.replies and (prompt := prompt_of(request.path, request.body)) in self.replies:
            return self.replies[prompt]
        return self._prepared.popleft() if self._prepared else self.usual


async def _send(request: ServerRequest, reply: ServerReply, connection: Connection) -> None:
    if reply.delay_s:
        await asyncio.sleep(reply.delay_s)
    if reply.drop:
        connection.abort()
    elif reply.raw is not None:
        connection.write(reply.raw)
        connection.close()
    elif (events := _events(request, reply)) is not None:
        await _stream(events, reply, connection)
    elif isinstance(reply.body, str):
        headers = {"Content-Type": "text/html; charset=utf-8", **reply.headers}
        body = _with_key(reply.body, request).encode()
        if reply.trickle_s:
            await _trickle(reply.status, headers, body, reply.trickle_s, connection)
        else:
            connection.send(reply.status, headers, body)
    else:
        content = usual_body(request.path, request.body) if reply.body is None else reply.body
        status, headers, body = _json(reply.status, reply.headers, content, request)
        if reply.cut:
            connection.begin(status, {"Content-Length": str(len(body)), **headers})
            connection.write(body[: len(body) // 2])
            connection.close()
        else:
            connection.send(status, headers, body)


async def _stream(
    events: Sequence[dict[str, Any] | str], reply: ServerReply, connection: Connection
) -> None:
    headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    connection.begin(reply.status, {**headers, **reply.headers})
    for number, event in enumerate(events):
        if reply.trickle_s and number:
            await asyncio.sleep(reply.trickle_s)
        text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
        if text:
            connection.chunk(text.encode())
    if reply.cut:
        # Not `abort`, which would throw away what has not left yet.
        connection.close()
        return
    if events and isinstance(events[-1], dict):
        connection.chunk(b"data: [DONE]\n\n")
    connection.chunk(b"")


async def _trickle(
    status: int, headers: Mapping[str, str], body: bytes, pause_s: float, connection: Connection
) -> None:
    connection.begin(status, {"Transfer-Encoding": "chunked", **headers})
    for place in range(len(body)):
        connection.chunk(body[place : place + 1])
        await asyncio.sleep(pause_s)
    connection.chunk(b"")


def _events(request: ServerRequest, reply: ServerReply) -> Sequence[dict[str, Any] | str] | None:
    """Return what to stream; None where the answer comes whole."""
    if reply.events is not None:
        return reply.events
    if not request.body.get("stream") or not reply.stream:
        return None
    if reply.status != 200 or isinstance(reply.body, str):
        return None
    body = usual_body(request.path, request.body) if reply.body is None else reply.body
    events = list(events_of(body, request.body)) if body.get("choices") else [body]
    return events[: len(events) // 2] if reply.cut else events


def _json(
    status: int,
    headers: Mapping[str, str],
    body: dict[str, Any],
    request: ServerRequest | None = None,
) -> tuple[int, dict[str, str], bytes]:
    text = json.dumps(body)
    if request is not None:
        text = _with_key(text, request)
    return status, {"Content-Type": "application/json", **headers}, text.encode()


def _with_key(text: str, request: ServerRequest) -> str:
    """Put the caller's key where the reply repeats it."""
    if _KEY not in text:
        return text
    return text.replace(_KEY, request.headers.get("Authorization", "").removeprefix("Bearer "))
