"""What reaches the endpoint."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import rigging as rg
from rigging.error import BadRequestError, UnsupportedParameterWarning
from tests.support.faults import KEY
from tests.support.openai_server import Reply, error_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from rigging_openai import OpenAIGenerator
    from tests.support.openai_server import OpenAIServer

    Make = Callable[..., OpenAIGenerator]

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}

SAMPLING: dict[str, Any] = {
    "temperature": 0.25,
    "max_tokens": 7,
    "top_k": 5,
    "top_p": 0.5,
    "stop": ["a", "\n\n"],
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "seed": 3,
}
CHAT: dict[str, Any] = {
    **SAMPLING,
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "add"}},
    "parallel_tool_calls": False,
    "modalities": ["text"],
    "audio": {"voice": "alloy", "format": "wav"},
}


def test_a_chat_is_sent_as_it_is(make: Make, server: OpenAIServer) -> None:
    messages = rg.Message.fit_as_list(
        [
            rg.Message("system", "  Be brief.\n"),
            rg.Message("user", ["Hi ", rg.ImagePart.from_url("http://x/y.png")]),
            rg.Message("user", [rg.AudioPart.from_bytes(b"RIFF", transcript="hm")]),
            {
                "role": "assistant",
                "tool_calls": [{"id": "c1", "function": {"name": "add", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
        ]
    )

    asyncio.run(make().chat(messages).run())

    (request,) = server.requests
    assert request.path == "chat/completions"
    assert request.body == {"model": "tiny", "messages": [m.to_openai() for m in messages]}


def test_a_text_is_sent_as_it_is(make: Make, server: OpenAIServer) -> None:
    asyncio.run(make().complete("  Once 🦜\n").run())

    (request,) = server.requests
    assert request.path == "completions"
    assert request.body == {"model": "tiny", "prompt": "  Once 🦜\n"}


def test_every_parameter_of_a_chat_arrives_as_it_is_set(make: Make, server: OpenAIServer) -> None:
    extra = {"logit_bias": {"7": 1}, "logprobs": True, "response_format": {"type": "json_object"}}

    asyncio.run(make().chat("Hi").with_(**CHAT, timeout=30, extra=extra).run())

    (request,) = server.requests
    del request.body["messages"]
    assert request.body == {"model": "tiny", **CHAT, **extra}
    unsent = rg.GenerateParams.model_fields.keys() - request.body.keys()
    assert unsent == {"api_base", "timeout", "extra"}


def test_what_only_chats_take_is_left_out_of_a_text_with_a_warning_once(
    make: Make, server: OpenAIServer
) -> None:
    extra = {"response_format": {"type": "json_object"}, "user": "bob"}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnsupportedParameterWarning)
        asyncio.run(make().complete("Hi").with_(**CHAT, extra=extra).run_many(2))

    names = {*CHAT} - {*SAMPLING} | {"response_format"}
    told = [f"openai!tiny does not take {name!r}: it is left out" for name in sorted(names)]
    assert [str(warning.message) for warning in caught] == told
    for request in server.requests:
        assert request.body == {"model": "tiny", "prompt": "Hi", **SAMPLING, "user": "bob"}


def test_params_are_per_item_and_win_over_the_generators(make: Make, server: OpenAIServer) -> None:
    generator = make(temperature=0.5, max_tokens=9, extra={"user": "bob"})
    params = [rg.GenerateParams(), rg.GenerateParams(temperature=1.0, extra={"user": "eve"})]

    asyncio.run(generator.generate_texts(["0", "1"], params))

    sent = {request.body.pop("prompt"): request.body for request in server.requests}
    assert sent == {
        "0": {"model": "tiny", "temperature": 0.5, "max_tokens": 9, "user": "bob"},
        "1": {"model": "tiny", "temperature": 1.0, "max_tokens": 9, "user": "eve"},
    }


@pytest.mark.parametrize("name", ["stream", "n", "api_key", "messages", "extra_headers"])
def test_what_the_generator_sets_itself_cannot_be_set_by_extra(
    make: Make, server: OpenAIServer, name: str
) -> None:
    with pytest.raises(BadRequestError, match=rf"extra\.{name} cannot be set: "):
        asyncio.run(make().chat("Hi").with_(extra={name: 2}).run())
    assert server.requests == []


def test_what_orjson_declines_is_sent_all_the_same(make: Make, server: OpenAIServer) -> None:
    extra = {"big": 2**70, "lone": "\ud800"}

    asyncio.run(make().chat("Hi").with_(extra=extra).run())

    assert extra.items() <= server.requests[0].body.items()


# -- Where it goes -----------------------------------------------------------------------


def headers_of(server: OpenAIServer) -> dict[str, str]:
    return {name.lower(): value for name, value in server.requests[-1].headers.items()}


def test_one_string_is_enough(server: OpenAIServer) -> None:
    generator = rg.get_generator(f"openai!org/tiny,api_base={server.url},api_key={KEY}")

    chat = asyncio.run(generator.chat("Hi").run())

    assert chat.last.content == "You said: Hi"
    assert chat.generator_id == f"openai!org/tiny,api_base={server.url}"
    assert headers_of(server)["authorization"] == f"Bearer {KEY}"
    assert server.requests[0].body["model"] == "org/tiny"


def test_the_environment_says_where_and_with_which_key(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "OPENAI_BASE_URL": f"{server.url}/",
        "OPENAI_API_KEY": "sk-from-the-environment",
        "OPENAI_ORG_ID": "org-1",
        "OPENAI_PROJECT_ID": "proj-1",
    }.items():
        monkeypatch.setenv(name, value)

    asyncio.run(make(api_base=None, api_key=None).chat("Hi").run())

    headers = headers_of(server)
    assert headers["authorization"] == "Bearer sk-from-the-environment"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj-1")
    assert server.requests[0].path == "chat/completions"


def test_with_an_address_of_its_own_a_generator_tells_it_no_organisation_of_the_environment(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")

    asyncio.run(make().chat("Hi").run())

    assert not headers_of(server).keys() & {"openai-organization", "openai-project"}


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_none_is_sent(make: Make, server: OpenAIServer, key: str | None) -> None:
    asyncio.run(make(api_key=key).chat("Hi").run())

    assert "authorization" not in headers_of(server)


def test_an_empty_key_goes_before_the_environments(
    make: Make, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    asyncio.run(make(api_key="").chat("Hi").run())

    assert "authorization" not in headers_of(server)


def test_fields_become_headers_and_win(make: Make, server: OpenAIServer) -> None:
    headers = {"X-Title": "Mine", "authorization": "Basic abcd"}

    asyncio.run(make(organization="o", project="p", headers=headers).chat("Hi").run())

    sent = headers_of(server)
    assert (sent["openai-organization"], sent["openai-project"]) == ("o", "p")
    assert (sent["x-title"], sent["authorization"]) == ("Mine", "Basic abcd")


def test_the_query_stands_behind_the_address(make: Make, server: OpenAIServer) -> None:
    query = {"api-version": "2024-10-21", "a b": "c&d"}

    asyncio.run(make(api_base=f"{server.url}?region=eu", query=query).chat("Hi").run())

    assert server.requests[0].query == {"region": "eu", **query}
    assert server.requests[0].path == "chat/completions"


def test_what_is_assigned_holds_from_the_next_request_on(make: Make, server: OpenAIServer) -> None:
    generator = make()

    async def both() -> None:
        await generator.chat("Hi").run()
        generator.api_key = "sk-another"
        generator.headers["X-A"] = "b"
        await generator.chat("Hi").run()

    asyncio.run(both())

    assert headers_of(server)["authorization"] == "Bearer sk-another"
    assert headers_of(server)["x-a"] == "b"


def test_a_header_that_becomes_a_query_is_one(make: Make, server: OpenAIServer) -> None:
    generator = make(headers={"X-A": "b"})

    async def both() -> None:
        await generator.chat("Hi").run()
        generator.headers, generator.query = generator.query, generator.headers
        await generator.chat("Hi").run()

    asyncio.run(both())

    assert "x-a" not in headers_of(server)
    assert server.requests[-1].query == {"X-A": "b"}


# -- What the endpoint does not take -----------------------------------------------------

NEWER = error_body(
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    code="unsupported_parameter",
)
NEWER["error"]["param"] = "max_tokens"


def unsupported(name: str, code: str) -> dict[str, Any]:
    body = error_body(f"Unsupported: '{name}'", code=code)
    body["error"]["param"] = name
    return body


async def generate(generator: OpenAIGenerator, way: str, **params: Any) -> Any:
    pipeline = generator.chat("Hi").with_(**params)
    if way == "whole":
        return await pipeline.run()
    *_, chat = [piece async for piece in pipeline.stream()]
    return chat


WAYS = pytest.mark.parametrize("way", ["whole", "streamed"])


@WAYS
def test_newer_models_get_max_completion_tokens_by_what_they_say(
    make: Make, server: OpenAIServer, way: str
) -> None:
    server.prepare(Reply(NEWER, 400))
    generator = make(max_tokens=2)

    chats = [asyncio.run(generate(generator, way)) for _ in range(2)]

    assert [chat.last.text.startswith("You said:") for chat in chats] == [True, True]
    sent = [
        {*request.body} & {"max_tokens", "max_completion_tokens"} for request in server.requests
    ]
    assert sent == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


def test_a_value_that_is_too_large_teaches_nothing(make: Make, server: OpenAIServer) -> None:
    large = "'max_tokens' or 'max_completion_tokens' is too large: 200000."
    server.prepare(Reply(error_body(large), 400))
    generator = make()

    with pytest.raises(BadRequestError, match="too large"):
        asyncio.run(generate(generator, "whole", max_tokens=200_000))
    asyncio.run(generator.complete("Hi").with_(max_tokens=5).run())

    assert len(server.requests) == 2
    assert server.requests[-1].body["max_tokens"] == 5


def test_a_stream_that_has_begun_is_never_sent_again(make: Make, server: OpenAIServer) -> None:
    piece = {"id": "c", "choices": [{"index": 0, "delta": {"content": "A"}}]}
    failing = {"error": {"message": "it broke", "code": 400}}
    server.prepare(Reply(events=[piece, failing], trickle_s=1.0))
    generator = make(max_tokens=2)

    async def main() -> None:
        stream = generator.chat("Hi").stream()
        assert await anext(stream) == "A"
        # Meanwhile another request finds out what the endpoint does not take.
        server.prepare(Reply(NEWER, 400))
        await generate(generator, "whole")
        with pytest.raises(BadRequestError, match="it broke"):
            await anext(stream)

    asyncio.run(main())

    assert len(server.requests) == 3


def test_what_chats_do_not_take_texts_may(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(NEWER, 400))
    generator = make(max_tokens=2)
    asyncio.run(generate(generator, "whole"))

    asyncio.run(generator.complete("Hi").run())

    assert "max_tokens" in server.requests[-1].body


def test_requests_that_were_already_on_their_way_go_again_as_well(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(*[Reply(NEWER, 400, delay_s=0.1)] * 5)

    chats = asyncio.run(make(max_tokens=2, max_connections=5).chat("Hi").run_many(5))

    assert len(chats) == 5
    assert len(server.requests) == 10


def test_what_one_model_does_not_take_another_does(make: Make, server: OpenAIServer) -> None:
    server.prepare(Reply(NEWER, 400))
    generator = make(max_tokens=2)
    asyncio.run(generate(generator, "whole"))

    generator.model = "other"
    asyncio.run(generate(generator, "whole"))

    assert "max_tokens" in server.requests[-1].body


@WAYS
def test_a_parameter_that_is_refused_by_name_is_left_out_with_a_warning_once(
    make: Make, server: OpenAIServer, way: str
) -> None:
    server.prepare(Reply(unsupported("top_p", "unsupported_parameter"), 400))
    generator = make(top_p=0.5, seed=1)

    with pytest.warns(UnsupportedParameterWarning, match="does not take 'top_p'"):
        asyncio.run(generate(generator, way))
    asyncio.run(generate(generator, way, top_p=0.25))  # a warning would be an error

    assert ["top_p" in request.body for request in server.requests] == [True, False, False]
    assert all(request.body["seed"] == 1 for request in server.requests)


def test_a_parameter_that_is_refused_for_its_value_is_sent_with_another(
    make: Make, server: OpenAIServer
) -> None:
    server.prepare(Reply(unsupported("temperature", "unsupported_value"), 400))
    generator = make()

    with pytest.warns(UnsupportedParameterWarning, match="does not take 'temperature'"):
        asyncio.run(generate(generator, "whole", temperature=0.5))
    asyncio.run(generate(generator, "whole", temperature=1.0))

    assert [r.body.get("temperature") for r in server.requests] == [0.5, None, 1.0]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(unsupported("top_k", "unsupported_parameter"), id="not-sent"),
        pytest.param(unsupported("messages", "unsupported_value"), id="messages"),
        pytest.param(unsupported("seed", "invalid"), id="another-code"),
        pytest.param(error_body("'max_tokens' is too large", code="invalid"), id="too-large"),
    ],
)
def test_other_refusals_are_the_callers(
    make: Make, server: OpenAIServer, body: dict[str, Any]
) -> None:
    server.usual = Reply(body, 400)

    with pytest.raises(BadRequestError, match="openai!tiny"):
        asyncio.run(generate(make(seed=1, max_tokens=9), "whole"))
    assert len(server.requests) == 1


def test_a_refusal_that_comes_again_is_the_callers(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(NEWER, 400)

    with pytest.raises(BadRequestError, match="max_completion_tokens"):
        asyncio.run(generate(make(max_tokens=9), "whole"))
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", ["chat", "complete"])
@pytest.mark.parametrize("status", [400, 422])
def test_an_endpoint_that_cannot_report_usage_is_not_asked_to_again(
    make: Make, server: OpenAIServer, kind: str, status: int
) -> None:
    server.prepare(Reply(error_body("unknown field: stream_options"), status))
    generator = make()

    async def twice() -> None:
        for _ in range(2):
            start = generator.chat if kind == "chat" else generator.complete
            assert [piece async for piece in start("Hi").stream()][:-1] == ["You ", "said: ", "Hi"]

    asyncio.run(twice())

    assert ["stream_options" in r.body for r in server.requests] == [True, False, False]


ECHO = {"stream": True, "stream_options": {"include_usage": True}, "messages": []}


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        pytest.param(
            {"detail": [{"loc": ["body", "top_k"], "msg": "no", "input": ECHO}]}, 1, id="fastapi"
        ),
        pytest.param(error_body(f"top_k: no, 'input': {ECHO}"), 2, id="in-words"),
    ],
)
def test_an_endpoint_that_repeats_the_request_is_asked_for_usage_again(
    make: Make, server: OpenAIServer, body: dict[str, Any], sent: int
) -> None:
    server.prepare(*[Reply(body, 422)] * sent)
    generator = make()

    with pytest.raises(BadRequestError, match="top_k"):
        asyncio.run(generate(generator, "streamed"))
    chat = asyncio.run(generate(generator, "streamed"))

    assert len(server.requests) == sent + 1
    assert chat.usage is not None


def test_what_the_caller_asks_for_is_not_taken_back(make: Make, server: OpenAIServer) -> None:
    server.usual = Reply(error_body("unknown field: stream_options"), 400)
    generator = make(extra={"stream_options": {"include_usage": True}})

    with pytest.raises(BadRequestError, match="stream_options"):
        asyncio.run(generate(generator, "streamed"))
    assert len(server.requests) == 1
