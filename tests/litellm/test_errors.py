"""Failures, as they reach the caller: uniform, once, and without a key."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from typing import TYPE_CHECKING

import pytest

import rigging as rg
from rigging import error
from rigging_litellm._errors import to_rigging_error
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]


def refused(status: int, message: str = "refused", *, code: str | None = None) -> Reply:
    return Reply(error_body(message, code=code), status)


TOO_LONG = "This model's maximum context length is 4097 tokens, your messages have 5000"

# What the server does -> class, status, retryable.
CASES = [
    pytest.param(refused(400), error.BadRequestError, 400, False, id="400"),
    pytest.param(refused(400, TOO_LONG), error.ContextLengthError, 400, False, id="context-text"),
    pytest.param(
        refused(400, "no", code="context_length_exceeded"),
        error.ContextLengthError,
        400,
        False,
        id="context-code",
    ),
    pytest.param(
        refused(400, "no", code="content_policy_violation"),
        error.ContentFilterError,
        400,
        False,
        id="content-code",
    ),
    pytest.param(refused(401), error.AuthenticationError, 401, False, id="401"),
    pytest.param(refused(402), error.PermissionDeniedError, 402, False, id="402"),
    pytest.param(refused(403), error.PermissionDeniedError, 403, False, id="403"),
    pytest.param(refused(404), error.ModelNotFoundError, 404, False, id="404"),
    pytest.param(refused(408), error.ProviderTimeoutError, 408, True, id="408"),
    pytest.param(refused(409), error.BadRequestError, 409, False, id="409"),
    pytest.param(refused(413), error.BadRequestError, 413, False, id="413"),
    pytest.param(refused(422), error.BadRequestError, 422, False, id="422"),
    pytest.param(refused(429), error.RateLimitError, 429, True, id="429"),
    pytest.param(refused(500), error.ProviderServerError, 500, True, id="500"),
    pytest.param(refused(502), error.ProviderServerError, 502, True, id="502"),
    pytest.param(refused(503), error.ProviderServerError, 503, True, id="503"),
    pytest.param(refused(504), error.ProviderTimeoutError, 504, True, id="504"),
    pytest.param(Reply(drop=True), error.ProviderConnectionError, None, True, id="reset"),
    pytest.param(Reply("<html>Hi</html>"), error.ResponseError, None, False, id="html"),
    pytest.param(Reply("{no json"), error.ResponseError, None, False, id="broken-json"),
    pytest.param(Reply({"hello": 1}), error.ResponseError, None, False, id="other-json"),
]


@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize(("reply", "cls", "status", "retryable"), CASES)
def test_a_failure_is_ours_and_reached_the_server_once(
    make: Make,
    server: OpenAIServer,
    kind: str,
    reply: Reply,
    cls: type[error.GenerationError],
    status: int | None,
    retryable: bool,
) -> None:
    server.usual = reply
    generator = make()
    start = generator.chat if kind == "chat" else generator.complete

    with pytest.raises(error.GenerationError, match="litellm!openai/tiny") as caught:
        asyncio.run(start("Hi").run())

    assert type(caught.value) is cls
    assert caught.value.status == status
    assert caught.value.retryable is retryable
    assert (caught.value.provider, caught.value.model) == ("litellm", "openai/tiny")
    cause = caught.value.__cause__
    if (reply.body, kind) == ({"hello": 1}, "complete"):
        assert cause is None, "litellm makes an empty text of that, and we the error"
    else:
        assert type(cause).__module__ == "litellm.exceptions"
    assert len(server.requests) == 1


def test_an_answer_that_is_late_is_a_timeout(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(delay_s=5)
    started = time.monotonic()

    with pytest.raises(error.ProviderTimeoutError, match="timed out") as caught:
        asyncio.run(make(timeout=0.3).chat("Hi").run())

    assert time.monotonic() - started < 2
    assert caught.value.retryable
    assert len(server.requests) == 1


def test_an_answer_in_drops_is_a_timeout(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply("x" * 100, trickle_s=0.1)
    started = time.monotonic()

    with pytest.raises(error.ProviderTimeoutError, match="litellm!openai/tiny"):
        asyncio.run(make(timeout=0.3).chat("Hi").run())

    assert time.monotonic() - started < 4


def test_nobody_there_is_a_connection_error(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        base = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(error.ProviderConnectionError, match="Connection error") as caught:
            asyncio.run(make(api_base=base).chat("Hi").run())

    assert caught.value.status is None
    assert caught.value.retryable


def test_a_model_without_a_provider_is_a_bad_request(make: Make, server: OpenAIServer) -> None:
    with pytest.raises(error.BadRequestError, match="LLM Provider NOT provided"):
        asyncio.run(make("tiny").chat("Hi").run())
    assert server.requests == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("7", 7.0, id="seconds"),
        pytest.param(email.utils.formatdate(time.time() + 60, usegmt=True), None, id="date"),
        pytest.param("soon", None, id="nonsense"),
    ],
)
def test_retry_after_is_read(
    make: Make,
    server: OpenAIServer,
    value: str,
    seconds: float | None,
    request: pytest.FixtureRequest,
) -> None:
    server.usual = Reply(error_body("slow down"), 429, {"Retry-After": value})

    with pytest.raises(error.RateLimitError, match="slow down") as caught:
        asyncio.run(make().chat("Hi").run())

    if request.node.callspec.id == "date":
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 61
    else:
        assert caught.value.retry_after == seconds


def test_one_items_failure_is_nobody_elses(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(), refused(400), Reply())
    generator = make(max_connections=1)
    texts = ["one", "two", "three"]

    one, two, three = asyncio.run(generator.generate_texts(texts, [rg.GenerateParams()] * 3))

    assert (str(one), str(three)) == ("You said: one", "You said: three")
    assert isinstance(two, error.BadRequestError)


def test_every_exception_of_litellm_has_a_class_of_its_own() -> None:
    import litellm.exceptions

    for cls in litellm.exceptions.LITELLM_EXCEPTION_TYPES:
        # Without its constructor, since each wants other arguments.
        raised = cls.__new__(cls)
        raised.message = "x"
        raised.num_retries = raised.max_retries = None
        made = to_rigging_error(raised, model="m")
        if cls.__name__ in {"APIError", "OpenAIError"}:  # these say nothing by name
            assert type(made) is error.GenerationError
        else:
            assert type(made) is not error.GenerationError, cls.__name__


def test_a_module_that_litellm_lacks_is_a_missing_dependency() -> None:
    missing = ModuleNotFoundError("No module named 'boto3'", name="boto3")

    made = to_rigging_error(missing, model="bedrock/m")

    assert isinstance(made, error.MissingDependencyError)
    assert made.dependency == "boto3"
    assert "pip install boto3" in str(made)
