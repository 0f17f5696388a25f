"""What can go wrong at an endpoint, and what must come of it, whichever provider asks.

One table for all remote providers. A server on loopback does what a fault says; `ask` makes the
request in one of four ways, and `check` looks at the error that reached the caller.
"""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import json
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

import rigging as rg
from rigging import error
from tests.support.exposure import shown
from tests.support.openai_server import Reply, error_body

__all__ = [
    "ALL_FAULTS",
    "BEGINNINGS",
    "FAULTS",
    "IN_AN_ANSWER",
    "KEY",
    "NOT_BEGUN",
    "PIECE",
    "STREAMED",
    "TOO_LONG",
    "WHOLE",
    "WHOLE_FAULTS",
    "Fault",
    "ask",
    "check",
    "refused",
]

#: The planted key: whatever shows it has failed.
KEY: Final = "sk-planted-51c7e0d2"

WHOLE: Final = ("chat", "text")
STREAMED: Final = ("streamed chat", "streamed text")


@dataclass(frozen=True)
class Fault:
    """What a server does, and what the caller gets."""

    reply: Reply
    cls: type[error.GenerationError]
    status: int | None = None
    retryable: bool = False
    retry_after: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)


def refused(
    status: int,
    message: str = "refused",
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Refuse a request, and repeat its key."""
    body = error_body(f"{message}, you said {KEY}", code=code)
    return Reply(body, status, headers or {})


def raw(*lines: str, body: bytes = b"") -> Reply:
    head = ["HTTP/1.1 200 OK", "Content-Type: application/json", *lines]
    return Reply(raw="\r\n".join([*head, "", ""]).encode() + body)


TOO_LONG = "This model's maximum context length is 4097 tokens, your messages have 5000"
FILTERED = {
    "error": {
        "message": "The response was filtered",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation"},
    }
}
IN_AN_HOUR = email.utils.formatdate(time.time() + 3600, usegmt=True)
ABOUT_AN_HOUR = pytest.approx(3600, abs=1800)  # the table may be older than the test
CHUNK = {"object": "chat.completion.chunk", "model": "tiny", "id": "1", "created": 1}
PIECE = CHUNK | {"choices": [{"index": 0, "text": "a", "delta": {"content": "a"}}]}

Bad = error.BadRequestError
Long = error.ContextLengthError
Filter = error.ContentFilterError
Denied = error.PermissionDeniedError
Unknown = error.ModelNotFoundError
Late = error.ProviderTimeoutError
Limit = error.RateLimitError
Failed = error.ProviderServerError
Cut = error.ProviderConnectionError
Broken = error.ResponseError

FAULTS = {
    "300": Fault(refused(300), Broken, 300),
    "400": Fault(refused(400), Bad, 400),
    "400-context-text": Fault(refused(400, TOO_LONG), Long, 400),
    "400-context-other-text": Fault(
        refused(400, "longer than the maximum model length"), Long, 400
    ),
    "400-context-code": Fault(refused(400, code="context_length_exceeded"), Long, 400),
    "400-content-code": Fault(refused(400, code="content_policy_violation"), Filter, 400),
    "400-content-azure": Fault(Reply(FILTERED, 400), Filter, 400),
    "401": Fault(refused(401), error.AuthenticationError, 401),
    "402": Fault(refused(402), Denied, 402),
    "403": Fault(refused(403), Denied, 403),
    "404": Fault(refused(404), Unknown, 404),
    "404-html": Fault(Reply("<html>Not Found</html>", 404), Unknown, 404),
    "408": Fault(refused(408), Late, 408, retryable=True),
    "409": Fault(refused(409), Bad, 409),
    "410": Fault(refused(410), Unknown, 410),
    "413": Fault(refused(413), Bad, 413),
    "422": Fault(refused(422), Bad, 422),
    "429": Fault(refused(429), Limit, 429, True),
    "429-seconds": Fault(refused(429, headers={"Retry-After": "7"}), Limit, 429, True, 7.0),
    "429-date": Fault(
        refused(429, headers={"Retry-After": IN_AN_HOUR}), Limit, 429, True, ABOUT_AN_HOUR
    ),
    "429-milliseconds": Fault(
        refused(429, headers={"Retry-After": "7", "retry-after-ms": "6500"}), Limit, 429, True, 6.5
    ),
    "429-nonsense": Fault(refused(429, headers={"Retry-After": "soon"}), Limit, 429, True),
    "429-for-ever": Fault(refused(429, headers={"Retry-After": "inf"}), Limit, 429, True),
    "429-absurd-year": Fault(
        refused(429, headers={"Retry-After": f"Wed, 21 Oct {9:9<20} 07:28:00 GMT"}),
        Limit,
        429,
        True,
    ),
    "429-absurd-offset": Fault(
        refused(429, headers={"Retry-After": f"Wed, 21 Oct 2015 07:28:00 +{9:9<20}"}),
        Limit,
        429,
        True,
    ),
    "429-quota": Fault(refused(429, code="insufficient_quota"), Limit, 429, False),
    "429-quota-masked-key": Fault(
        refused(429, "used up:\nsk-other-****1234", code="insufficient_quota"), Limit, 429, False
    ),
    "451": Fault(refused(451), Denied, 451),
    "498": Fault(refused(498), Limit, 498, True),
    "500": Fault(refused(500), Failed, 500, True),
    "502": Fault(refused(502), Failed, 502, True),
    "502-html": Fault(Reply("<html>Bad Gateway</html>", 502), Failed, 502, True),
    "503": Fault(refused(503), Failed, 503, True),
    "503-seconds": Fault(refused(503, headers={"Retry-After": "7"}), Failed, 503, True, 7.0),
    "504": Fault(refused(504), Late, 504, True),
    "529": Fault(refused(529), Failed, 529, True),
    "late": Fault(Reply(delay_s=60), Late, None, True, params={"timeout": 0.3}),
    "reset": Fault(Reply(drop=True), Cut, None, True),
    "not-http": Fault(Reply(raw=b"hello\r\n\r\n"), Cut, None, True),
    "html": Fault(Reply("<html>Hi</html>"), Broken),
    "broken-json": Fault(Reply("{no json"), Broken),
    "empty": Fault(Reply(""), Broken),
}

IN_AN_ANSWER = {"error": {"message": f"slow down, you said {KEY}", "code": 429}}

WHOLE_FAULTS = {
    "error-200": Fault(Reply(error_body(KEY)), Failed, None, True),
    "error-200-code": Fault(Reply(IN_AN_ANSWER), Limit, None, True),
    "other-json": Fault(Reply({"hello": 1}), Broken),
    "no-choices": Fault(Reply({"id": "1", "choices": []}), Broken),
    "cut": Fault(raw("Content-Length: 99", body=b'{"id":'), Cut, None, True),
    "cut-gzip": Fault(
        raw("Content-Encoding: gzip", body=gzip.compress(json.dumps(PIECE).encode())[:30]), Broken
    ),
    "null": Fault(raw("Content-Length: 4", body=b"null"), Broken),
    "list": Fault(raw("Content-Length: 2", body=b"[]"), Broken),
}


STREAMED_FAULTS = {
    "cut": Fault(Reply(events=[PIECE], cut=True), Cut, None, True),
    "error": Fault(Reply(events=[PIECE, error_body(KEY)]), Failed, None, True),
    "error-text": Fault(Reply(events=[PIECE, {"error": KEY}]), Failed, None, True),
    "error-at-once": Fault(Reply(events=[error_body(KEY)]), Failed, None, True),
    "error-500": Fault(
        Reply(events=[PIECE, {"error": {"message": KEY, "code": 500}}]), Failed, None, True
    ),
    "error-429": Fault(Reply(events=[PIECE, IN_AN_ANSWER]), Limit, None, True),
    "error-context": Fault(
        Reply(events=[PIECE, error_body(KEY, code="context_length_exceeded")]), Long
    ),
    "broken-event": Fault(Reply(events=[PIECE, "data: {no json\n\n"]), Broken),
    "no-events": Fault(Reply(events=[]), Broken),
}


def begun(*deltas: Mapping[str, Any]) -> Reply:
    """Break a stream off after a few pieces of a chat."""
    first = {"role": "assistant", "content": "", "refusal": None}
    return Reply(
        events=[
            CHUNK | {"choices": [{"index": 0, "delta": dict(delta)}]} for delta in (first, *deltas)
        ],
        cut=True,
    )


#: Streams that break off after some of an answer has come, text or not, and one before that.
BEGINNINGS: Final = {
    "a-tool-call": begun(
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "add", "arguments": ""},
                }
            ]
        }
    ),
    "reasoning": begun({"reasoning_content": "Let me see"}),
    "a-refusal": begun({"refusal": "I"}),
    "audio": begun({"audio": {"id": "a", "data": "c291"}}),
    "text": begun({"content": "a"}),
}
NOT_BEGUN: Final = begun()

#: Every fault in every way of asking in which it can happen, by name.
ALL_FAULTS: Final[Mapping[str, tuple[Fault, str]]] = {
    f"{name}-{way}": (fault, way)
    for faults, ways in (
        (FAULTS, (*WHOLE, *STREAMED)),
        (WHOLE_FAULTS, WHOLE),
        (STREAMED_FAULTS, STREAMED),
    )
    for name, fault in faults.items()
    for way in ways
}


async def ask(generator: rg.Generator, way: str) -> None:
    conversation, params = [rg.Message("user", "Hi")], rg.GenerateParams()
    if way == "chat":
        await generator.chat("Hi").run()
    elif way == "text":
        await generator.complete("Hi").run()
    elif way == "streamed chat":
        async with contextlib.aclosing(generator.stream_messages(conversation, params)) as pieces:
            async for _ in pieces:
                pass
    else:
        async with contextlib.aclosing(generator.stream_texts("Hi", params)) as pieces:
            async for _ in pieces:
                pass


def check(raised: error.GenerationError, fault: Fault, provider: str, model: str) -> None:
    assert type(raised) is fault.cls, str(raised)
    assert raised.status == fault.status
    assert raised.retryable is fault.retryable
    assert raised.retry_after == fault.retry_after
    assert (raised.provider, raised.model) == (provider, model)
    assert KEY not in shown(raised)
    copied = pickle.loads(pickle.dumps(raised))
    assert (type(copied), str(copied)) == (type(raised), str(raised))
    assert vars(copied) == vars(raised)
