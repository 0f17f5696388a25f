"""Failures, as they reach the caller: uniform, once, and without a key."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging import error
from rigging_litellm._errors import to_rigging_error
from tests.support.faults import (
    ALL_FAULTS,
    FAULTS,
    KEY,
    STREAMED,
    TOO_LONG,
    WHOLE,
    WHOLE_FAULTS,
    Bad,
    Broken,
    Cut,
    Denied,
    Failed,
    Fault,
    Late,
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

    from rigging_litellm import LiteLLMGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., LiteLLMGenerator]

# litellm makes no error of what a text's answer of status 200 says of one.
OWN = {
    f"error-200{code}-text": (Fault(ALL_FAULTS[f"error-200{code}-text"][0].reply, Broken), "text")
    for code in ("", "-code")
}

# Where litellm raises nothing, and makes an empty answer of it.
UNNOTICED = {
    *(
        f"{name}-{way}"
        for name in ("html", "broken-json", "empty", "no-events")
        for way in STREAMED
    ),
    *(f"no-choices-{way}" for way in WHOLE),
    *OWN,
    "other-json-text",
}


@pytest.mark.parametrize("name", ALL_FAULTS)
def test_a_fault_is_the_error_of_ours_and_reaches_the_server_once(
    make: Make, server: OpenAIServer, name: str
) -> None:
    fault, way = {**ALL_FAULTS, **OWN}[name]
    server.usual = fault.reply

    with pytest.raises(error.GenerationError, match="litellm!openai/tiny") as caught:
        asyncio.run(ask(make(**fault.params), way))

    check(caught.value, fault, "litellm", "openai/tiny")
    cause = caught.value.__cause__
    if name in UNNOTICED:
        assert cause is None
    else:
        assert type(cause).__module__ == "litellm.exceptions"
    assert len(server.requests) == 1


ANTHROPIC = "anthropic/claude-3-5-sonnet-20240620"
SLOW_DOWN = {"Retry-After": "7"}


def by_anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": f"{message} {KEY}"}}


def by_vllm(status: int, message: str) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": "x", "param": None, "code": status}


def by_gemini(status: int, message: str) -> dict[str, Any]:
    return {"error": {"code": status, "message": message, "status": "X"}}


OTHERS = [
    (ANTHROPIC, by_anthropic("invalid_request_error", "bad"), 400, Bad, False),
    (ANTHROPIC, by_anthropic("invalid_request_error", "prompt is too long: 9"), 400, Long, False),
    (ANTHROPIC, by_anthropic("authentication_error", "no"), 401, error.AuthenticationError, False),
    (ANTHROPIC, by_anthropic("permission_error", "no"), 403, Denied, False),
    (ANTHROPIC, by_anthropic("not_found_error", "no"), 404, Unknown, False),
    (ANTHROPIC, by_anthropic("request_too_large", "no"), 413, Bad, False),
    (ANTHROPIC, by_anthropic("rate_limit_error", "no"), 429, Limit, True),
    (ANTHROPIC, by_anthropic("api_error", "no"), 500, Failed, True),
    (ANTHROPIC, by_anthropic("timeout_error", "no"), 504, Late, True),
    (ANTHROPIC, by_anthropic("overloaded_error", "Overloaded"), 529, Failed, True),
    ("ollama_chat/tiny", {"error": "model 'tiny' not found"}, 404, Unknown, False),
    ("ollama_chat/tiny", {"error": "invalid options"}, 400, Bad, False),
    ("ollama_chat/tiny", {"error": "runner terminated"}, 500, Failed, True),
    ("ollama_chat/tiny", {"error": "server busy"}, 503, Failed, True),
    ("hosted_vllm/tiny", by_vllm(400, TOO_LONG), 400, Long, False),
    ("hosted_vllm/tiny", by_vllm(400, "longer than the maximum model length"), 400, Long, False),
    ("hosted_vllm/tiny", by_vllm(404, "no such model"), 404, Unknown, False),
    ("hosted_vllm/tiny", by_vllm(500, "dead"), 500, Failed, True),
    ("gemini/tiny", by_gemini(400, "no"), 400, Bad, False),
    ("gemini/tiny", by_gemini(403, "no"), 403, Denied, False),
    ("gemini/tiny", by_gemini(429, "no"), 429, Limit, True),
    ("gemini/tiny", by_gemini(503, "overloaded"), 503, Failed, True),
    ("groq/tiny", error_body("long", code="context_length_exceeded"), 400, Long, False),
    ("groq/tiny", error_body("no"), 498, Limit, True),
    ("cohere/tiny", {"message": "no"}, 429, Limit, True),
]


@pytest.mark.filterwarnings("ignore:Items 'name':UserWarning")  # litellm's types of Cohere
@pytest.mark.parametrize("way", ["chat", "streamed chat"])
@pytest.mark.parametrize(
    ("model", "body", "status", "cls", "retryable"),
    [pytest.param(*row, id=f"{row[0]}-{row[2]}") for row in OTHERS],
)
def test_other_providers_refusals_are_the_same_errors(
    make: Make,
    server: OpenAIServer,
    model: str,
    body: dict[str, Any],
    status: int,
    cls: type[error.GenerationError],
    retryable: bool,
    way: str,
) -> None:
    server.usual = Reply(body, status, SLOW_DOWN if retryable else {})
    base = server.url if model.startswith(("hosted_vllm", "groq")) else server.root

    with pytest.raises(error.GenerationError, match=f"litellm!{model}") as caught:
        asyncio.run(ask(make(model, api_base=base), way))

    retry_after = 7.0 if retryable else None
    check(caught.value, Fault(server.usual, cls, status, retryable, retry_after), "litellm", model)
    assert type(caught.value.__cause__).__module__ == "litellm.exceptions"


@pytest.mark.parametrize(
    "model", [ANTHROPIC, "ollama_chat/tiny", "hosted_vllm/tiny", "gemini/tiny", "deepseek/tiny"]
)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(FAULTS["reset"], id="reset"),
        pytest.param(WHOLE_FAULTS["cut"], id="cut"),
        pytest.param(FAULTS["html"], id="html"),
        pytest.param(FAULTS["late"], id="late"),
    ],
)
def test_other_providers_broken_answers_are_the_same_errors(
    make: Make, server: OpenAIServer, model: str, fault: Fault
) -> None:
    server.usual = fault.reply

    with pytest.raises(error.GenerationError, match=f"litellm!{model}") as caught:
        asyncio.run(ask(make(model, api_base=server.root, **fault.params), "chat"))

    check(caught.value, fault, "litellm", model)


def test_an_overload_in_the_middle_of_anthropics_stream_is_a_server_error(
    make: Make, server: OpenAIServer
) -> None:
    start = {"role": "assistant", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    overload = json.dumps(by_anthropic("overloaded_error", "Overloaded"))
    server.usual = Reply(
        events=[
            f"event: message_start\ndata: {json.dumps({'type': 'message_start', 'message': start})}"
            "\n\n",
            f"event: error\ndata: {overload}\n\n",
        ]
    )

    with pytest.raises(error.ProviderServerError, match="Overloaded") as caught:
        asyncio.run(ask(make(ANTHROPIC, api_base=server.root), "streamed chat"))

    check(caught.value, Fault(server.usual, Failed, None, True), "litellm", ANTHROPIC)


# -- What never reaches a server ---------------------------------------------------------


@pytest.mark.parametrize("way", [*WHOLE, *STREAMED])
def test_nobody_there_is_a_connection_error(make: Make, way: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens not
        base = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(error.ProviderConnectionError, match=r"Connection error: .+") as caught:
            asyncio.run(ask(make(api_base=base), way))

    check(caught.value, Fault(Reply(), Cut, None, True), "litellm", "openai/tiny")


@pytest.mark.parametrize("model", ["openai/tiny", ANTHROPIC, "gemini/tiny"])
@pytest.mark.parametrize(
    ("base", "fault", "text"),
    [
        pytest.param(
            "http://nowhere.invalid/v1",
            Fault(Reply(), Cut, None, True),
            "nowhere|Errno",
            id="no-such-host",
        ),
        pytest.param("https://{host}/v1", Fault(Reply(), Cut), "SSL", id="no-tls"),
        pytest.param("{host}/v1", Fault(Reply(), Bad), "/v1", id="no-scheme"),
        pytest.param(
            f"http://user:{KEY}@{{host}}/v1",
            Fault(Reply(), Bad),
            "Cannot combine",
            id="two-credentials",
        ),
    ],
)
def test_an_address_that_leads_nowhere_is_told_from_a_broken_answer(
    make: Make, server: OpenAIServer, model: str, base: str, fault: Fault, text: str
) -> None:
    host = server.root.removeprefix("http://")

    with pytest.raises(error.GenerationError, match=text) as caught:
        asyncio.run(ask(make(model, api_base=base.format(host=host)), "chat"))

    check(caught.value, fault, "litellm", model)
    assert server.requests == []


def test_redirects_in_a_circle_are_no_answer(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply("", 307, {"Location": f"{server.url}/chat/completions"})

    with pytest.raises(error.ResponseError, match="redirects") as caught:
        asyncio.run(ask(make(), "chat"))

    check(caught.value, Fault(server.usual, Broken), "litellm", "openai/tiny")


@pytest.mark.parametrize(
    ("model", "variable", "way"),
    [
        ("openai/tiny", "OPENAI_API_KEY", "chat"),
        ("openai/tiny", "OPENAI_API_KEY", "text"),
        ("openai/tiny", "OPENAI_API_KEY", "streamed chat"),
        ("openai/tiny", "OPENAI_API_KEY", "streamed text"),
        (ANTHROPIC, "ANTHROPIC_API_KEY", "chat"),
        (ANTHROPIC, "ANTHROPIC_API_KEY", "streamed chat"),
        ("gemini/tiny", "GEMINI_API_KEY", "chat"),
        ("gemini/tiny", "GEMINI_API_KEY", "streamed chat"),
    ],
)
def test_a_missing_key_is_an_authentication_error(
    make: Make,
    server: OpenAIServer,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    variable: str,
    way: str,
) -> None:
    for name in (variable, "GOOGLE_API_KEY", "OPENAI_ADMIN_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(error.AuthenticationError, match=variable) as caught:
        asyncio.run(ask(make(model, api_key=None), way))

    check(caught.value, Fault(Reply(), error.AuthenticationError), "litellm", model)
    assert server.requests == []


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        pytest.param(
            "claude-3-haiku-20240307", "write 'anthropic/claude-3-haiku-20240307'", id="family"
        ),
        pytest.param("mistral-large-latest", "write 'mistral/mistral-large-latest'", id="known"),
        pytest.param("tiny", "write '<provider>/tiny'", id="unknown"),
    ],
)
def test_a_model_without_a_provider_is_a_bad_request_that_says_what_to_write(
    make: Make, server: OpenAIServer, model: str, advice: str
) -> None:
    with pytest.raises(error.BadRequestError, match=advice) as caught:
        asyncio.run(ask(make(model), "chat"))

    check(caught.value, Fault(Reply(), Bad), "litellm", model)
    assert server.requests == []


# -- And the rest ------------------------------------------------------------------------


def test_an_answer_in_drops_is_a_timeout(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply("x" * 600, trickle_s=0.1)

    with pytest.raises(error.ProviderTimeoutError, match="litellm!openai/tiny") as caught:
        asyncio.run(ask(make(timeout=0.3), "chat"))

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
        await server.left_by(1)

    asyncio.run(run())


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


@pytest.mark.parametrize("body", [{"error": "boom"}, {"error": {"message": "boom"}}])
def test_an_error_without_a_code_in_an_answer_may_pass(
    make: Make, server: OpenAIServer, body: dict[str, Any]
) -> None:
    server.usual = Reply(body)

    with pytest.raises(error.ProviderServerError, match="litellm!openai/tiny") as caught:
        asyncio.run(make().chat("Hi").run())

    assert caught.value.retryable


@pytest.mark.parametrize("model", ["hosted_vllm/tiny", "mistral/tiny", "deepseek/tiny"])
def test_json_without_choices_is_no_answer(make: Make, server: OpenAIServer, model: str) -> None:
    server.usual = Reply({"hello": 1})

    with pytest.raises(error.ResponseError, match="litellm!"):
        asyncio.run(make(model).chat("Hi").run())


def test_a_key_of_the_environment_that_is_echoed_is_redacted(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.usual = Reply(f"<html>you sent {KEY}</html>")

    with pytest.raises(error.ResponseError, match=r"litellm!") as caught:
        asyncio.run(make(api_key=None).chat("Hi").run())

    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value}"
